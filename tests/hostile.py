"""Hostile and odd pictures, made in memory: each with what should come of it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

DECODES: Final = ""
"""What should come of a picture that can be used; of others the words of the refusal."""


class Picture(NamedTuple):
    """One file."""

    name: str
    content: bytes
    expected: str


def pictures() -> Iterator[Picture]:
    """Yield all of them."""
    yield from _sizes()
    yield from _pngs()
    yield from _jpegs()
    yield from _animations()
    yield from _tiffs()
    yield from _others()


def _plain(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    values = np.stack([rows * 4 % 256, columns * 3 % 256, (rows + columns) % 256], -1).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


def _saved(image: Image.Image, format: str, **more: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **more)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"", more: bytes = b"") -> bytes:
    """Return a PNG that claims a size, with any data."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _bomb(width: int, height: int, colour: int = 2, channels: int = 3) -> bytes:
    """Return a PNG of one colour, of some hundred KB however large it is."""
    squeeze = zlib.compressobj(9)
    row = b"\0" * (1 + width * channels)
    data = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    return png(width, height, colour=colour, rows=data)


def _sizes() -> Iterator[Picture]:
    large, memory = "megapixels", "MB to be decoded"
    yield Picture("png of 177 megapixels", png(13_300, 13_300, rows=zlib.compress(b"")), large)
    yield Picture("png of 2^62 pixels", png(2**31 - 1, 2**31 - 1), large)
    yield Picture("png of 2^32 - 1 columns", png(2**32 - 1, 1), large)
    yield Picture("png of no width", png(0, 10), "0x10 pixels large")
    yield Picture("png that fits, but not into memory", _bomb(6000, 4000), memory)
    yield Picture("png with alpha that fits, but not into memory", _bomb(4000, 2500, colour=6, channels=4), memory)
    yield Picture("gif of 65535 x 65535", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";", large)
    yield Picture("bmp of 2^31 rows", _bmp(10, -(2**31)), large)
    yield Picture("bmp of 20000 x 20000", _bmp(20_000, 20_000), large)
    canvas = b"VP8X" + struct.pack("<IBBBB", 10, 2, 0, 0, 0) + b"\xff\x3f\x00\xff\x3f\x00"
    yield Picture("webp of 16384 x 16384", b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas, large)
    canvas = b"VP8L" + struct.pack("<IBI", 5, 0x2F, 0x3FFF | 0x3FFF << 14)
    yield Picture(
        "lossless webp of 16384 x 16384", b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas, large
    )
    yield Picture("tiff of 100000 x 100000", _tiff({256: 100_000, 257: 100_000}), large)
    yield Picture("jpeg of 65535 x 65535", _jpeg_of(65535, 65535), large)


def _bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 30, 0, 0, 54) + head + b"\0" * 30


def _pngs() -> Iterator[Picture]:
    good = _saved(_plain(), "PNG")
    text = zlib.compress(bytes(50_000_000), 9)
    yield Picture(
        "png with 50 MB of compressed text", good[:33] + _chunk(b"zTXt", b"a\0\0" + text) + good[33:], "decoded"
    )
    profile = _chunk(b"iCCP", b"a\0\0" + text)
    yield Picture("png with 50 MB of compressed profile", good[:33] + profile + good[33:], DECODES)
    yield Picture("png cut off in its header", good[:20], "cut off")
    yield Picture("png cut off in its data", good[:-40], "decoded")
    yield Picture("png of an unknown colour type", png(8, 8, colour=9), "image")
    yield Picture("png with data of another size", png(8, 8, rows=zlib.compress(b"\0" * 10)), "decoded")
    yield Picture("png whose data is no data", png(8, 8, rows=b"junk"), "decoded")
    yield Picture("png with a wrong checksum", good[:29] + b"\0\0\0\0" + good[33:], "")
    yield Picture("png of 16 bit grey", _saved(Image.fromarray(np.full((20, 20), 40_000, np.uint16)), "PNG"), DECODES)
    yield Picture("png with a palette and transparency", _saved(_plain(mode="P"), "PNG", transparency=0), DECODES)
    yield Picture("png with a transparent colour", _saved(_plain(), "PNG", transparency=(0, 0, 0)), DECODES)
    yield Picture("png of one bit", _saved(_plain(mode="1"), "PNG"), DECODES)
    yield Picture("png of grey with alpha", _saved(_plain(mode="LA"), "PNG"), DECODES)
    yield Picture("png of 1 x 30000", _saved(_plain(1, 30_000), "PNG"), DECODES)
    yield Picture("png with a script behind it", good + b"<script>alert(1)</script>", DECODES)
    yield Picture("png with a zip behind it", good + b"PK\x03\x04" + bytes(100), DECODES)
    second = _chunk(b"IHDR", struct.pack(">IIBBBBB", 9900, 9900, 8, 6, 0, 0, 0))
    bomb = _bomb(9900, 9900, colour=6, channels=4)
    yield Picture("png with a second, large header", png(8, 8, colour=6)[:33] + second + bomb[33:], "claims two sizes")
    yield Picture("png with a second header behind its data", good[:-12] + good[8:33] + good[-12:], "claims two sizes")
    yield Picture(
        "png of 1.6 million chunks", good[:33] + _chunk(b"abCd", b"") * 1_600_000 + good[33:], "14,687 chunks"
    )
    yield Picture("png of 1,000 chunks", good[:33] + _chunk(b"abCd", b"") * 1000 + good[33:], DECODES)


def _jpeg_of(width: int, height: int) -> bytes:
    """Return a JPEG whose header claims another size than its data has."""
    good = bytearray(_saved(_plain(), "JPEG"))
    at = good.index(b"\xff\xc0")
    good[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(good)


def _jpegs() -> Iterator[Picture]:
    good = _saved(_plain(), "JPEG")
    start = good.index(b"\xff\xc0")
    frame = good[start : start + 2 + struct.unpack_from(">H", good, start + 2)[0]]
    large = bytearray(frame)
    large[5:9] = struct.pack(">HH", 65000, 65000)
    yield Picture(
        "jpeg with a second, large frame", good[:start] + frame + bytes(large) + good[start + len(frame) :], "mega"
    )
    yield Picture(
        "jpeg with a first, large frame", good[:start] + bytes(large) + frame + good[start + len(frame) :], "mega"
    )
    yield Picture("jpeg of 9000 x 9000 of nothing", _jpeg_of(9000, 9000), "is cut off")
    progressive = _saved(_plain(), "JPEG", progressive=True)
    yield Picture("progressive jpeg", progressive, DECODES)
    at = progressive.index(b"\xff\xc2")
    wide = bytearray(progressive)
    wide[at + 5 : at + 9] = struct.pack(">HH", 8000, 8000)
    yield Picture("progressive jpeg of 64 megapixels", bytes(wide), "MB to be decoded")
    scan = progressive.index(b"\xff\xda")
    yield Picture(
        "progressive jpeg of 3000 scans",
        progressive[:scan] + progressive[scan:-2] * 3000 + b"\xff\xd9",
        "3000 scans|scans take",
    )
    wide[at + 5 : at + 9] = struct.pack(">HH", 3000, 3000)
    many = bytes(wide[:scan]) + bytes(wide[scan:-2]) * 3000
    yield Picture("progressive jpeg of 9 megapixels in 3000 scans", many, "scans take too long")
    yield Picture("jpeg of four channels", _saved(_plain(mode="CMYK"), "JPEG"), DECODES)
    yield Picture("grey jpeg", _saved(_plain(mode="L"), "JPEG"), DECODES)
    yield Picture("jpeg cut off in its data", good[:-100], "decoded")
    yield Picture("jpeg cut off in its header", good[:30], "cut off")
    yield Picture("jpeg of markers alone", b"\xff\xd8\xff" + b"\xe0\x00\x02\xff" * 5000, "cut off")
    yield Picture("jpeg with 60 KB before it begins", b"\xff\xd8" + b"\xff" * 60_000 + good[2:], "cut off")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield Picture("jpeg that lies on its side", _saved(_plain(), "JPEG", exif=exif), DECODES)
    yield Picture(
        "jpeg with damaged exif", good[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + good[2:], DECODES
    )
    yield Picture("jpeg that is a page, too", good[:2] + b"\xff\xfe\x00\x1f<script>alert(1)</script>  " + good[2:], "")


def _behind_palette(gif: bytes | bytearray) -> int:
    """Return where a GIF's blocks begin."""
    return 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 0x80 else 0)


def _animations() -> Iterator[Picture]:
    frames = [_plain(32, 32, "P") for _ in range(3)]
    gif = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10)
    one = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    yield Picture("gif of 10,000 frames", gif[:-1] + one * 10_000 + b";", DECODES)
    large = bytearray(_saved(Image.new("P", (9900, 9900)), "GIF"))
    large[6:10] = struct.pack("<HH", 1, 1)
    yield Picture("gif whose first frame is larger than its screen", bytes(large), "MB to be decoded")
    # Of a palette, a comment and bytes that mean nothing, which decoders pass over.
    start = _behind_palette(large)
    behind = bytes(large[:start]) + b"!\xfe\x03abc\x02de\x00" + bytes(9) + bytes(large[start:])
    yield Picture("gif whose large frame lies behind a comment", behind, "MB to be decoded")
    small_screen = bytearray(gif)
    small_screen[6:10] = struct.pack("<HH", 8, 8)
    yield Picture("gif of a frame that is a little larger than its screen", bytes(small_screen), DECODES)
    at = _behind_palette(gif)
    comment = b"!\xfe" + b"\x01a" * 100_000 + b"\x00"
    yield Picture("gif with a comment of 100,000 blocks", gif[:at] + comment + gif[at:], "blocks")
    small = _plain(16, 16)
    apng = _saved(small, "PNG", save_all=True, append_images=[small.rotate(90)] * 3, duration=10)
    at = apng.rindex(b"\0\0\0\0IEND")
    control = _chunk(b"fcTL", struct.pack(">IIIIIHHBB", 9, 1, 1, 0, 0, 1, 10, 0, 0))
    data = _chunk(b"fdAT", struct.pack(">I", 10) + zlib.compress(b"\0\0\0\0"))
    yield Picture("png of 4,000 frames", apng[:at] + (control + data) * 4000 + apng[at:], DECODES)
    yield Picture("png of 10,000 frames", apng[:at] + (control + data) * 10_000 + apng[at:], "chunks")
    yield Picture("webp of 200 frames", _saved(small, "WEBP", save_all=True, append_images=[small] * 199), DECODES)
    yield Picture("webp cut off", _saved(_plain(), "WEBP")[:40], "decoded")
    yield Picture("webp with alpha", _saved(_plain(mode="RGBA"), "WEBP", lossless=True), DECODES)


def _tiff(tags: dict[int, int], order: str = "<") -> bytes:
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def _tiffs() -> Iterator[Picture]:
    yield Picture("tiff", _saved(_plain(), "TIFF"), DECODES)
    yield Picture("tiff, squeezed", _saved(_plain(), "TIFF", compression="tiff_lzw"), DECODES)
    yield Picture(
        "tiff with strips nowhere", _tiff({256: 10, 257: 10, 258: 8, 273: 2**31, 277: 1, 279: 2**31}), "decoded"
    )
    yield Picture("tiff without a size", _tiff({258: 8}), "cut off")
    yield Picture("tiff that begins nowhere", b"II*\0\xff\xff\xff\xff", "cut off")
    yield Picture("tiff of 4096 entries that aren't there", b"II*\0" + struct.pack("<IH", 8, 4096), "cut off")
    twice = [(256, 4, 1, 9900), (257, 4, 1, 9900), (256, 4, 1, 8), (257, 4, 1, 8)]
    twice += [(258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1), (278, 4, 1, 8), (273, 4, 1, 8)]
    entries = b"".join(struct.pack("<HHII", *entry) for entry in [*twice, (279, 4, 1, 64)])
    head = b"II*\0" + struct.pack("<IH", 8, len(twice) + 1)
    yield Picture("tiff of two sizes", head + entries + bytes(4), "claims two sizes")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield Picture("tiff that lies on its side", _saved(_plain(), "TIFF", exif=exif), DECODES)
    pages = [_plain(16, 16)] * 200
    yield Picture("tiff of 200 pages", _saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]), DECODES)


def _others() -> Iterator[Picture]:
    unknown = "is not an image"
    yield Picture("svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', unknown)
    yield Picture("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run", unknown)
    yield Picture("pdf", b"%PDF-1.7\n1 0 obj", unknown)
    yield Picture("photoshop", b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 10, 10, 8, 3), unknown)
    yield Picture("icon", b"\0\0\x01\0\x01\0\x10\x10" + bytes(30), unknown)
    yield Picture("html", b"<!doctype html><script>alert(1)</script>", unknown)
    yield Picture("a program", b"\x7fELF" + bytes(60), unknown)
    yield Picture("zeros", bytes(5000), unknown)
    yield Picture("nothing", b"", "empty")
    yield Picture("bmp", _saved(_plain(), "BMP"), DECODES)
    runs = bytearray(_bmp(7_000_000, 1))
    runs[28:34] = struct.pack("<HI", 8, 1)
    yield Picture("bmp of 7 megapixels in run lengths", bytes(runs), "run lengths")
    yield Picture("bmp cut off", _saved(_plain(), "BMP")[:60], "decoded")
