"""From the bytes of a file to pixels or heatmaps, refusing what can't or shouldn't be decoded."""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vitruvian.data.headers import Header, read_header
from vitruvian.errors import DataError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
HEATMAP_SUFFIXES = (".npy",)
HEATMAP_SHAPE = (17, 64, 48)
MAX_PIXELS = 100_000_000
_MOST_SCANS = 64
"""Of a progressive JPEG; tools make about ten, and each is a pass over the whole picture."""
_OF_THE_RESULT = 1.5
"""Large JPEGs are decoded at a fraction whose sides are at least so many times the result's."""
_NPY_HEADER = 4096


@dataclass(frozen=True)
class Bounds:
    """How much memory pictures may take while they are decoded."""

    most: int
    """Bytes of one picture at its peak."""
    hold: Callable[[int], AbstractContextManager[None]]
    """Waits until there is room for so many bytes."""


def decode_image(content: bytes, where: object, size: int, bounds: Bounds | None = None) -> NDArray[np.uint8]:
    """Return an image as RGB, upright, squeezed to a square.

    Result: (size, size, 3). A transparent image is laid on white. Large JPEGs are decoded at a fraction of their size.
    Raises `DataError` for what isn't an image, is cut off, has more than `MAX_PIXELS`, or needs more memory than its
    bounds allow; what is refused by its header costs next to nothing.
    """
    if not content:
        raise DataError("the file is empty", where=where, hint="replace or remove it")
    wanted = _OF_THE_RESULT * size
    header = read_header(content)
    if header is None:
        known = ", ".join(IMAGE_FORMATS)
        raise DataError(f"is not an image ({known}), or is cut off", where=where, hint="replace or remove it")
    _check(header, where, len(content), header.peak(wanted), bounds)
    with bounds.hold(header.peak(wanted)) if bounds else nullcontext():
        return _decoded(content, where, header, size, wanted)


def _check(header: Header, where: object, size: int, peak: int, bounds: Bounds | None) -> None:
    hint = "scale it down or remove it"
    if header.pixels > MAX_PIXELS:
        what = f"{header.width}x{header.height} is more than {MAX_PIXELS // 10**6} megapixels"
        raise DataError(what, where=where, hint=hint)
    if header.flaw:
        raise DataError(header.flaw, where=where, hint="save it anew with another program, or remove it")
    if not header.pixels:
        raise DataError(f"is {header.width}x{header.height} pixels large", where=where, hint="replace or remove it")
    if header.least_bytes > size:
        raise DataError("is cut off", where=where, hint="replace or remove it")
    if header.scans > _MOST_SCANS:
        what = f"{header.scans} scans take too long to decode"
        raise DataError(what, where=where, hint="save it as a baseline JPEG")
    if bounds and peak > bounds.most:
        what = (
            f"{header.width}x{header.height} needs {math.ceil(peak / 1e6)} MB to be decoded from {header.format}, "
            f"{bounds.most // 10**6} MB is the most"
        )
        raise DataError(what, where=where, hint="scale it down, or send it as a baseline JPEG")


def _decoded(content: bytes, where: object, header: Header, size: int, wanted: float) -> NDArray[np.uint8]:
    try:
        # Pillow warns of large images; the limits above have decided.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image,
        ):
            # Sorted: Pillow turns a TIFF that lies on its side.
            if sorted(image.size) != sorted((header.width, header.height)):
                raise DataError("claims two sizes", where=where, hint="replace or remove it")
            image.draft("RGB", (math.ceil(wanted), math.ceil(wanted)))
            small = _rgb(image, (size, size))
            return np.asarray(ImageOps.exif_transpose(_keep_orientation(small, image)), dtype=np.uint8)
    except DataError:
        raise
    except Image.DecompressionBombError as e:
        raise DataError("has too many pixels to be decoded", where=where, hint="scale it down or remove it") from e
    except UnidentifiedImageError as e:
        known = ", ".join(IMAGE_FORMATS)
        raise DataError(f"is not an image ({known})", where=where, hint="replace or remove it") from e
    except MemoryError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, TypeError, KeyError) as e:
        raise DataError(f"can't be decoded as an image ({e})", where=where, hint="replace or remove it") from e


def _rgb(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image as RGB of this size, with as few copies of its full size as there can be."""

    def resized(whole: Image.Image) -> Image.Image:
        return whole.resize(size, Image.Resampling.BILINEAR)

    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow would clip 16 bits to 8 instead of scaling them.
        eight = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return resized(Image.fromarray(eight)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image if image.mode in ("RGBA", "RGBa") else image.convert("RGBA")
        # What is transparent has no colour that neighbours could take on.
        small = resized(layer if layer.mode == "RGBa" else layer.convert("RGBa")).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", size, "white"), small).convert("RGB")
    if image.mode in ("RGB", "L"):
        return resized(image).convert("RGB")
    return resized(image.convert("RGB"))


def _keep_orientation(made: Image.Image, source: Image.Image) -> Image.Image:
    made.info["exif"] = source.getexif().tobytes()
    return made


def decode_heatmap(content: bytes, where: object) -> NDArray[np.float16]:
    """Return the heatmaps of one person.

    Takes a `.npy` file of [1, 17, 64, 48] or [17, 64, 48] (COCO keypoints, as ViTPose gives them), any real number
    type. Result: (17, 64, 48), half precision. Raises `DataError` for anything else, naming the shape found.
    """
    hint = "write it with numpy.save as float32 of shape [1, 17, 64, 48]"
    try:
        # The header is read alone first: a short file can claim an array of any size.
        file = io.BytesIO(content)
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        # numpy warns of files that Python 2 wrote; they are read as well.
        with warnings.catch_warnings(action="ignore"):
            shape, _, dtype = header(file, max_header_size=_NPY_HEADER)
    except Exception as e:  # The header is parsed as Python, which fails in more ways than numpy names.
        raise DataError("is not a .npy file", where=where, hint=hint) from e
    if shape not in (HEATMAP_SHAPE, (1, *HEATMAP_SHAPE)):
        raise DataError(f"has shape {list(shape)} instead of [1, 17, 64, 48] or [17, 64, 48]", where=where, hint=hint)
    if dtype.kind not in "fiu":
        raise DataError(f"holds {dtype} instead of real numbers", where=where, hint=hint)
    try:
        with warnings.catch_warnings(action="ignore"):
            array = np.load(io.BytesIO(content), allow_pickle=False).reshape(HEATMAP_SHAPE)
    except Exception as e:  # A damaged header can pass for a good one until here.
        raise DataError("is cut off or damaged", where=where, hint="replace or remove it") from e
    half: NDArray[np.float16] = half_heatmaps(array[None], where)[0]
    return half


def half_heatmaps(array: NDArray[np.generic], where: object) -> NDArray[np.float16]:
    """Return heatmaps (n, 17, 64, 48) in half precision; raises `DataError` where a value isn't finite there."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise DataError("holds values that aren't finite numbers", where=where, hint="replace or remove it")
    return half
