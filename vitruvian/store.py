"""Where artifacts live: a folder or an S3 prefix behind one interface."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from vitruvian.errors import Conflict, NotFound, StoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_ASIDE = ".incomplete"
_ATTEMPTS = 5


@dataclass(frozen=True)
class Entry:
    """One key of a store with its size in bytes, and a tag that changes when the content is written again."""

    key: str
    size: int
    tag: str


class Store(ABC):
    """Keys and bytes; a write is visible only when it is complete.

    Every method raises `StoreError` with the key's full address where the store can't be reached or refuses.
    """

    url: str

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return the bytes of a key; raises `NotFound`."""

    @abstractmethod
    def put(self, key: str, content: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a key and return its new tag; raises `Conflict` where the condition doesn't hold."""

    @abstractmethod
    def tag(self, key: str) -> str | None:
        """Return what identifies the key's present content, for `if_match`; None where there is no such key."""

    @abstractmethod
    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size to a key."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Write a key to a file, whole or not at all; raises `NotFound`."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the complete keys that begin with a prefix, in order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key; removing what isn't there is no error."""

    @abstractmethod
    def at(self, prefix: str) -> Store:
        """Return the store below a prefix."""

    @abstractmethod
    def local(self, key: str = "") -> Path | None:
        """Return where a key or prefix lies on this machine's disk; None where it doesn't."""

    def address(self, key: str = "") -> str:
        """Return the full address of a key, as people write it."""
        return f"{self.url.rstrip('/')}/{key}" if key else self.url


def open_store(url: str | Path) -> Store:
    """Return the store at a folder's path, a `file://` or an `s3://bucket/prefix` address."""
    text = str(url)
    scheme, _, rest = text.partition("://")
    if not rest:
        return FolderStore(Path(text))
    if scheme == "file":
        return FolderStore(Path(unquote(rest)))
    if scheme == "s3":
        parts = urlsplit(text)
        return S3Store(parts.netloc, parts.path.strip("/"))
    raise StoreError(f"unknown kind of store '{scheme}://'", where=text, hint="use a folder, file:// or s3://")


def check_key(key: str) -> str:
    """Return the key where it is one that means the same in a folder and in S3; raises `StoreError`."""
    parts = key.split("/")
    if not key or any(part in ("", ".", "..", _ASIDE) for part in parts) or "\\" in key or "\0" in key:
        raise StoreError(f"not a valid key: '{key}'", hint="use names joined by single slashes, without '.' or '..'")
    return key


class FolderStore(Store):
    """A folder; writes go aside first and are moved into place."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = f"file://{self.root}"

    def get(self, key: str) -> bytes:
        with self._explained(key):
            return self._path(key).read_bytes()

    def put(self, key: str, content: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        def fill(aside: Path) -> None:
            aside.write_bytes(content)

        self._replace(key, fill, if_absent=if_absent, if_match=if_match)
        return hashlib.sha256(content).hexdigest()

    def tag(self, key: str) -> str | None:
        try:
            return hashlib.sha256(self.get(key)).hexdigest()
        except NotFound:
            return None

    def upload(self, key: str, path: Path) -> None:
        self._replace(key, lambda aside: shutil.copyfile(path, aside))

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        with self._explained(key):
            if not source.is_file():
                raise FileNotFoundError(source)
            _into_place(path, lambda aside: shutil.copyfile(source, aside))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with self._explained(prefix):
            keys = []
            # A prefix need not end at a slash: walk from its last whole folder.
            start = self.root / prefix.rpartition("/")[0]
            for folder, folders, files in os.walk(start):
                folders[:] = [name for name in folders if name != _ASIDE]
                base = Path(folder).relative_to(self.root).as_posix()
                keys += [name if base == "." else f"{base}/{name}" for name in files]
            entries = [_entry(key, self.root / key) for key in sorted(keys) if key.startswith(prefix)]
        yield from entries

    def delete(self, key: str) -> None:
        with self._explained(key), contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def at(self, prefix: str) -> Store:
        return FolderStore(self._path(prefix.strip("/")))

    def local(self, key: str = "") -> Path | None:
        return self._path(key) if key else self.root

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _replace(
        self, key: str, fill: Callable[[Path], object], *, if_absent: bool = False, if_match: str | None = None
    ) -> None:
        path = self._path(key)
        with self._explained(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _written_aside(path, fill) as aside, self._locked(path):
                if if_absent and path.exists():
                    raise Conflict("is there already", where=self.address(key))
                if if_match is not None and self.tag(key) != if_match:
                    raise Conflict("was changed by somebody else", where=self.address(key))
                os.replace(aside, path)

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        # One lock file for each key, in a folder that no listing shows. It stays: removing it would let two in.
        name = hashlib.sha256(path.name.encode()).hexdigest()[:2]
        with open(path.parent / _ASIDE / f"lock-{name}", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as e:
            raise NotFound("not found", where=self.address(key)) from e
        except OSError as e:
            raise explained(e, self.address(key)) from e


def explained(error: OSError, where: object) -> StoreError:
    """Return the `StoreError` that says what an operating system's error means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError("the disk is full", where=where, hint="free some space, then run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError("not allowed to write or read here", where=where, hint="check the owner and permissions")
    return StoreError(error.strerror or str(error), where=where, hint="check the path and the disk")


def _entry(key: str, path: Path) -> Entry:
    found = path.stat()
    return Entry(key, found.st_size, str(found.st_mtime_ns))


@contextlib.contextmanager
def _written_aside(path: Path, fill: Callable[[Path], object]) -> Iterator[Path]:
    folder = path.parent / _ASIDE
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    aside = Path(name)
    try:
        fill(aside)
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        aside.chmod(0o644)
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _into_place(path: Path, fill: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    os.close(handle)
    aside = Path(name)
    try:
        fill(aside)
        aside.chmod(0o644)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


class S3Store(Store):
    """An S3 bucket and prefix; settings come from the usual AWS variables, `AWS_ENDPOINT_URL` included."""

    def __init__(self, bucket: str, prefix: str = "", client: S3Client | None = None) -> None:
        if not bucket:
            raise StoreError("the address names no bucket", where="s3://", hint="write s3://BUCKET/PREFIX")
        self.bucket = bucket
        self.prefix = prefix
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client

    @property
    def client(self) -> S3Client:
        if self._client is None:
            self._client = _s3_client()
        return self._client

    def get(self, key: str) -> bytes:
        return self._call(key, lambda: self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read())

    def put(self, key: str, content: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        condition: dict[str, Any] = {}
        if if_absent:
            condition["IfNoneMatch"] = "*"
        if if_match is not None:
            condition["IfMatch"] = if_match

        def write() -> str:
            return self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content, **condition)["ETag"]

        return self._call(key, write, ours=content if condition else None)

    def tag(self, key: str) -> str | None:
        try:
            return self._call(key, lambda: self.client.head_object(Bucket=self.bucket, Key=self._key(key))["ETag"])
        except NotFound:
            return None

    def upload(self, key: str, path: Path) -> None:
        self._call(key, lambda: self.client.upload_file(str(path), self.bucket, self._key(key)))

    def download(self, key: str, path: Path) -> None:
        def fetch(aside: Path) -> None:
            self._call(key, lambda: self.client.download_file(self.bucket, self._key(key), str(aside)))

        try:
            _into_place(path, fetch)
        except OSError as e:
            raise explained(e, path) from e

    def list(self, prefix: str = "") -> Iterator[Entry]:
        base = f"{self.prefix}/" if self.prefix else ""

        def page(token: str | None) -> Any:
            more = {"ContinuationToken": token} if token else {}
            return self.client.list_objects_v2(Bucket=self.bucket, Prefix=base + prefix, **more)

        token = None
        while True:
            found = self._call(prefix, lambda token=token: page(token))  # type: ignore[misc]
            for item in found.get("Contents", []):
                yield Entry(item["Key"][len(base) :], item["Size"], item["ETag"])
            token = found.get("NextContinuationToken")
            if not token:
                return

    def delete(self, key: str) -> None:
        self._call(key, lambda: self.client.delete_object(Bucket=self.bucket, Key=self._key(key)))

    def at(self, prefix: str) -> Store:
        return S3Store(self.bucket, self._key(prefix.strip("/")), self._client)

    def local(self, key: str = "") -> Path | None:
        return None

    def _key(self, key: str) -> str:
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _call(self, key: str, act: Callable[[], T], ours: bytes | None = None) -> T:
        """Run one call and explain its failure; `ours` is what a conditional write wrote."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        where = self.address(key)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return act()
            except ClientError as e:
                details = e.response.get("Error", {})
                code = details.get("Code", "")
                status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if code == "ConditionalRequestConflict" and attempt < _ATTEMPTS:
                    time.sleep(random.uniform(0, 0.1 * 2**attempt))
                    continue
                retried = e.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) or attempt > 1
                if code == "PreconditionFailed" or status == 412:
                    if ours is not None and retried and self._holds(key, ours):
                        # The first try had got through and only its answer was lost.
                        return self.tag(key)  # type: ignore[return-value]
                    raise Conflict("was written by somebody else", where=where) from e
                if code == "NoSuchBucket":
                    hint = f"create it first: aws s3 mb s3://{self.bucket}"
                    raise StoreError(f"there is no bucket '{self.bucket}'", where=where, hint=hint) from e
                if status == 404 or code in ("NoSuchKey", "404"):
                    raise NotFound("not found", where=where) from e
                if status in (401, 403):
                    raise StoreError(
                        f"access denied ({code})", where=where, hint="check the AWS credentials and the bucket's policy"
                    ) from e
                raise StoreError(f"the S3 server answered {status} {code}", where=where, hint="try again later") from e
            except NoCredentialsError as e:
                hint = "run 'aws configure', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                raise StoreError("no AWS credentials were found", where=where, hint=hint) from e
            except (Boto3Error, BotoCoreError) as e:
                inner = e.__context__
                if isinstance(e, Boto3Error) and isinstance(inner, ClientError | BotoCoreError):
                    # upload_file wraps the server's answer in an error of its own.
                    def again(cause: Exception = inner) -> T:
                        raise cause

                    return self._call(key, again)
                endpoint = self.client.meta.endpoint_url
                hint = f"check that {endpoint} is up (AWS_ENDPOINT_URL) and run the same command again"
                raise StoreError(f"the store can't be reached ({type(e).__name__})", where=where, hint=hint) from e
        raise AssertionError("the last attempt returns or raises")

    def _holds(self, key: str, content: bytes) -> bool:
        try:
            return self.get(key) == content
        except NotFound:
            return False


def _s3_client() -> S3Client:
    import boto3
    from botocore.config import Config

    settings = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=5,
        read_timeout=60,
        # Other servers than Amazon's seldom resolve a bucket as a host name.
        s3={"addressing_style": "path"} if os.environ.get("AWS_ENDPOINT_URL") else {},
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return boto3.Session(region_name=region or None).client("s3", config=settings)
