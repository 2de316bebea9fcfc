"""From the body of a request to the bytes of one file."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from vitruvian.inference.problems import TOO_LARGE, UNSUPPORTED, Problem
from vitruvian.inference.protocol import Malformed, read_base64, read_json
from vitruvian.inference.service import Settings

FIELDS = ("file", "image")
"""What the field of a form or of a JSON body may be called."""
_URLS = ("url", "image_url")
_IN_JSON = ("image", "heatmap", *_URLS)
_ENCODINGS = ("identity", "gzip", "deflate")
_RAW = ("application/octet-stream", "application/x-npy", "")


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


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that a request carries, or the URL where it lies."""

    where: str
    content: bytes = b""
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request of people's routes asks."""

    files: tuple[Sent, ...]
    labels: object = None
    templates: object = None
    precision: object = None
    top_k: object = None


def asked_in_body(content_type: str, body: bytes) -> Asked:
    """Return what a body asks: a form, or a file itself.

    Raises `Malformed`, or a `Problem` for a content type that carries no file.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _asked_in_form(content_type, body)
    if kind in _RAW or kind.startswith("image/"):
        return Asked((Sent("the body", body),))
    fields = " or ".join(f"'{field}'" for field in FIELDS)
    raise Problem(
        UNSUPPORTED,
        f"send the file as field {fields} of a multipart form, or as the body with the content type image/jpeg or "
        "application/octet-stream",
    )


def asked_in_json(body: bytes) -> Asked:
    """Return what a JSON body asks of one file; raises `Malformed`."""
    document = read_json(body)
    names = [name for name in _IN_JSON if name in document]
    if len(names) != 1:
        raise Malformed(
            f"the body needs the file as base64 in 'image', or its address in 'url', not {len(names)} of them"
        )
    name = names[0]
    value = {name: document[name]} if name in _URLS else document[name]
    return _asked((sent_in_json(value, name),), document)


def asked_in_batch(content_type: str, body: bytes, most: int) -> Asked:
    """Return what a form or a JSON body asks of several files; raises `Malformed`."""
    if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        asked = _asked_in_form(content_type, body, several=True)
    else:
        document = read_json(body)
        images = document.get("images")
        if not isinstance(images, list):
            raise Malformed("the body needs a list of files as base64 in 'images'")
        asked = _asked(tuple(sent_in_json(image, f"images[{at}]") for at, image in enumerate(images)), document)
    if not 1 <= len(asked.files) <= most:
        raise Malformed(f"{len(asked.files)} files were sent, and 1 to {most} may be")
    return asked


def _asked(files: tuple[Sent, ...], document: Mapping[str, object]) -> Asked:
    return Asked(files, *(document.get(name) for name in ("labels", "templates", "precision", "top_k")))


def sent_in_json(value: object, where: str) -> Sent:
    """Return a file as JSON carries it: base64, a data: URL, {"b64": …}, {"url": …}; raises `Malformed`."""
    if isinstance(value, dict):
        if len(value) != 1:
            raise Malformed(f"'{where}' needs one of 'b64' and 'url'")
        ((kind, inner),) = value.items()
        if kind in _URLS:
            address = _url(inner)
            return sent_in_json(address, where) if address.startswith("data:") else Sent(where, url=address)
        if kind != "b64":
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


class _Form:
    """What a multipart form holds: (field, file name, content) for each part."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[tuple[str, str, bytes]] = []
        self._header, self._value = b"", b""
        self._disposition = b""
        self._chunks: list[bytes] = []
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_header,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_part_data": self._add_data,
                "on_part_end": self._end,
            },
        )

    def _begin(self) -> None:
        self._disposition, self._chunks = b"", []

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def _end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name, file = options.get(b"name", b""), options.get(b"filename", b"")
        self.parts.append((name.decode(errors="replace"), file.decode(errors="replace"), b"".join(self._chunks)))


def _asked_in_form(content_type: str, body: bytes, *, several: bool = False) -> Asked:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Malformed("the multipart form has no boundary")
    try:
        form = _Form(boundary)
        form.parser.write(body)
        form.parser.finalize()
    except FormParserError as e:
        raise Malformed(f"the multipart form can't be read ({e})") from e
    fields = (*FIELDS, "files", "images") if several else FIELDS
    found = [Sent(file[:100] or name, content) for name, file, content in form.parts if name in fields]
    if len(found) != 1 and not several:
        raise Malformed(f"the form has {len(found)} fields named {' or '.join(FIELDS)}, not one")
    words = {name: content for name, _, content in form.parts if name in ("precision", "top_k")}
    return Asked(
        tuple(found),
        _lines(form, "labels"),
        _lines(form, "templates"),
        words["precision"].decode(errors="replace") if "precision" in words else None,
        _number(words["top_k"]) if "top_k" in words else None,
    )


def _lines(form: _Form, name: str) -> list[str] | None:
    """Return a field's texts: a JSON list, or a text on each line; None without the field."""
    values = [content.decode(errors="replace") for field, _, content in form.parts if field == name]
    if not values:
        return None
    if len(values) == 1 and values[0].lstrip().startswith("["):
        try:
            listed: list[str] = orjson.loads(values[0])
        except orjson.JSONDecodeError as e:
            raise Malformed(f"the field '{name}' is not JSON: {e}") from e
        return listed
    return [line for value in values for line in value.splitlines() if line.strip()]


def _number(content: bytes) -> int | None:
    return int(content) if content.isdigit() and len(content) < 10 else -1
