"""From the bytes of a file to pixels or heatmaps, refusing what can't or shouldn't be decoded."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vitruvian.errors import DataError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
HEATMAP_SUFFIXES = (".npy",)
HEATMAP_SHAPE = (17, 64, 48)
MAX_PIXELS = 100_000_000
_NPY_HEADER = 4096


def decode_image(content: bytes, where: object, size: int) -> NDArray[np.uint8]:
    """Return an image as RGB, upright, squeezed to a square.

    Result: (size, size, 3). A transparent image is laid on white. Large JPEGs are decoded at a reduced scale of at
    least twice the result. Raises `DataError` for what isn't an image, is cut off, or has more than `MAX_PIXELS`.
    """
    if not content:
        raise DataError("the file is empty", where=where, hint="replace or remove it")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images; the limit below decides.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise DataError(
                        f"{width}x{height} is more than {MAX_PIXELS // 10**6} megapixels",
                        where=where,
                        hint="scale it down or remove it",
                    )
                image.draft("RGB", (2 * size, 2 * size))
                upright = ImageOps.exif_transpose(_rgb(image))
                return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
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


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow would clip 16 bits to 8 instead of scaling them.
        sixteen = np.asarray(image).astype(np.uint32)
        return _keep_orientation(Image.fromarray((sixteen >> 8).clip(0, 255).astype(np.uint8)).convert("RGB"), image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return _keep_orientation(Image.alpha_composite(paper, layer).convert("RGB"), image)
    return image.convert("RGB")


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
        shape, _, dtype = header(file, max_header_size=_NPY_HEADER)
    except Exception as e:  # The header is parsed as Python, which fails in more ways than numpy names.
        raise DataError("is not a .npy file", where=where, hint=hint) from e
    if shape not in (HEATMAP_SHAPE, (1, *HEATMAP_SHAPE)):
        raise DataError(f"has shape {list(shape)} instead of [1, 17, 64, 48] or [17, 64, 48]", where=where, hint=hint)
    if dtype.kind not in "fiu":
        raise DataError(f"holds {dtype} instead of real numbers", where=where, hint=hint)
    try:
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
