"""From the body of a request to the bytes of one file."""

from __future__ import annotations

import asyncio
import difflib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import orjson
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from vitruvian.inference.admission import Ticket, late
from vitruvian.inference.problems import TOO_LARGE, UNSUPPORTED, Problem
from vitruvian.inference.protocol import LARGE, Malformed, check_values, read_base64, read_json
from vitruvian.inference.service import Settings

T = TypeVar("T")

FIELDS = ("file", "image")
"""What the field of a form or of a JSON body may be called."""
_URLS = ("url", "image_url")
_IN_JSON = ("image", "heatmap", *_URLS)
_OPTIONS = ("labels", "templates", "precision", "top_k")
"""What may be asked of files, in the order in which `Asked` has it."""
_IN_QUERY = ("precision", "top_k")
_FORM = "multipart/form-data"
_ENCODINGS = ("identity", "gzip", "deflate")
_RAW = ("application/octet-stream", "application/x-npy", "")
_MOST_OTHERS = 1024
"""Parts of a form that are no files: each label may be one."""
_MOST_HEAD = 8192
"""Bytes of a part's headers."""
_MOST_PADDING = 100
_READER = ThreadPoolExecutor(1, "reader")


async def read_body(request: Request, settings: Settings, add: Callable[[int], None] = lambda size: None) -> bytes:
    """Return a request's body, decompressed; `add` is told of its bytes as they come, and may refuse them.

    Raises a `Problem` where it is larger than the settings allow.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in _ENCODINGS:
        raise Problem(UNSUPPORTED, "bodies are accepted as they are, or compressed with gzip or deflate")
    too_large = Problem(TOO_LARGE, f"the body has more than {settings.max_body} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > settings.max_body:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > settings.max_body:
            raise too_large
        add(len(chunk))
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if encoding == "identity":
        return body
    plain = await asyncio.to_thread(_inflated, body, encoding, settings.max_body)
    if plain is None:
        raise too_large
    add(len(plain))
    return plain


def _inflated(body: bytes, encoding: str, limit: int) -> bytes | None:
    """Return a compressed body as it was, None where that is more than the limit; raises `Malformed`."""
    window = zlib.MAX_WBITS
    # What is called deflate is in zlib's wrapper, or by an old misunderstanding in none.
    if encoding == "gzip":
        window |= 16
    elif body[:1] != b"\x78":
        window = -window
    inflate = zlib.decompressobj(window)
    try:
        plain = inflate.decompress(body, limit + 1)
    except zlib.error as e:
        raise Malformed(f"the body is not {encoding}") from e
    if len(plain) > limit:
        return None
    if not inflate.eof:
        raise Malformed(f"the body ends within its {encoding}")
    return plain


async def in_turn(size: int, read: Callable[[], T], ticket: Ticket) -> T:
    """Return what a function reads of a body, `size` bytes of JSON or of a form.

    Large ones are read in a thread, one after the other: the event loop goes on meanwhile, and what such bodies take
    while they are read is there once. Raises a `Problem` where the turn doesn't come in time.
    """
    if size <= LARGE:
        return read()
    try:
        async with asyncio.timeout(max(0.0, ticket.left)):
            return await asyncio.get_running_loop().run_in_executor(_READER, read)
    except TimeoutError as e:
        raise late() from e


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that a request carries, or the URL where it lies; or what is wrong with one of several."""

    where: str
    content: bytes = b""
    url: str | None = None
    wrong: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request of people's routes asks."""

    files: tuple[Sent, ...]
    labels: object = None
    templates: object = None
    precision: object = None
    top_k: object = None

    def or_else(self, query: Mapping[str, str]) -> Asked:
        """Return what is asked by the body or, where that says nothing, by the query; raises `Malformed`."""
        if not query:
            return self
        _check_known(query, _IN_QUERY, "parameter")
        precision, top_k = self.precision, self.top_k
        if precision is None:
            precision = query.get("precision")
        if top_k is None and "top_k" in query:
            top_k = _number(query["top_k"].encode())
        return replace(self, precision=precision, top_k=top_k)


def kind_of_content(content_type: str) -> str:
    """Return a content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


async def asked_in_body(content_type: str, body: bytes, ticket: Ticket) -> Asked:
    """Return what a body asks: a form, or a file itself.

    Raises `Malformed`, or a `Problem` for a content type that carries no file.
    """
    kind = kind_of_content(content_type)
    if kind == _FORM:
        return await in_turn(len(body), lambda: _asked_in_form(content_type, body, FIELDS, 1), ticket)
    if kind in _RAW or kind.startswith("image/"):
        return Asked((Sent("the body", body),))
    fields = " or ".join(f"'{field}'" for field in FIELDS)
    raise Problem(
        UNSUPPORTED,
        f"send the file as field {fields} of a multipart form, or as the body with the content type image/jpeg or "
        "application/octet-stream",
    )


async def asked_in_json(content_type: str, body: bytes, ticket: Ticket) -> Asked:
    """Return what a JSON body asks of one file.

    Raises `Malformed`, or a `Problem` for a content type that surely is something else.
    """
    if kind_of_content(content_type) == _FORM or kind_of_content(content_type).startswith("image/"):
        raise Problem(UNSUPPORTED, "/predict takes JSON; send a form, or the file as the body, to /predict/image")
    return await in_turn(len(body), lambda: _asked_in_json(body), ticket)


def _asked_in_json(body: bytes) -> Asked:
    document = read_json(body)
    _check_known(document, (*_IN_JSON, *_OPTIONS), "field")
    names = [name for name in _IN_JSON if name in document]
    if len(names) != 1:
        raise Malformed(
            f"the body needs the file as base64 in 'image', or its address in 'url', not {len(names)} of them"
        )
    name = names[0]
    value = {name: document[name]} if name in _URLS else document[name]
    return _asked((sent_in_json(value, name),), document)


async def asked_in_batch(content_type: str, body: bytes, most: int, ticket: Ticket) -> Asked:
    """Return what a form or a JSON body asks of several files, at most so many.

    Raises `Malformed`, or a `Problem` for a content type that surely is something else.
    """
    kind = kind_of_content(content_type)
    if kind == _FORM:
        fields = (*FIELDS, "files", "images")
        return await in_turn(len(body), lambda: _asked_in_form(content_type, body, fields, most), ticket)
    if kind.startswith("image/"):
        raise Problem(UNSUPPORTED, "send several files as a multipart form or as JSON, and one file to /predict/image")
    return await in_turn(len(body), lambda: _asked_of_several(body, most), ticket)


def _asked_of_several(body: bytes, most: int) -> Asked:
    document = read_json(body)
    _check_known(document, ("images", *_OPTIONS), "field")
    images = document.get("images")
    if not isinstance(images, list):
        raise Malformed("the body needs a list of files as base64 in 'images'")
    _check_count(len(images), most)
    return _asked(tuple(_sent_or_why(image, f"images[{at}]") for at, image in enumerate(images)), document)


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise Malformed(f"{count} files were sent, and 1 to {most} may be")


def _check_known(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Raise `Malformed` for a name that nothing is known by, with the nearest that is."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name[:100].lower(), known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
            raise Malformed(f"there is no {what} '{name[:100]}'; {hint}")


def _asked(files: tuple[Sent, ...], document: Mapping[str, object]) -> Asked:
    return Asked(files, *(document.get(name) for name in _OPTIONS))


def _sent_or_why(value: object, where: str) -> Sent:
    try:
        return sent_in_json(value, where)
    except Malformed as e:
        return Sent(where, wrong=str(e))


def sent_in_json(value: object, where: str) -> Sent:
    """Return a file as JSON carries it: base64, a data: URL, {"b64": …}, {"url": …}; raises `Malformed`."""
    if isinstance(value, dict):
        if len(value) != 1:
            raise Malformed(f"'{where}' needs one of 'b64' and 'url'")
        ((kind, inner),) = value.items()
        if kind in _URLS:
            address = _url(inner)
            return sent_in_json(address, where) if address.startswith("data:") else Sent(where, url=address)
        if kind not in ("b64", *_IN_JSON):
            raise Malformed(f"'{where}' needs one of 'b64' and 'url'")
        value = inner
    if isinstance(value, str) and value.startswith("data:"):
        head, comma, value = value.partition(",")
        if not comma or not head.endswith(";base64"):
            raise Malformed(f"the data: URL of '{where}' is not in base64")
    return Sent(where, read_base64(value, f"'{where}'"))


def _url(value: object) -> str:
    """Return an address, also as OpenAI's clients send it: in an object."""
    if isinstance(value, dict):
        value = value.get("url")
    if not isinstance(value, str):
        raise Malformed("the URL is not a text")
    return value


def _parts(body: bytes, boundary: bytes, most: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers and the content of each part of a multipart form (RFC 2046), at most so many.

    Raises `Malformed`. It looks for what parts them and nothing else, so that no content makes it slow.
    """
    mark = b"\r\n--" + boundary
    at = len(mark) - 2
    if not body.startswith(mark[2:]):
        at = body.find(mark) + len(mark)
        if at < len(mark):
            raise Malformed("the multipart form can't be read: its boundary isn't in it")
    for _ in range(most):
        if body.startswith(b"--", at):
            return
        begin = body.find(b"\r\n", at, at + _MOST_PADDING)
        if begin < 0 or body[at:begin].strip(b" \t"):
            raise Malformed("the multipart form can't be read: a line begins with its boundary, and goes on")
        end = body.find(mark, begin)
        if end < 0:
            raise Malformed("the multipart form can't be read: it ends within a part")
        content = body.find(b"\r\n\r\n", begin, min(end, begin + _MOST_HEAD)) + 4
        if content < 4:
            raise Malformed(f"the multipart form can't be read: a part has no end of its headers in {_MOST_HEAD} bytes")
        yield body[begin : content - 4], body[content:end]
        at = end + len(mark)
    if not body.startswith(b"--", at):
        raise Malformed(f"the multipart form has more than {most} parts")


def _names(head: bytes) -> tuple[str, str]:
    """Return the field and the file that a part's headers name."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            _, options = parse_options_header(value)
            field, file = options.get(b"name", b""), options.get(b"filename", b"")
            return field.decode(errors="replace"), file.decode(errors="replace")
    return "", ""


def _asked_in_form(content_type: str, body: bytes, fields: Sequence[str], most: int) -> Asked:
    """Return what a form asks of the files in these fields, at most so many; raises `Malformed`."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Malformed("the multipart form has no boundary")
    files: list[Sent] = []
    texts: dict[str, list[bytes]] = {}
    for head, content in _parts(body, boundary, most + _MOST_OTHERS):
        name, file = _names(head)
        if name in fields:
            files.append(Sent(file[:100] or name, content))
        else:
            texts.setdefault(name, []).append(content)
    if "" in texts:
        raise Malformed("a part of the multipart form names no field")
    _check_known(texts, (*fields, *_OPTIONS), "field")
    if most == 1 and len(files) != 1:
        raise Malformed(f"the form has {len(files)} fields named {' or '.join(FIELDS)}, not one")
    _check_count(len(files), most)
    return Asked(
        tuple(files),
        _lines(texts, "labels"),
        _lines(texts, "templates"),
        texts["precision"][-1].decode(errors="replace") if "precision" in texts else None,
        _number(texts["top_k"][-1]) if "top_k" in texts else None,
    )


def _lines(texts: Mapping[str, Sequence[bytes]], name: str) -> list[str] | None:
    """Return a field's texts: a JSON list, or a text on each line; None without the field. Raises `Malformed`."""
    values = texts.get(name)
    if values is None:
        return None
    if len(values) == 1 and values[0].lstrip().startswith(b"["):
        check_values(values[0])
        try:
            listed: list[str] = orjson.loads(values[0])
        except orjson.JSONDecodeError as e:
            raise Malformed(f"the field '{name}' is not JSON: {e}") from e
        return listed
    lines = [line for value in values for line in value.decode(errors="replace").splitlines() if line.strip()]
    if name == "labels" and len(lines) == 1:
        # One label is always right: rather a list that was meant otherwise.
        raise Malformed(f'the field \'{name}\' is no list; send it as JSON: ["tree pose", "warrior pose"]')
    return lines


def _number(content: bytes) -> int | None:
    return int(content) if content.isdigit() and len(content) < 10 else -1
