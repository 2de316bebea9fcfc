"""Where artifacts live: a folder or an S3 prefix behind one interface."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import secrets
import shutil
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

from vitruvian.errors import Conflict, NoCredentials, NotFound, StoreError

if TYPE_CHECKING:
    from boto3.s3.transfer import TransferConfig
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

T = TypeVar("T")

_ASIDE = ".incomplete"
_ATTEMPTS = 4
_MARK = "vitruvian-writer"
_QUOTED = str.maketrans({character: quote(character) for character in "%?#"})
# Two conditional writes came at the same moment, and the server didn't do this one.
_COLLISIONS = ("ConditionalRequestConflict", "OperationAborted")
_MISSING = ("NoSuchKey", "NotFound", "404")
# What some servers answer with another status than 401 or 403.
_DENIED = ("InvalidAccessKeyId", "XAdminUserNotFound", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_CREDENTIALS = "check the AWS credentials (aws configure, AWS_PROFILE, AWS_ACCESS_KEY_ID) and the bucket's policy"


@dataclass(frozen=True)
class Entry:
    """One key of a store with its size in bytes, and a tag that changes when other content is written."""

    key: str
    size: int
    tag: str


class Store(ABC):
    """Keys and bytes; a write is visible only when it is complete.

    Every method raises `StoreError` with the key's full address where the store can't be reached or refuses.
    A key can't be a folder of other keys at the same time.
    """

    url: str

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return the bytes of a key; raises `NotFound`."""

    @abstractmethod
    def start(self, key: str, size: int) -> bytes:
        """Return the first bytes of a key, as many as there are up to a size; raises `NotFound`."""

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
        """Remove a key; removing what isn't there is no error. A conditional write at the same moment may win."""

    @abstractmethod
    def at(self, prefix: str) -> Store:
        """Return the store below a prefix."""

    @abstractmethod
    def local(self, key: str = "") -> Path | None:
        """Return where a key or prefix lies on this machine's disk; None where it doesn't."""

    @abstractmethod
    def nowhere(self) -> bool:
        """Tell whether there surely is nothing here; False, too, where nobody says within some seconds."""

    def address(self, key: str = "") -> str:
        """Return the full address of a key, as people write it."""
        return f"{self.url.rstrip('/')}/{key}" if key else self.url


def open_store(url: str | Path) -> Store:
    """Return the store at a folder's path, a `file://` or an `s3://bucket/prefix` address."""
    scheme, separator, rest = str(url).partition("://")
    if not url:
        raise StoreError("an empty address", where="a store", hint="use a folder, file:///FOLDER or s3://BUCKET/PREFIX")
    if not separator:
        return FolderStore(Path(url))
    if scheme == "file" and rest:
        if not rest.startswith(("/", "~")):
            hint = f"write file:///{rest} for a folder of this machine"
            raise StoreError(f"names another machine, '{rest.partition('/')[0]}'", where=url, hint=hint)
        return FolderStore(Path(unquote(rest)))
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        return S3Store(bucket, prefix.strip("/"))
    raise StoreError("not the address of a store", where=url, hint="use a folder, file:///FOLDER or s3://BUCKET/PREFIX")


def check_key(key: str) -> str:
    """Return the key where it is one that means the same in a folder and in S3; raises `StoreError`."""
    parts = key.split("/")
    if not key or any(part in ("", ".", "..", _ASIDE) for part in parts) or "\\" in key or "\0" in key:
        raise StoreError(f"not a valid key: '{key}'", hint="use names joined by single slashes, without '.' or '..'")
    return key


def explained(error: OSError, where: object) -> StoreError:
    """Return the `StoreError` that says what an operating system's error means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError("the disk is full", where=where, hint="free some space, then run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError("not allowed to write or read here", where=where, hint="check the owner and permissions")
    return StoreError(error.strerror or str(error), where=where, hint="check the path and the disk")


class FolderStore(Store):
    """A folder; writes go aside first and are moved into place."""

    def __init__(self, root: Path) -> None:
        try:
            self.root = root.expanduser().absolute()
        except (RuntimeError, OSError) as e:
            raise StoreError(str(e).rstrip("."), where=root, hint="write the folder's whole path") from e
        if "\0" in str(root):
            raise StoreError("not a valid path", where=str(root).replace("\0", "?"), hint="check the address")
        # Only what would change its meaning is quoted: people read these addresses.
        self.url = "file://" + str(self.root).translate(_QUOTED)

    def get(self, key: str) -> bytes:
        with self._explained(key), _read(self._path(key)) as file:
            return file.read()

    def start(self, key: str, size: int) -> bytes:
        with self._explained(key), _read(self._path(key)) as file:
            return file.read(size)

    def put(self, key: str, content: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        self._write(key, lambda aside: aside.write_bytes(content), if_absent=if_absent, if_match=if_match)
        return hashlib.sha256(content).hexdigest()

    def tag(self, key: str) -> str | None:
        try:
            with self._explained(key), _read(self._path(key)) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except NotFound:
            return None

    def upload(self, key: str, path: Path) -> None:
        _check_readable(path)
        self._write(key, lambda aside: shutil.copyfile(path, aside))

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        with self._explained(key), _read(source):
            pass
        _write_file(path, lambda aside: shutil.copyfile(source, aside))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        # A prefix need not end at a slash: walk from its last whole folder.
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        found = sorted(_walk(start, f"{folder}/" if folder else ""), key=lambda entry: entry.key)
        yield from (entry for entry in found if entry.key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._explained(key), contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
            self._prune(path.parent)

    def at(self, prefix: str) -> Store:
        return FolderStore(self._path(prefix.rstrip("/")))

    def local(self, key: str = "") -> Path | None:
        return self._path(key) if key else self.root

    def nowhere(self) -> bool:
        return not self.root.exists()

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _write(
        self, key: str, fill: Callable[[Path], object], *, if_absent: bool = False, if_match: str | None = None
    ) -> None:
        path = self._path(key)
        try:
            with _filled(path.parent, fill) as aside, _locked(path):
                if if_absent and path.exists():
                    raise Conflict("is there already", where=self.address(key))
                if if_match is not None and self.tag(key) != if_match:
                    raise Conflict("was changed by somebody else", where=self.address(key))
                os.replace(aside, path)
        except OSError as e:
            raise explained(e, self.address(key)) from e
        finally:
            self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        # As in S3, a folder is there only as long as it holds a key.
        with contextlib.suppress(OSError):
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as e:
            raise NotFound("not found", where=self.address(key)) from e
        except OSError as e:
            raise explained(e, self.address(key)) from e


@contextlib.contextmanager
def _read(path: Path) -> Iterator[BufferedReader]:
    """Open a file; raises `StoreError` for what is none: nobody knows when a pipe or a device ends."""
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise StoreError("is not a regular file", where=path, hint="remove it, or put the file there")
        yield file


def _at_once(path: str, flags: int) -> int:
    # A pipe would be waited for until somebody writes.
    return os.open(path, flags | os.O_NONBLOCK)


def _check_readable(path: Path) -> None:
    try:
        with _read(path):
            pass
    except OSError as e:
        raise explained(e, path) from e


def _write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a local file whole or not at all."""
    try:
        with _filled(path.parent, fill) as aside:
            os.replace(aside, path)
    except OSError as e:
        raise explained(e, path) from e


def _walk(folder: Path, base: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Entry]:
    """Yield the files below a folder, through links too; `base` comes before their names."""
    try:
        here = os.stat(folder)
        found = [*os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as e:
        raise explained(e, folder) from e
    inode = (here.st_dev, here.st_ino)
    if inode in above:
        return
    for item in found:
        if item.name == _ASIDE or _leads_nowhere(item):
            continue
        if item.is_dir():
            yield from _walk(folder / item.name, f"{base}{item.name}/", above | {inode})
        elif item.is_file():
            # It may have been deleted since.
            with contextlib.suppress(FileNotFoundError):
                about = item.stat()
                yield Entry(base + item.name, about.st_size, str(about.st_mtime_ns))


def _leads_nowhere(item: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a link to itself or to what is gone."""
    try:
        item.stat()
    except FileNotFoundError:
        return True
    except OSError as e:
        return e.errno == errno.ELOOP
    return False


@contextlib.contextmanager
def _filled(folder: Path, fill: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a complete file on the same disk as a folder, in a place that no listing shows."""
    aside = folder / _ASIDE / secrets.token_hex(8)
    os.close(_create(aside, os.O_EXCL))
    try:
        fill(aside)
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            aside.parent.rmdir()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process and thread at a time replace a file."""
    lock = path.parent / _ASIDE / f"{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.lock"
    while True:
        with open(_create(lock), "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            # The former holder removes the file: then this lock holds nobody off, and the next one is another file.
            if not _is_at(lock, held.fileno()):
                continue
            try:
                yield
            finally:
                lock.unlink()
            return


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _create(path: Path, flags: int = 0) -> int:
    for attempt in range(1, 101):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
        except (FileNotFoundError, FileExistsError):
            # Another writer may have removed the folder because it was empty.
            if attempt == 100:
                raise
    raise AssertionError("the last attempt returns or raises")


class S3Store(Store):
    """An S3 bucket and prefix; settings come from the usual AWS variables, `AWS_ENDPOINT_URL` included."""

    def __init__(self, bucket: str, prefix: str = "", client: S3Client | None = None) -> None:
        if not bucket:
            raise StoreError("the address names no bucket", where="s3://", hint="write s3://BUCKET/PREFIX")
        self.bucket = bucket
        self.prefix = check_key(prefix) if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client

    @property
    def client(self) -> S3Client:
        """The client of boto3, made when it is first needed and shared with the stores below.

        Raises `StoreError` where nobody answers; nobody is asked yet where AWS_MAX_ATTEMPTS says how patient to be, as
        in the cluster's pods.
        """
        if self._client is None:
            patient, hasty = _s3_clients(self.url)
            if "AWS_MAX_ATTEMPTS" not in os.environ:
                self._greet(hasty)
            self._client = patient
        return self._client

    def _greet(self, client: S3Client) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client.head_bucket(Bucket=self.bucket)
        except ClientError:
            # A refusal is an answer, too; the call that matters explains its own.
            return
        except (BotoCoreError, ValueError) as e:
            raise _s3_error(e, self.url, self.bucket, client.meta.endpoint_url) from e

    def get(self, key: str) -> bytes:
        name = self._key(key)
        return self._call(key, lambda: self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read())

    def start(self, key: str, size: int) -> bytes:
        name = self._key(key)
        # Without a Range: an empty object has none, and servers differ in what they answer then.
        return self._call(key, lambda: self._first(name, size))

    def _first(self, name: str, size: int) -> bytes:
        with contextlib.closing(self.client.get_object(Bucket=self.bucket, Key=name)["Body"]) as body:
            return body.read(size)

    def put(self, key: str, content: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        name, mark = self._key(key), secrets.token_hex(8)
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        if if_match is not None:
            condition["IfMatch"] = if_match
        if condition:
            condition["Metadata"] = {_MARK: mark}
        try:
            return self._call(
                key, lambda: self.client.put_object(Bucket=self.bucket, Key=name, Body=content, **condition)["ETag"]
            )
        except (Conflict, NotFound) as e:
            # Where a first try got through and only its answer was lost, its repetition meets our own mark.
            written = self._marked(key, mark) if condition else None
            if written:
                return written
            if condition and isinstance(e, NotFound):
                raise Conflict("was removed by somebody else", where=self.address(key)) from e
            raise

    def _marked(self, key: str, mark: str) -> str | None:
        name = self._key(key)
        try:
            found = self._call(key, lambda: self.client.head_object(Bucket=self.bucket, Key=name))
        except NotFound:
            return None
        return found["ETag"] if found["Metadata"].get(_MARK) == mark else None

    def tag(self, key: str) -> str | None:
        name = self._key(key)
        with contextlib.suppress(NotFound):
            return self._call(key, lambda: self.client.head_object(Bucket=self.bucket, Key=name)["ETag"])

        def look() -> str:
            found = self.client.get_object(Bucket=self.bucket, Key=name)
            found["Body"].close()
            return found["ETag"]

        # The answer to a HEAD has no body to say whether the key, the bucket or the user is unknown.
        try:
            return self._call(key, look)
        except NotFound:
            return None

    def upload(self, key: str, path: Path) -> None:
        name = self._key(key)
        _check_readable(path)
        self._call(key, lambda: self.client.upload_file(str(path), self.bucket, name, Config=_transfers()))

    def download(self, key: str, path: Path) -> None:
        name = self._key(key)

        def fetch(aside: Path) -> None:
            with open(aside, "wb") as file:
                self.client.download_fileobj(self.bucket, name, file, Config=_transfers())

        _write_file(path, lambda aside: self._call(key, lambda: fetch(aside)))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        base = f"{self.prefix}/" if self.prefix else ""

        def page(token: str | None) -> ListObjectsV2OutputTypeDef:
            if token is None:
                return self.client.list_objects_v2(Bucket=self.bucket, Prefix=base + prefix)
            return self.client.list_objects_v2(Bucket=self.bucket, Prefix=base + prefix, ContinuationToken=token)

        token: str | None = None
        while True:
            found = self._call(prefix, partial(page, token))
            for item in found.get("Contents", []):
                # What consoles make for an empty folder is no key of ours.
                if not item["Key"].endswith("/"):
                    yield Entry(item["Key"].removeprefix(base), item["Size"], item["ETag"])
            token = found.get("NextContinuationToken")
            if not token:
                return

    def delete(self, key: str) -> None:
        name = self._key(key)
        with contextlib.suppress(NotFound):
            self._call(key, lambda: self.client.delete_object(Bucket=self.bucket, Key=name))

    def at(self, prefix: str) -> Store:
        return S3Store(self.bucket, self._key(prefix.rstrip("/")), self.client)

    def local(self, key: str = "") -> Path | None:
        return None

    def nowhere(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        base = f"{self.prefix}/" if self.prefix else ""
        try:
            _, client = _s3_clients(self.url, read_timeout=5, attempts=1)
            return not client.list_objects_v2(Bucket=self.bucket, Prefix=base, MaxKeys=1).get("Contents")
        except ClientError as e:
            return e.response.get("Error", {}).get("Code") == "NoSuchBucket"
        except (BotoCoreError, ResponseParserError, StoreError, ValueError):
            return False

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    def _call(self, key: str, act: Callable[[], T]) -> T:
        """Run one call and explain its failure; what the client itself doesn't repeat is repeated here."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError
        from s3transfer.exceptions import RetriesExceededError

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return act()
            except (Boto3Error, BotoCoreError, ClientError, RetriesExceededError) as e:
                cause = _cause(e)
                if attempt == _ATTEMPTS or not _passes_by_itself(cause):
                    endpoint = self.client.meta.endpoint_url
                    raise _s3_error(cause, self.address(key), self.bucket, endpoint) from e
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
            except (KeyError, ResponseParserError) as e:
                # A web server's page in place of an answer, which lacks the ETag or isn't XML.
                hint = f"check that {self.client.meta.endpoint_url} is the S3 server (AWS_ENDPOINT_URL)"
                raise StoreError("what answers is no S3 server", where=self.address(key), hint=hint) from e
        raise AssertionError("the last attempt returns or raises")


def _cause(error: Exception) -> Exception:
    """Return what a transfer's error stands for: the server's answer, or why there was none."""
    from botocore.exceptions import BotoCoreError, ClientError

    for inner in (getattr(error, "last_exception", None), error.__context__):
        if isinstance(inner, BotoCoreError | ClientError) and not isinstance(error, BotoCoreError | ClientError):
            return inner
    return error


def _passes_by_itself(error: Exception) -> bool:
    from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError

    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code") in _COLLISIONS
    return isinstance(error, IncompleteReadError | ResponseStreamingError)


def _s3_error(error: Exception, where: str, bucket: str, endpoint: str) -> StoreError:
    """Return what an answer of the server, or its silence, means for the user."""
    from botocore import exceptions as boto

    if isinstance(error, boto.NoCredentialsError):
        return NoCredentials("no AWS credentials were found", where=where, hint=_CREDENTIALS)
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError):
        hint = f"check that {endpoint} is up (AWS_ENDPOINT_URL) and run the same command again"
        return StoreError(f"the store can't be reached ({type(error).__name__})", where=where, hint=hint)
    if not isinstance(error, boto.ClientError):
        return StoreError(str(error), where=where, hint="check the address and the AWS settings")
    answer = error.response.get("Error", {})
    code, said = answer.get("Code", ""), answer.get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        hint = f"create it first: aws s3 mb s3://{bucket}"
        return StoreError(f"there is no bucket '{bucket}'", where=where, hint=hint)
    if code in _MISSING:
        return NotFound("not found", where=where)
    if status == 412 or code in _COLLISIONS:
        return Conflict("was written by somebody else", where=where)
    if status in (401, 403) or code in _DENIED:
        return StoreError(f"access denied ({code})", where=where, hint=_CREDENTIALS)
    if status >= 500:
        told = str(status) if code == str(status) else f"{status} {code}"
        return StoreError(f"the S3 server {endpoint} answered {told}", where=where, hint="try again later")
    hint = "check the address, AWS_REGION and AWS_ENDPOINT_URL"
    return StoreError(f"the S3 server {endpoint} refused: {code} {said}".rstrip(), where=where, hint=hint)


def _transfers() -> TransferConfig:
    from boto3.s3.transfer import TransferConfig

    # Artifacts send eight files at a time.
    return TransferConfig(max_concurrency=4)


def _s3_clients(where: str, *, read_timeout: int = 8, attempts: int = 3) -> tuple[S3Client, S3Client]:
    """Return a patient client, and a hasty one to find out whether there is anybody."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    settings: dict[str, Any] = {"retries": {"mode": "standard"}}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        settings["retries"]["total_max_attempts"] = _ATTEMPTS
    if os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        # Other servers than Amazon's seldom resolve a bucket as a host name, and many don't know its newer checksums.
        settings["s3"] = {"addressing_style": "path"}
        settings["request_checksum_calculation"] = settings["response_checksum_validation"] = "when_required"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    config = Config(connect_timeout=3, read_timeout=60, max_pool_connections=32, **settings)
    try:
        session = boto3.Session(region_name=region or None)
        # Half a minute in all, for people who wait.
        haste = Config(read_timeout=read_timeout, retries={"mode": "standard", "total_max_attempts": attempts})
        return session.client("s3", config=config), session.client("s3", config=config.merge(haste))
    except (BotoCoreError, ValueError) as e:
        hint = "check AWS_ENDPOINT_URL, AWS_PROFILE and the other AWS settings"
        raise StoreError(str(e), where=where, hint=hint) from e
