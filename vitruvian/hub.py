"""A bundle on the Hugging Face hub: one commit holds all of its files."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vitruvian.artifact import Manifest
from vitruvian.bundle import CHECKSUMS, Bundle
from vitruvian.errors import ArtifactError, Conflict, NoCredentials, StoreError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo

MAIN = "main"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_LOGIN = "run 'hf auth login', or set HF_TOKEN to a token that may write (huggingface.co/settings/tokens)"


@dataclass(frozen=True)
class Pushed:
    """Where a bundle is on the hub."""

    url: str
    commit: str
    changed: bool
    """Whether the hub hadn't just this already."""


def check_repository(name: str) -> str:
    """Return the name of a repository of the hub where it is one; raises `StoreError`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not _REPOSITORY.fullmatch(name):
        raise StoreError("is not the name of a repository", where=name, hint="write OWNER/NAME, such as studio/yoga")
    try:
        validate_repo_id(name)
    except HFValidationError as e:
        what = f"is not the name of a repository ({str(e).partition(':')[0].rstrip('.')})"
        raise StoreError(what, where=name, hint="write OWNER/NAME, such as studio/yoga") from e
    return name


def push(bundle: Bundle, repository: str, *, private: bool = False, branch: str = MAIN) -> Pushed:
    """Commit a bundle's files to a model repository, which is made where there is none.

    What the bundle that is there had and this one hasn't is removed; all other files stay. Raises `StoreError` where
    the hub can't be reached or refuses, `Conflict` where somebody else commits meanwhile.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
    from huggingface_hub.utils import disable_progress_bars

    # It would tell of each try, and warn of an empty commit; what is told here says both.
    getLogger("huggingface_hub").setLevel(ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()
    where = f"{urlsplit(constants.ENDPOINT).netloc}/{check_repository(repository)}"
    if constants.HF_HUB_OFFLINE:
        hint = "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE"
        raise StoreError("the hub may not be asked: it is set to offline", where=where, hint=hint)
    if get_token() is None:
        raise NoCredentials("there is no token for the hub", where=where, hint=_LOGIN)
    api = HfApi()
    listed = Manifest.from_json((bundle.folder / CHECKSUMS).read_bytes(), str(bundle.folder))
    files = {*listed.files, CHECKSUMS}
    with _explained(where):
        # Of what is there already it says nothing about who may see it.
        api.create_repo(repository, private=private or None, exist_ok=True)
        if branch != MAIN:
            api.create_branch(repository, branch=branch, exist_ok=True)
        before = api.model_info(repository, revision=branch)
        if private and before.private is False:
            hint = "make it private in its settings on the hub, or leave out --private"
            raise StoreError("is a public repository", where=where, hint=hint)
        gone = sorted(_of_bundle(before) - files)
        commit = api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, bundle.folder / name) for name in sorted(files)),
                *(CommitOperationDelete(name, is_folder=False) for name in gone),
            ],
            commit_message=f"{bundle.info.name} version {bundle.info.version}",
            revision=branch,
            parent_commit=before.sha,
        )
    below = "" if branch == MAIN else f"/tree/{branch}"
    return Pushed(f"{constants.ENDPOINT}/{repository}{below}", commit.oid, commit.oid != before.sha)


def _of_bundle(there: ModelInfo) -> set[str]:
    """Return the files of the bundle that a repository holds."""
    from huggingface_hub import hf_hub_download

    present = {file.rfilename for file in there.siblings or []}
    if CHECKSUMS not in present:
        return set()
    content = Path(hf_hub_download(there.id, CHECKSUMS, revision=there.sha)).read_bytes()
    # Somebody else's file of this name.
    with suppress(ArtifactError):
        return present & Manifest.from_json(content, there.id).files.keys()
    return set()


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Say in one line what the hub's errors mean for the user."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        with warnings.catch_warnings():
            # What it would like to read in a model card.
            warnings.simplefilter("ignore")
            yield
    except HfHubHTTPError as e:
        raise _refused(e, where) from e
    except (HTTPError, ConnectionError) as e:
        hint = "check the network, HTTPS_PROXY and HF_ENDPOINT"
        raise StoreError(f"the hub can't be reached ({type(e).__name__})", where=where, hint=hint) from e
    except (ValueError, RuntimeError) as e:
        # A card that it refuses, or an upload that broke off.
        lines = [line.strip(" -") for line in str(e).splitlines()]
        what = f"the hub didn't take it ({' '.join(filter(None, lines))})"
        raise StoreError(what, where=where, hint="run the command again") from e


def _refused(error: HfHubHTTPError, where: str) -> StoreError:
    status = error.response.status_code
    said = " ".join((error.server_message or f"HTTP {status}").split())
    owner = where.split("/")[1]
    if status == 401:
        return NoCredentials(f"the hub doesn't know this token ({said})", where=where, hint=_LOGIN)
    if status in (403, 404):
        hint = f"check that there is an owner '{owner}', and that the token may write there"
        return StoreError(f"the hub doesn't let this token write here ({said})", where=where, hint=hint)
    if status == 412:
        hint = "run the command again to commit on top of it"
        return Conflict("somebody else has committed meanwhile", where=where, hint=hint)
    if status == 429 or status >= 500:
        return StoreError(f"the hub can't do it now ({said})", where=where, hint="run the command again later")
    return StoreError(f"the hub refuses ({said})", where=where, hint="check the repository's name and --revision")
