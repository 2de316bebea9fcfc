"""From the body of a request to the bytes of one file."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from vitruvian.inference.problems import TOO_LARGE, UNSUPPORTED, Problem
from vitruvian.inference.protocol import Malformed, read_base64, read_json
from vitruvian.inference.service import Settings

FIELDS = ("file", "image")
"""What the field of a form or of a JSON body may be called."""
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


def file_in_body(content_type: str, body: bytes) -> tuple[bytes, str]:
    """Return the file in a body and its name: a form's field, or the body itself.

    Raises `Malformed`, or a `Problem` for a content type that carries no file.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _file_in_form(content_type, body)
    if kind in _RAW or kind.startswith("image/"):
        return body, "the body"
    fields = " or ".join(f"'{field}'" for field in FIELDS)
    raise Problem(
        UNSUPPORTED,
        f"send the file as field {fields} of a multipart form, or as the body with the content type image/jpeg or "
        "application/octet-stream",
    )


def file_in_json(body: bytes) -> tuple[bytes, str]:
    """Return the file that a JSON body carries as base64 or a data: URL, and the field's name; raises `Malformed`."""
    document = read_json(body)
    if "url" in document or "image_url" in document:
        raise Malformed("fetching from addresses is switched off; send the picture itself as base64 in 'image'")
    names = [name for name in ("image", "heatmap") if name in document]
    if len(names) != 1:
        raise Malformed("the body needs the file as base64 in 'image'")
    text = document[names[0]]
    if isinstance(text, str) and text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise Malformed("the data: URL is not in base64")
    return read_base64(text, f"'{names[0]}'"), names[0]


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


def _file_in_form(content_type: str, body: bytes) -> tuple[bytes, str]:
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
    found = [(content, file[:100] or name) for name, file, content in form.parts if name in FIELDS]
    if len(found) != 1:
        raise Malformed(f"the form has {len(found)} fields named {' or '.join(FIELDS)}, not one")
    return found[0]
