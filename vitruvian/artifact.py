"""Committing a folder to a store so that it is there whole or not at all, and getting it back verified."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitruvian.errors import ArtifactError, Conflict, NotFound, StoreError
from vitruvian.store import FolderStore, Store, check_key, explained

MANIFEST = "manifest.json"
_AT_ONCE = 8
_DISTRUST = "don't use it; make or fetch it again"


@dataclass(frozen=True)
class File:
    """Size in bytes and SHA-256 of one file of an artifact."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact holds; it is written last, so an artifact without one doesn't exist."""

    files: Mapping[str, File]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Identify the content: the SHA-256 over names and digests of all files."""
        return digest_of({name: file.sha256 for name, file in self.files.items()})

    def to_json(self) -> bytes:
        files = {name: {"size": file.size, "sha256": file.sha256} for name, file in sorted(self.files.items())}
        return json.dumps({**self.about, "files": files}, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Manifest:
        try:
            about = json.loads(content)
            files = {name: File(int(f["size"]), str(f["sha256"])) for name, f in about.pop("files").items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
            raise ArtifactError("is not a manifest", where=where, hint="publish or fetch the artifact again") from e
        for name in files:
            try:
                check_key(name)
            except StoreError as e:
                raise ArtifactError(f"names a file outside the artifact: '{name}'", where=where, hint=_DISTRUST) from e
        return cls(files, about)


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def describe(path: Path) -> File:
    """Return the size and digest of a file; raises `StoreError` where it can't be read."""
    try:
        with open(path, "rb") as file:
            return File(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as e:
        raise explained(e, path) from e


def commit(
    store: Store,
    prefix: str,
    folder: Path,
    about: Mapping[str, Any] | None = None,
    *,
    manifest: str = MANIFEST,
    once: bool = False,
    advance: Callable[[int], None] = lambda size: None,
) -> Manifest:
    """Write a folder's files below a prefix, the manifest last.

    Until then there is no artifact, whatever was there before; files that the new manifest doesn't name don't matter.
    `advance` is told the bytes written. With `once`, raises `Conflict` where the prefix holds an artifact already; two
    who commit different content at the same moment need prefixes of their own.
    """
    below = store.at(prefix)
    if once and below.tag(manifest) is not None:
        raise Conflict("is there already", where=below.address(manifest))
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / manifest
    }
    written = Manifest({name: describe(path) for name, path in paths.items()}, about or {})
    if not once:
        # A reader must not take the former manifest for that of the new files.
        below.delete(manifest)

    def upload(name: str) -> None:
        below.upload(name, paths[name])
        advance(written.files[name].size)

    _for_each(upload, paths)
    below.put(manifest, written.to_json(), if_absent=once)
    return written


def read_manifest(store: Store, prefix: str = "", manifest: str = MANIFEST) -> Manifest | None:
    """Return an artifact's manifest; None where there is no complete artifact."""
    key = f"{prefix}/{manifest}" if prefix else manifest
    try:
        return Manifest.from_json(store.get(key), store.address(key))
    except NotFound:
        return None


def fetch(
    store: Store, prefix: str, cache: Path | None = None, *, into: Path | None = None, manifest: str = MANIFEST
) -> Path:
    """Return a local folder with the artifact's files, every one checked against the manifest.

    An artifact in a folder store is used where it lies; any other is copied below `cache`. With `into` it is copied
    to just this folder.
    Raises `ArtifactError` with the name of the file that is missing, differs, or is a link to outside the artifact.
    """
    below = store.at(prefix) if prefix else store
    listed = read_manifest(below, manifest=manifest)
    if listed is None:
        raise ArtifactError("there is no complete artifact here", where=below.url, hint="check the address")
    origin = below.local()
    local = None if into else origin
    content = listed.to_json()
    folder = into or local or (cache or cache_folder()) / hashlib.sha256(content).hexdigest()[:32]

    def bring(name: str) -> None:
        if origin is not None and not _lies_in(origin, name):
            raise ArtifactError("is a link to outside the artifact", where=below.address(name), hint=_DISTRUST)
        if local is None and _fault(folder / name, listed.files[name]):
            with contextlib.suppress(NotFound):
                below.download(name, folder / name)
        fault = _fault(folder / name, listed.files[name])
        if fault:
            raise ArtifactError(fault, where=below.address(name), hint=_DISTRUST)

    _for_each(bring, listed.files)
    if local is None:
        FolderStore(folder).put(manifest, content)
    return folder


def cache_folder() -> Path:
    """Return where copies of artifacts from other machines are kept."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "vitruvian"


def _lies_in(folder: Path, name: str) -> bool:
    """Return whether a file lies in a folder, links followed; the folder itself may be reached through some."""
    # Unlike a path's `resolve`, this bears links to themselves.
    return Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))


def _fault(path: Path, file: File) -> str | None:
    """Return what is wrong with a file's content; None where nothing is."""
    if not os.path.isfile(path):
        return "is missing"
    return None if describe(path) == file else "differs from its checksum"


def _for_each(act: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # The first error ends it: what hasn't begun by then doesn't.
        for _ in pool.map(act, names):
            pass


def remove(store: Store, prefix: str, *, manifest: str = MANIFEST) -> None:
    """Delete an artifact, its manifest first, so that a half deleted one is none."""
    store.delete(f"{prefix}/{manifest}")
    for entry in list(store.list(f"{prefix}/")):
        store.delete(entry.key)
