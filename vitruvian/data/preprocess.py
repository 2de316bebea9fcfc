"""What happens to an input before the model, the same in training and in serving; saved as `preprocess.json`."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vitruvian.data.decode import (
    HEATMAP_SHAPE,
    HEATMAP_SUFFIXES,
    IMAGE_SUFFIXES,
    Bounds,
    decode_heatmap,
    decode_image,
)


class _Preprocess(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Spread = Annotated[float, Field(gt=0)]


class ImagePreprocess(_Preprocess):
    """An image: upright, RGB, squeezed to a square, then (value / 255 - mean) / std for each channel."""

    kind: Literal["image"] = "image"
    size: int = Field(ge=1, le=2048)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[Spread, Spread, Spread] = (0.5, 0.5, 0.5)

    @property
    def suffixes(self) -> tuple[str, ...]:
        return IMAGE_SUFFIXES

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one prepared input, height first."""
        return (self.size, self.size, 3)

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of one input of the model, channels first."""
        return (3, self.size, self.size)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    def prepare(self, content: bytes, where: object, bounds: Bounds | None = None) -> NDArray[np.uint8]:
        """Return the bytes of a file as a prepared input, (size, size, 3) of uint8; raises `DataError`."""
        return decode_image(content, where, self.size, bounds)

    def tensor(self, prepared: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return prepared inputs (n, size, size, 3) as the model takes them, (n, 3, size, size) of float32."""
        made = np.empty((len(prepared), 3, self.size, self.size), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            # One pass each, in place: this runs while nobody else's Python does.
            plane = made[:, channel]
            np.multiply(prepared[..., channel], np.float32(1 / (255 * std)), out=plane, dtype=np.float32)
            plane -= np.float32(mean / std)
        return made


class HeatmapPreprocess(_Preprocess):
    """Heatmaps of the 17 COCO keypoints of one person, as they come from a pose estimator."""

    kind: Literal["heatmap"] = "heatmap"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return HEATMAP_SUFFIXES

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one prepared input: keypoints, height, width."""
        return HEATMAP_SHAPE

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of one input of the model."""
        return HEATMAP_SHAPE

    @property
    def dtype(self) -> np.dtype[np.float16]:
        return np.dtype(np.float16)

    def prepare(self, content: bytes, where: object, bounds: Bounds | None = None) -> NDArray[np.float16]:
        """Return the bytes of a `.npy` file as a prepared input, (17, 64, 48) of float16; raises `DataError`."""
        return decode_heatmap(content, where)

    def tensor(self, prepared: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return prepared inputs as the model takes them, (n, 17, 64, 48) of float32."""
        return prepared.astype(np.float32)


Preprocess = Annotated[ImagePreprocess | HeatmapPreprocess, Field(discriminator="kind")]
PREPROCESS: TypeAdapter[ImagePreprocess | HeatmapPreprocess] = TypeAdapter(Preprocess)
