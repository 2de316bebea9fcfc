"""Committing a folder to a store so that it is there whole or not at all, and getting it back verified."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitruvian.errors import ArtifactError, NotFound
from vitruvian.store import Store, explained

MANIFEST = "manifest.json"


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
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ArtifactError("is not a manifest", where=where, hint="publish or fetch the artifact again") from e
        for name in files:
            if name.startswith("/") or ".." in name.split("/"):
                raise ArtifactError(f"names a file outside the artifact: '{name}'", where=where, hint="don't use it")
        return cls(files, about)


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def describe(path: Path) -> File:
    """Return the size and digest of a file."""
    with open(path, "rb") as file:
        return File(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


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

    `advance` is told the bytes written; with `once`, raises `Conflict` where the prefix holds an artifact already.
    """
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != manifest
    }
    written = Manifest({name: describe(path) for name, path in paths.items()}, about or {})
    below = store.at(prefix)

    def upload(name: str) -> None:
        below.upload(name, paths[name])
        advance(written.files[name].size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, paths))
    below.put(manifest, written.to_json(), if_absent=once)
    return written


def read_manifest(store: Store, prefix: str = "", manifest: str = MANIFEST) -> Manifest | None:
    """Return an artifact's manifest; None where there is no complete artifact."""
    key = f"{prefix}/{manifest}" if prefix else manifest
    try:
        return Manifest.from_json(store.get(key), store.address(key))
    except NotFound:
        return None


def fetch(store: Store, prefix: str, cache: Path | None = None, *, manifest: str = MANIFEST) -> Path:
    """Return a local folder with the artifact's files, every one checked against the manifest.

    An artifact in a folder store is used where it lies; any other is copied below `cache`.
    Raises `ArtifactError` with the name of the file that is missing or differs.
    """
    below = store.at(prefix) if prefix else store
    listed = read_manifest(below, manifest=manifest)
    if listed is None:
        raise ArtifactError("there is no complete artifact here", where=below.url, hint="check the address")
    here = below.local()
    if here is None:
        here = (cache or cache_folder()) / listed.digest[:32]

    def bring(name: str) -> None:
        path = here / name
        if below.local() is None and not _matches(path, listed.files[name]):
            try:
                below.download(name, path)
            except NotFound as e:
                raise _differs(name, below) from e
        if not _matches(path, listed.files[name]):
            raise _differs(name, below)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bring, listed.files))
    if below.local() is None:
        try:
            (here / manifest).write_bytes(listed.to_json())
        except OSError as e:
            raise explained(e, here) from e
    return here


def cache_folder() -> Path:
    """Return where copies of artifacts from other machines are kept."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "vitruvian"


def _matches(path: Path, file: File) -> bool:
    try:
        return path.stat().st_size == file.size and describe(path) == file
    except FileNotFoundError:
        return False
    except OSError as e:
        raise explained(e, path) from e


def _differs(name: str, store: Store) -> ArtifactError:
    return ArtifactError(
        "is missing or differs from its checksum",
        where=store.address(name),
        hint="don't use it; make or fetch it again",
    )


def remove(store: Store, prefix: str, *, manifest: str = MANIFEST) -> None:
    """Delete an artifact, its manifest first, so that a half deleted one is none."""
    store.delete(f"{prefix}/{manifest}")
    for entry in list(store.list(f"{prefix}/")):
        store.delete(entry.key)
