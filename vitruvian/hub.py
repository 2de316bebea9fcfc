"""A bundle on the Hugging Face hub: one commit holds all of its files."""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging import ERROR, getLogger
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vitruvian.artifact import Manifest
from vitruvian.bundle import CHECKSUMS, Bundle
from vitruvian.errors import MISUNDERSTOOD, ArtifactError, Conflict, NoCredentials, StoreError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo

MAIN = "main"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_SECONDS_OF_SILENCE = 30.0
# How the messages of `ValueError`s begin that tell what the hub says of the files.
_JUDGED = ("Invalid metadata", "LFS batch API returned errors")
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

    _end_silence()
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


def _end_silence() -> None:
    """Have huggingface_hub, which would wait for ever, give up a hub that says nothing."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.utils import set_client_factory
    from huggingface_hub.utils._http import hf_request_event_hook

    class Impatient(httpx2.Client):
        def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
            # Here, as some of its calls ask for no timeout at all, and some for a shorter one.
            asked = request.extensions["timeout"]
            request.extensions["timeout"] = {part: min(asked[part] or math.inf, _SECONDS_OF_SILENCE) for part in asked}
            try:
                return super().send(request, **how)
            except httpx2.TimeoutException as e:
                # What is httpx's it would try five times more.
                raise TimeoutError(f"nothing was heard for {_SECONDS_OF_SILENCE:g} s") from e

    hooks = {"request": [hf_request_event_hook]}
    set_client_factory(lambda: Impatient(event_hooks=hooks, follow_redirects=True, timeout=_SECONDS_OF_SILENCE))
    # The hub's way of chunks goes around this client, and waits for minutes.
    constants.HF_HUB_DISABLE_XET = True


def _of_bundle(there: ModelInfo) -> set[str]:
    """Return the files of the bundle that a repository holds."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    present = {file.rfilename for file in there.siblings or []}
    if CHECKSUMS not in present:
        return set()
    answer = get_session().get(hf_hub_url(there.id, CHECKSUMS, revision=there.sha), headers=build_hf_headers())
    hf_raise_for_status(answer)
    # Somebody else's file of this name.
    with suppress(ArtifactError):
        return present & Manifest.from_json(answer.content, there.id).files.keys()
    return set()


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Say in one line what the hub's errors mean for the user."""
    from huggingface_hub.errors import HTTPError

    try:
        with warnings.catch_warnings():
            # What it would like to read in a model card.
            warnings.simplefilter("ignore")
            yield
    except (HTTPError, ConnectionError, TimeoutError, RuntimeError, *MISUNDERSTOOD) as e:
        raise _meant(e, where) from e


def _meant(error: BaseException, where: str) -> StoreError:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if isinstance(error, HfHubHTTPError):
        return _refused(error, where)
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        why = str(error) if isinstance(error, TimeoutError) else type(error).__name__
        hint = "check the network, HTTPS_PROXY and HF_ENDPOINT"
        return StoreError(f"the hub can't be reached ({why})", where=where, hint=hint)
    if isinstance(error, MISUNDERSTOOD) and not str(error).startswith(_JUDGED):
        return StoreError("what answers there is no hub", where=where, hint="check HF_ENDPOINT")
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        # An upload that broke off.
        return _meant(error.__cause__, where)
    return _not_taken(error, where)


def _not_taken(error: BaseException, where: str) -> StoreError:
    lines = [line.strip(" -") for line in str(error).splitlines()]
    what = f"the hub didn't take it ({' '.join(filter(None, lines))})"
    return StoreError(what, where=where, hint="run the command again")


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
