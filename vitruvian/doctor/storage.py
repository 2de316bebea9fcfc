"""Whether this machine may use the classifier's data and artifacts."""

from __future__ import annotations

import secrets
from itertools import islice
from typing import Final

from vitruvian.doctor.finding import Check, Finding, error, ok, warning
from vitruvian.errors import Conflict, NoCredentials, StoreError
from vitruvian.spec import Classifier, is_repository
from vitruvian.store import Store, open_store
from vitruvian.synthetic import is_synthetic

SECTION: Final = "S3, from this machine"


def checks(classifier: Classifier) -> list[Check]:
    """Return the looks at what a classifier reads and writes."""
    source, artifacts = classifier.spec.data.source, classifier.artifacts
    return [
        Check(SECTION, "data", lambda: data(source), late=error),
        Check(SECTION, "artifacts", lambda: writable(artifacts), late=error),
    ]


def data(address: str) -> Finding:
    """Judge whether the data can be listed."""
    if is_synthetic(address):
        return ok("data", f"{address} needs no store")
    if not address.startswith("s3://"):
        return _local("data", address, "spec.data.source")
    try:
        # A bucket may hold millions of keys: the first page tells enough.
        first = list(islice(open_store(address).list(), 1))
    except NoCredentials as e:
        return _not_seen("data", address, e)
    except StoreError as e:
        return error("data", f"{address}: {e.what}", e.hint or "")
    if not first:
        return error("data", f"{address} holds nothing", "copy it there:", f"aws s3 sync FOLDER {address}")
    return ok("data", f"{address} can be listed")


def writable(address: str) -> Finding:
    """Judge whether artifacts can be written, read, removed, and that of two writers of one key only one wins."""
    if not address.startswith("s3://"):
        return _local("artifacts", address, "spec.artifacts")
    try:
        return _tried(address, open_store(address))
    except NoCredentials as e:
        return _not_seen("artifacts", address, e)
    except StoreError as e:
        return error("artifacts", f"{address}: {e.what}", e.hint or "")


def _tried(address: str, store: Store) -> Finding:
    next(store.list(), None)
    key = f"doctor-{secrets.token_hex(6)}"
    content = b"written by vitruvian doctor, who removes it at once"
    tag = store.put(key, content, if_absent=True)
    try:
        if store.get(key) != content:
            return error("artifacts", f"{address}: what is read isn't what was written", "use another S3 server")
        ignored = [
            condition
            for condition, refused in (
                ("If-None-Match", _refuses(store, key, if_absent=True)),
                ("If-Match", _refuses(store, key, if_match=f"{tag[:-3]}00{tag[-1:]}")),
            )
            if not refused
        ]
    finally:
        store.delete(key)
    if ignored:
        found = f"{address}: the S3 server ignores {' and '.join(ignored)}, so two runs could overwrite each other"
        return error("artifacts", found, "use S3, or a newer version of this server: conditional writes are needed")
    return ok("artifacts", f"{address} can be listed, written, read and removed; conditional writes hold")


def _refuses(store: Store, key: str, *, if_absent: bool = False, if_match: str | None = None) -> bool:
    try:
        store.put(key, b"must not be written", if_absent=if_absent, if_match=if_match)
    except Conflict:
        return True
    return False


def _not_seen(name: str, address: str, problem: NoCredentials) -> Finding:
    # Pods have credentials of their own: 'submit' and 'deploy --version' need none here.
    return warning(name, f"{address} can't be seen from here: {problem.what}", problem.hint or "")


def _local(name: str, address: str, field: str) -> Finding:
    what = "is fetched with dvc" if is_repository(address) else "is a folder of this machine"
    found = f"{address} {what}: fine for 'vitruvian run', out of reach for pods"
    return warning(name, found, f"for 'vitruvian submit' set {field} to s3://BUCKET/PREFIX")
