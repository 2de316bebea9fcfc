"""API keys: made once, kept as digests, read again when their file changes.

A key is 32 random bytes: nobody finds it from its SHA-256. A slow hash, which is for what people think of, would only
cost each request.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import indent
from typing import Final

from vitruvian.errors import SpecError
from vitruvian.inference.access.policy import Key, read_keys
from vitruvian.spec import dump

_log = logging.getLogger(__name__)
PREFIX: Final = "vtv_"
"""What keys begin with, so that who looks for lost secrets finds them."""
_SECONDS_BETWEEN_LOOKS = 1.0
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")


def new_key() -> tuple[str, str]:
    """Return a new key and its digest."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, digest_of(key)


def digest_of(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def entry_of(name: str, digest: str) -> str:
    """Return the line that a file of keys has for a key."""
    return dump([{"name": name, "sha256": digest}])


def add(path: Path, name: str, digest: str) -> None:
    """Add a key to a file of keys, which is made where there is none; raises `SpecError`, and then leaves it as it is.

    What else the file holds, comments included, stays.
    """
    if not _NAME.fullmatch(name):
        hint = "take letters, digits, '.', '_' and '-', 100 at most"
        raise SpecError(f"{name[:100]!r} can't be a key's name", where=path, hint=hint)
    line = entry_of(name, digest)
    there = path.exists()
    text = path.read_text(encoding="utf-8") if there else "keys:\n"
    if there and any(key.name == name for key in read_keys(path)):
        raise SpecError(f"a key of this name is there: '{name}'", where=path, hint="choose another name")
    indents = re.findall(r"^( *)- ", text, re.MULTILINE)
    text = f"{text.rstrip()}\n{indent(line, indents[-1] if indents else '')}"
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        if there:
            shutil.copymode(path, aside)
        try:
            read_keys(Path(aside))
        except SpecError as e:
            why = str(e).splitlines()[0].replace(aside, str(path))
            raise SpecError(f"can't be added to ({why})", where=path, hint=f"add it yourself: {line.strip()}") from e
        os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Read:
    changed: tuple[int, int, int]
    keys: dict[str, Key]


class KeyRing:
    """The keys of a file, as it is now; a file that became unreadable leaves them as they were."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = self._load()
        self._looked = time.monotonic()

    def find(self, key: str) -> Key | None:
        """Return the entry of a key; None for one that isn't known, or has expired."""
        self._look()
        digest = digest_of(key)
        found = self._now.keys.get(digest)
        # Found by its digest, of which a caller chooses no part; compared in constant time all the same.
        if found is None or not hmac.compare_digest(found.sha256, digest):
            _log.info("an unknown key was refused")
            return None
        if found.expires is not None and found.expires.astimezone(UTC) < datetime.now(UTC):
            _log.warning("the key '%s' was refused: it expired on %s", found.name, found.expires)
            return None
        return found

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        try:
            if self._changed() != self._now.changed:
                self._now = self._load()
                _log.info("%d keys were read again", len(self._now.keys))
        except (SpecError, OSError) as e:
            _log.error("the keys stay as they were: %s", e)

    def _changed(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _load(self) -> _Read:
        changed = self._changed() if self._path.exists() else (0, 0, 0)
        return _Read(changed, {key.sha256: key for key in read_keys(self._path)})
