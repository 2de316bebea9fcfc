"""JPEGs to send, made of noise and shapes so that they have the size of photographs."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def photograph(width: int, height: int, *, seed: int = 0, quality: int = 85) -> bytes:
    """Return a JPEG with as much detail as a photograph: shapes, soft noise, a little grain."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(rng.integers(60, 200, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        size = int(rng.integers(width // 40, width // 4))
        draw.ellipse((x - size, y - size, x + size, y + size), fill=tuple(rng.integers(0, 255, 3).tolist()))
    image = image.filter(ImageFilter.GaussianBlur(max(1, width // 800)))
    grain = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    array = np.clip(np.asarray(image, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
    return _jpeg(Image.fromarray(array), quality)


def noisy(size: int) -> bytes:
    """Return a JPEG of about so many bytes."""
    # So many bytes a pixel such noise takes.
    side = int((size / 0.61) ** 0.5)
    array = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return _jpeg(Image.fromarray(array), 75)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
