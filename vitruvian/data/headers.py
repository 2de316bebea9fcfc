"""What a picture's first bytes say of it: its size, and how much memory it takes to decode. Nothing is decoded here.

Decoders believe these bytes and allocate; a file of some hundred bytes can claim gigabytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final, Literal

Format = Literal["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]

_SCALES: Final = (8, 4, 2, 1)
"""What a JPEG can be decoded at a fraction of."""
_MOST_MARKERS: Final = 1024
_MOST_FILL: Final = 256
"""Bytes before a marker that mean nothing; a decoder reads them one by one."""
_NO_SOF: Final = (0xC4, 0xC8, 0xCC)
_MOST_CHUNKS: Final = 10_000
"""Of a small PNG: a decoder takes some microseconds for each, and an empty one is 12 bytes."""
_USUAL_CHUNK: Final = 4096
"""Bytes of the smallest chunks that tools cut a picture's data into; a large file may have as many of them."""
_MOST_BLOCKS: Final = 65_536
"""Of a GIF before its first picture; comments and metadata lie in blocks of at most 255 bytes."""


@dataclass(frozen=True)
class Header:
    """A picture before it is decoded."""

    format: Format
    width: int
    height: int
    bytes_per_pixel: float
    """What decoding and converting it holds at its peak, of a JPEG what a decoded pixel does."""
    coefficients: float = 0.0
    """Bytes for each pixel at full size that a progressive JPEG holds until its last scan."""
    scans: int = 1
    least_bytes: int = 0
    """What a file of this size has at least."""
    flaw: str = ""
    """Why it is not to be decoded, where its first bytes say so."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def scale(self, wanted: float) -> int:
        """Return the largest fraction at which a JPEG's sides are at least `wanted`; 1 of all else."""
        if self.format != "JPEG":
            return 1
        least = min(self.width, self.height)
        return next(scale for scale in _SCALES if scale == 1 or math.ceil(least / scale) >= wanted)

    def peak(self, wanted: float) -> int:
        """Return the bytes that decoding holds at its peak, where sides of at least `wanted` are enough."""
        scale = self.scale(wanted)
        decoded = math.ceil(self.width / scale) * math.ceil(self.height / scale)
        return math.ceil(decoded * self.bytes_per_pixel + self.pixels * self.coefficients)


def read_header(content: bytes) -> Header | None:
    """Return the header of a picture in one of the known formats; None of all else, and of what is cut off there."""
    try:
        for magic, read in _READERS:
            if content.startswith(magic):
                return read(content)
    except (struct.error, IndexError, ValueError, StopIteration):
        return None
    return None


def _jpeg(content: bytes) -> Header | None:
    at, sizes = 2, []
    for _ in range(_MOST_MARKERS):
        # Fill bytes may stand before a marker.
        at = content.index(0xFF, at) if content[at] != 0xFF else at
        fill = next(number for number, byte in enumerate(content[at : at + _MOST_FILL]) if byte != 0xFF)
        at += fill
        marker = content[at]
        at += 1
        if marker in (0x01, *range(0xD0, 0xD9)):
            continue
        if marker in (0xD9, 0xDA):
            break
        (length,) = struct.unpack_from(">H", content, at)
        if 0xC0 <= marker <= 0xCF and marker not in _NO_SOF:
            sizes.append(_frame(content, at, marker))
        at += length
    if not sizes:
        return None
    # Of several the largest: which one a decoder believes is its own affair.
    return max(sizes, key=lambda header: header.pixels)


def _frame(content: bytes, at: int, marker: int) -> Header:
    height, width, components = struct.unpack_from(">HHB", content, at + 3)
    factors = [divmod(content[at + 9 + 3 * number], 16) for number in range(components)]
    largest = max((h for h, _ in factors), default=1) * max((v for _, v in factors), default=1)
    share = sum(h * v for h, v in factors) / max(1, largest)
    progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
    blocks = math.ceil(width / 8) * math.ceil(height / 8) * share
    return Header(
        "JPEG",
        width,
        height,
        # Pillow keeps four bytes of RGB; four channels are kept and converted.
        4.0 if components <= 3 else 8.0,
        2 * share if progressive else 0.0,
        content.count(b"\xff\xda") if progressive else 1,
        # Each block of a Huffman-coded picture takes two codes of a bit or more.
        int(blocks / 4) if marker in (0xC0, 0xC1) else 0,
    )


# Bytes a pixel of each of PNG's colour types, as Pillow keeps and converts them; sixteen bits of grey are more.
_PNG: Final = {0: 5.0, 2: 4.0, 3: 9.0, 4: 12.0, 6: 8.0}


def _png(content: bytes) -> Header | None:
    if content[12:16] != b"IHDR":
        return None
    width, height, depth, colour = struct.unpack_from(">IIBB", content, 16)
    per_pixel = 8.0 if depth == 16 and colour == 0 else _PNG.get(colour, 12.0)
    # A colour may be transparent without a channel for it.
    per_pixel = per_pixel if colour in (4, 6) else max(per_pixel, 5.0)
    return Header("PNG", width, height, per_pixel, flaw=_flaw_of_chunks(content))


def _flaw_of_chunks(content: bytes) -> str:
    """Return what is wrong with a PNG's chunks behind the first; a cut off one is the decoder's affair."""
    most = _MOST_CHUNKS + len(content) // _USUAL_CHUNK
    at = 8
    for number in range(most):
        if at + 8 > len(content):
            return ""
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IEND":
            return ""
        if kind == b"IHDR" and number:
            return "claims two sizes"
        at += 12 + length
    return f"has more than {most:,} chunks, which take too long to read"


def _gif(content: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    left = iter(range(_MOST_BLOCKS))
    for _ in left:
        kind = content[at : at + 1]
        at += 1
        if kind in (b"", b";"):
            break
        if kind == b",":
            # A decoder makes the screen as large as the first picture on it.
            x, y, across, down = struct.unpack_from("<HHHH", content, at)
            width, height = max(width, x + across), max(height, y + down)
            break
        if kind == b"!":
            at += 1
            for _ in left:
                length = content[at]
                at += 1 + length
                if not length:
                    break
    else:
        flaw = f"has more than {_MOST_BLOCKS:,} blocks before its first picture, which take too long to read"
        return Header("GIF", width, height, 9.0, flaw=flaw)
    return Header("GIF", width, height, 9.0)


def _webp(content: bytes) -> Header | None:
    if content[8:12] != b"WEBP":
        return None
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", content, 26))
    else:
        return None
    # Two canvases of the decoder's, the frame as bytes, and Pillow's own.
    return Header("WEBP", width, height, 16.0)


def _bmp(content: bytes) -> Header:
    (size,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", content, 18)
    compression = 0 if size == 12 else struct.unpack_from("<I", content, 30)[0]
    flaw = "is compressed by run lengths, which takes too long to decode" if compression in (1, 2) else ""
    return Header("BMP", abs(width), abs(height), 9.0, flaw=flaw)


def _tiff(content: bytes) -> Header | None:
    order = "<" if content[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, at)
    found = {}
    for entry in range(min(count, _MOST_MARKERS)):
        tag, kind = struct.unpack_from(f"{order}HH", content, at + 2 + 12 * entry)
        if tag in (256, 257) and kind in (3, 4):
            (found[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", content, at + 10 + 12 * entry)
    if len(found) < 2:
        return None
    return Header("TIFF", found[256], found[257], 16.0)


_READERS: Final = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"RIFF", _webp),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)
