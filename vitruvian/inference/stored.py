"""Files to predict that lie in a store: which those are, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from vitruvian.errors import DataError, NotFound, StoreError
from vitruvian.store import Entry, Store, check_key


def suitable(source: Store, suffixes: Sequence[str]) -> list[Entry]:
    """Return a store's files with these suffixes, in order, but those that are hidden.

    Raises `DataError` where there is none.
    """
    local = source.local()
    if local is not None and not local.is_dir():
        what = "is not a folder" if local.exists() else "there is no such folder"
        raise DataError(what, where=local, hint="give a folder or s3://BUCKET/PREFIX")
    found = [entry for entry in source.list() if _fits(entry.key, suffixes)]
    if not found:
        what = f"holds no file that ends in {', '.join(suffixes)}"
        raise DataError(what, where=source.url, hint="give a folder or prefix with such files")
    return found


def read(source: Store, key: str) -> bytes | DataError:
    """Return a file's content, or why this one can't be read.

    Raises `StoreError` where the store is at fault: then the same may be asked for again later.
    """
    where = source.address(key)
    try:
        check_key(key)
    except StoreError as e:
        return DataError("its name can't be a key", where=where, hint=e.hint)
    try:
        return source.get(key)
    except NotFound:
        return DataError("was removed meanwhile", where=where, hint="put it back, or leave it out")
    except StoreError as e:
        if isinstance(e.__cause__, PermissionError):
            return DataError(e.what, where=where, hint=e.hint)
        raise


def within(inner: Store, outer: Store) -> bool:
    """Return whether one store lies in another, or is the same."""
    return f"{_place(inner)}/".startswith(f"{_place(outer)}/")


def _place(store: Store) -> str:
    local = store.local()
    return store.url if local is None else str(local.resolve()).rstrip("/")


def _fits(key: str, suffixes: Sequence[str]) -> bool:
    path = PurePosixPath(key)
    return path.suffix.lower() in suffixes and not any(part.startswith(".") for part in path.parts)
