"""Data as a Git repository with DVC holds it: which commit a version means, and its folder on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vitruvian.artifact import cache_folder, digest_of
from vitruvian.errors import DataError, SpecError
from vitruvian.spec import Data, is_repository, repository

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Nobody sits there to answer a question for a password, and nobody is told what is fetched.
_QUIETLY: Final = {"GIT_TERMINAL_PROMPT": "0", "DVC_NO_ANALYTICS": "1"}
# A server that takes the connection and says nothing would be waited for without an end.
_IMPATIENTLY: Final = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "30"}
_SSH: Final = "ssh -oBatchMode=yes -oConnectTimeout=10"
_SECONDS_TO_LIST = 60.0
_WHERE: Final = "data.version"


@dataclass(frozen=True)
class _Place:
    """A repository, as Git and DVC take it, and the data's path in it."""

    repository: str
    path: str
    local: bool


def pinned(data: Data) -> Data:
    """Return the data with the commit of today in the place of a version that may move.

    Raises `SpecError` where the source lies in no repository, or the repository has no such version.
    """
    if data.version is None and not is_repository(data.source):
        return data
    place = _place(data)
    return data.model_copy(update={"version": (_resolved if place.local else _resolved_afar)(place, data.version)})


def checkout(data: Data) -> Path:
    """Return the folder with the files of a pinned source; a commit's are fetched once.

    Raises `DataError` where DVC has no such folder or can't reach where its files are kept.
    """
    place, commit = _place(data), data.version
    assert commit is not None
    folder = cache_folder() / "data" / digest_of([place.path, commit])[:32]
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        _get(place, commit, aside / "made", data.source)
        # Somebody else may have fetched the same meanwhile.
        with contextlib.suppress(OSError):
            (aside / "made").rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _get(place: _Place, commit: str, out: Path, source: str) -> None:
    # A program of its own: its hundred libraries have no place beside torch's, and plugins decide where it reaches.
    dvc = shutil.which("dvc") or shutil.which("dvc", path=str(Path(sys.executable).parent))
    if dvc is None:
        hint = "install it with its plugin for where the files are: uv tool install 'dvc[s3]', pipx install 'dvc[s3]'"
        raise SpecError("needs the program dvc, which isn't installed", where=_WHERE, hint=hint)
    done = _run([dvc, "get", "--rev", commit, "--out", str(out), "--", place.repository, place.path])
    if done.returncode:
        what = f"dvc can't get '{place.path}' of commit {commit[:12]} ({_told(done)})"
        raise DataError(what, where=source, hint="check the path, and with 'dvc get' that its files were pushed")
    if not out.is_dir():
        raise DataError(f"'{place.path}' of commit {commit[:12]} is a file", where=source, hint="name a folder")


def _place(data: Data) -> _Place:
    if is_repository(data.source):
        return _Place(*repository(data.source), local=False)
    folder = Path(data.source.removeprefix("file://")).expanduser().absolute()
    # What a version has need not be checked out now.
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    done = _run(["git", "-C", str(there), "rev-parse", "--show-toplevel"])
    root = Path(done.stdout.strip())
    if done.returncode or folder.resolve() == root.resolve():
        hint = "name a folder inside of one, or git+https://HOST/REPOSITORY.git#subdirectory=FOLDER; or remove it"
        told = f" ({_told(done)})" if done.returncode else ""
        raise SpecError(f"{data.source} is no folder in a Git repository{told}", where=_WHERE, hint=hint)
    return _Place(str(root), str(folder.resolve().relative_to(root.resolve())), local=True)


def _resolved(place: _Place, version: str | None) -> str:
    done = _run(["git", "-C", place.repository, "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}"])
    if done.returncode:
        raise _unknown(place, version, "check 'git tag' and 'git branch', or run 'git fetch --tags' there")
    return done.stdout.strip()


def _resolved_afar(place: _Place, version: str | None) -> str:
    if version is not None and _COMMIT.fullmatch(version):
        return version
    # A tag comes before a branch, as in Git; what an annotated tag points at before the tag.
    names = [f"refs/tags/{version}^{{}}", f"refs/tags/{version}", f"refs/heads/{version}"] if version else ["HEAD"]
    hint = "check the address, the network and Git's credentials"
    try:
        done = _run(["git", "ls-remote", place.repository, *names], _SECONDS_TO_LIST, _over_ssh())
    except subprocess.TimeoutExpired as e:
        what = f"Git can't read {place.repository} (no answer within {_SECONDS_TO_LIST:g} s)"
        raise DataError(what, where="data.source", hint=hint) from e
    if done.returncode:
        raise DataError(f"Git can't read {place.repository} ({_told(done)})", where="data.source", hint=hint)
    commits = {name: commit for commit, _, name in (line.partition("\t") for line in done.stdout.splitlines())}
    for name in names:
        if name in commits:
            return commits[name]
    if version is None:
        what, hint = f"{place.repository} has no commit yet", "push one, or name another branch in data.version"
        raise SpecError(what, where="data.source", hint=hint)
    raise _unknown(place, version, "write a tag, a branch or a whole commit")


def _unknown(place: _Place, version: str | None, hint: str) -> SpecError:
    return SpecError(f"there is no tag, branch or commit '{version}' in {place.repository}", where=_WHERE, hint=hint)


def _told(done: subprocess.CompletedProcess[str]) -> str:
    """Return what Git or DVC says of why it failed."""
    said = (re.match(r"(?:fatal|ERROR): (.*)", line) for line in done.stderr.splitlines())
    return next((found[1] for found in said if found), f"exit code {done.returncode}")


def _over_ssh() -> dict[str, str]:
    """Return what has SSH ask nobody and wait for nobody, where the user hasn't said how SSH is called."""
    told = {"GIT_SSH", "GIT_SSH_COMMAND"} & os.environ.keys() or _run(["git", "config", "core.sshCommand"]).stdout
    return {} if told else {"GIT_SSH_COMMAND": _SSH}


def _run(
    command: Sequence[str], seconds: float | None = None, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = {**_IMPATIENTLY, **os.environ, **_QUIETLY, **(more or {})}
    try:
        return subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except FileNotFoundError as e:
        raise SpecError(
            f"needs the program {command[0]}, which isn't installed", where=_WHERE, hint="install it"
        ) from e
