"""Drawing a person from 17 keypoints: dressed and in a scene, or as the heatmaps that a pose model gives."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vitruvian.data import skeleton as sk

HEATMAP_HEIGHT: Final = 64
HEATMAP_WIDTH: Final = 48

Colour = tuple[int, int, int]
Point = tuple[float, float]
Floats = NDArray[np.float32]

# Length over body height of what is seldom all foreshortened at once: from these the height is told in any pose.
_SEGMENTS: Final = (
    (sk.L_SHOULDER, sk.L_ELBOW, 0.17),
    (sk.R_SHOULDER, sk.R_ELBOW, 0.17),
    (sk.L_ELBOW, sk.L_WRIST, 0.15),
    (sk.R_ELBOW, sk.R_WRIST, 0.15),
    (sk.L_HIP, sk.L_KNEE, 0.24),
    (sk.R_HIP, sk.R_KNEE, 0.24),
    (sk.L_KNEE, sk.L_ANKLE, 0.24),
    (sk.R_KNEE, sk.R_ANKLE, 0.24),
    (sk.L_SHOULDER, sk.L_HIP, 0.30),
    (sk.R_SHOULDER, sk.R_HIP, 0.30),
    (sk.L_SHOULDER, sk.R_SHOULDER, 0.23),
)
_STARTS, _ENDS, _LENGTHS = (np.array(column) for column in zip(*_SEGMENTS, strict=True))

_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Look:
    """What a person wears and how stout they are: colours as 8-bit RGB, `build` a factor on the width of the body."""

    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    build: float
    short_sleeves: bool
    shorts: bool


def draw_look(rng: np.random.Generator) -> Look:
    """Draw the clothes and build of one person."""
    hue, other, tone, dark, warm, build, sleeves, shorts = rng.random(8).tolist()
    return Look(
        skin=_hsv(0.05 + 0.04 * warm, 0.3 + 0.2 * tone, 0.97 - 0.37 * tone),
        hair=_hsv(0.08, 0.5, 0.08 + 0.4 * dark),
        shirt=_hsv(hue, 0.25 + 0.4 * other, 0.85 + 0.15 * dark),
        trousers=_hsv(hue + 0.25 + 0.5 * other, 0.25 + 0.35 * warm, 0.7 + 0.25 * tone),
        shoes=_hsv(other, 0.3, 0.15 + 0.7 * warm),
        build=1.1 + 0.3 * build,
        short_sleeves=sleeves < 0.4,
        shorts=shorts < 0.25,
    )


def fit(points: NDArray[np.floating], width: float, height: float, margin: float = 0.12) -> Floats:
    """Move and scale points (..., 2) so that their box lies centred in width x height, aspect kept.

    `margin` is the share of each side left free at either end. NaN points stay NaN; without any finite point
    all are NaN.
    """
    flat = points.reshape(-1, 2)
    seen = flat[known(flat)]
    if not len(seen):
        return np.full(points.shape, np.nan, np.float32)
    low, high = seen.min(axis=0), seen.max(axis=0)
    span = np.maximum(high - low, 1e-6)
    room = np.array([width, height]) * (1 - 2 * margin)
    scale = float((room / span).min())
    middle = np.array([width, height]) / 2
    return np.asarray((points - (low + high) / 2) * scale + middle, np.float32)


def known(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which points (n, 2) have a place: (n,), False where a coordinate is NaN or infinite."""
    return np.asarray(np.isfinite(points).all(axis=1), np.bool_)


def draw_heatmaps(
    keypoints: NDArray[np.floating],
    visible: NDArray[np.bool_],
    *,
    sigma: float = 2.0,
    rng: np.random.Generator | None = None,
    height: int = HEATMAP_HEIGHT,
    width: int = HEATMAP_WIDTH,
) -> Floats:
    """Draw a Gaussian peak for each keypoint: (17, 2) in heatmap pixels -> float32 (17, height, width) in [0, 1].

    `sigma` is in heatmap pixels. A hidden joint has a low peak, a NaN one none. With `rng` the peaks have the uneven
    heights and places that a pose model gives, without it a seen joint's peak is 1.
    """
    joints = len(keypoints)
    peaks = np.where(visible, 1.0, 0.25)
    centres = np.asarray(keypoints, np.float32)
    if rng is not None:
        peaks = np.where(visible, rng.uniform(0.55, 1.0, joints), rng.uniform(0.0, 0.35, joints))
        centres = centres + rng.normal(0.0, 0.4, (joints, 2)).astype(np.float32)
    there = known(centres)
    peaks = np.where(there, peaks, 0.0).astype(np.float32)
    centres = np.where(there[:, None], centres, np.float32(0))
    across = _bell(width, centres[:, 0], sigma)
    down = _bell(height, centres[:, 1], sigma)
    return np.asarray((peaks[:, None] * down)[:, :, None] * across[:, None, :], np.float32)


def _bell(length: int, centres: Floats, sigma: float) -> Floats:
    """One Gaussian per centre (n, length), nothing beyond 4 sigma."""
    steps = (np.arange(length, dtype=np.float32) - centres[:, None]) / np.float32(sigma)
    # Cut off before the exponential: what it gives farther out is too small for a float and slow to compute with.
    return np.where(np.abs(steps) < 4, np.exp(-0.5 * np.minimum(steps**2, 16)), np.float32(0))


def draw_picture(
    keypoints: NDArray[np.floating],
    visible: NDArray[np.bool_],
    size: int,
    rng: np.random.Generator,
    *,
    look: Look | None = None,
    depth: NDArray[np.floating] | None = None,
) -> NDArray[np.uint8]:
    """Draw a dressed person in a random scene: keypoints (17, 2) in the unit square -> uint8 (size, size, 3) RGB.

    `depth` (17,) is larger for what is nearer to the camera, in the unit of the keypoints. Parts with a NaN joint are
    left out; something stands in front of joints that are not `visible`. The scene is a pure function of `rng`.
    """
    look = look or draw_look(rng)
    side = size * _SUPERSAMPLING
    canvas = _background(side, rng)
    draw = ImageDraw.Draw(canvas)
    points = np.asarray(keypoints, np.float64) * side
    near = np.zeros(len(points)) if depth is None else np.asarray(depth, np.float64) * side
    _Body(draw, points, near, look, flat=depth is None).draw()
    _occlude(draw, points[~visible], side, rng)
    return _expose(canvas.reduce(_SUPERSAMPLING), rng)


def body_height(points: NDArray[np.floating]) -> float:
    """Estimate how tall the person would stand, in the unit of the points (17, 2); 0 where nothing can be told."""
    ends = points[_ENDS] - points[_STARTS]
    tall = np.hypot(ends[:, 0], ends[:, 1]) / _LENGTHS
    tall = np.sort(tall[np.isfinite(tall)])[-4:]
    return float(tall.mean()) if len(tall) else 0.0


class _Body:
    """One person on one canvas; lengths in canvas pixels."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, points: NDArray[np.float64], near: NDArray[np.float64], look: Look, flat: bool
    ) -> None:
        self.pen = draw
        self.height = body_height(points)
        self.unit = self.height * look.build
        self.look = look
        self.flat = flat
        self.near = near.tolist()
        self.at: list[Point] = [(x, y) for x, y in points.tolist()]
        self.known: list[bool] = known(points).tolist()

    def draw(self) -> None:
        look = self.look
        sleeve = look.skin if look.short_sleeves else look.shirt
        leg = look.skin if look.shorts else look.trousers
        # Flat keypoints tell no depth: then legs come first and arms last, as they mostly hang.
        parts: list[tuple[float, int]] = []
        limbs = (
            (sk.L_HIP, sk.L_KNEE, 0.046, 0.036, look.trousers),
            (sk.R_HIP, sk.R_KNEE, 0.046, 0.036, look.trousers),
            (sk.L_KNEE, sk.L_ANKLE, 0.034, 0.025, leg),
            (sk.R_KNEE, sk.R_ANKLE, 0.034, 0.025, leg),
            (sk.L_SHOULDER, sk.L_ELBOW, 0.032, 0.026, look.shirt),
            (sk.R_SHOULDER, sk.R_ELBOW, 0.032, 0.026, look.shirt),
            (sk.L_ELBOW, sk.L_WRIST, 0.025, 0.020, sleeve),
            (sk.R_ELBOW, sk.R_WRIST, 0.025, 0.020, sleeve),
        )
        for index, (start, end, *_) in enumerate(limbs):
            bias = 0.02 if index < 4 else 0.06
            parts.append((self._depth(start, end) + bias * self.height, index))
        parts.append((self._depth(sk.L_SHOULDER, sk.R_SHOULDER, sk.L_HIP, sk.R_HIP) + 0.03 * self.height, 8))
        parts.append((self._depth(sk.L_EAR, sk.R_EAR) + 0.05 * self.height, 9))
        parts.sort()
        for place, (_, index) in enumerate(parts):
            light = 1.0 if self.flat else 0.78 + 0.22 * place / (len(parts) - 1)
            if index == 8:
                self._torso(light)
            elif index == 9:
                self._head(light)
            else:
                start, end, wide, narrow, colour = limbs[index]
                self._limb(start, end, wide, narrow, _shade(colour, light), light)

    def _depth(self, *joints: int) -> float:
        depths = [self.near[joint] for joint in joints if self.known[joint]]
        return sum(depths) / len(depths) if depths else 0.0

    def _limb(self, start: int, end: int, wide: float, narrow: float, colour: Colour, light: float) -> None:
        if not (self.known[start] and self.known[end]):
            return
        a, b = self.at[start], self.at[end]
        if end in (sk.L_WRIST, sk.R_WRIST):
            self._disc(_beyond(a, b, 0.022 * self.height), 0.027 * self.unit, _shade(self.look.skin, light))
        if end in (sk.L_ANKLE, sk.R_ANKLE):
            self._disc(_beyond(a, b, 0.015 * self.height), 0.033 * self.unit, _shade(self.look.shoes, light))
        self._capsule(a, b, wide * self.unit, narrow * self.unit, colour)

    def _torso(self, light: float) -> None:
        shirt, trousers = _shade(self.look.shirt, light), _shade(self.look.trousers, light)
        corners = [self.at[joint] for joint in (sk.L_SHOULDER, sk.R_SHOULDER, sk.R_HIP, sk.L_HIP) if self.known[joint]]
        if self.known[sk.L_HIP] and self.known[sk.R_HIP]:
            self._capsule(self.at[sk.L_HIP], self.at[sk.R_HIP], 0.05 * self.unit, 0.05 * self.unit, trousers)
        if len(corners) > 2:
            self.pen.polygon(corners, fill=shirt)
        for one, other in zip(corners, corners[1:] + corners[:1], strict=True):
            self._capsule(one, other, 0.035 * self.unit, 0.035 * self.unit, shirt)

    def _head(self, light: float) -> None:
        ears = self.known[sk.L_EAR] and self.known[sk.R_EAR]
        if not ears and not self.known[sk.NOSE]:
            return
        centre = _middle(self.at[sk.L_EAR], self.at[sk.R_EAR]) if ears else self.at[sk.NOSE]
        skin, hair = _shade(self.look.skin, light), _shade(self.look.hair, light)
        radius = 0.07 * self.height
        if self.known[sk.L_SHOULDER] and self.known[sk.R_SHOULDER]:
            neck = _middle(self.at[sk.L_SHOULDER], self.at[sk.R_SHOULDER])
            self._capsule(neck, centre, 0.03 * self.unit, 0.03 * self.unit, skin)
            up = _beyond(neck, centre, 0.016 * self.height)
        else:
            up = centre
        self._disc(up, radius * 1.06, hair)
        facing = self.flat or self._depth(sk.NOSE) > self._depth(sk.L_EAR, sk.R_EAR)
        if not facing:
            return
        face = _towards(centre, self.at[sk.NOSE], 0.35) if ears and self.known[sk.NOSE] else centre
        self._disc(face, radius * 0.82, skin)
        for eye in (sk.L_EYE, sk.R_EYE):
            if self.known[eye]:
                self._disc(self.at[eye], 0.008 * self.height, (30, 25, 25))

    def _disc(self, at: Point, radius: float, colour: Colour) -> None:
        x, y = at
        self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def _capsule(self, a: Point, b: Point, wide: float, narrow: float, colour: Colour) -> None:
        (ax, ay), (bx, by) = a, b
        length = math.hypot(bx - ax, by - ay)
        if length > 1e-6:
            nx, ny = (ay - by) / length, (bx - ax) / length
            self.pen.polygon(
                (
                    (ax + nx * wide, ay + ny * wide),
                    (bx + nx * narrow, by + ny * narrow),
                    (bx - nx * narrow, by - ny * narrow),
                    (ax - nx * wide, ay - ny * wide),
                ),
                fill=colour,
            )
        self._disc(a, wide, colour)
        self._disc(b, narrow, colour)


def _background(side: int, rng: np.random.Generator) -> Image.Image:
    """A wall and a floor, unevenly lit, with a few things standing about."""
    wall, floor, things = rng.random((3, 3)).tolist()
    canvas = Image.new("RGB", (side, side), _muted(wall))
    draw = ImageDraw.Draw(canvas)
    horizon = side * rng.uniform(0.55, 0.9)
    for x, y, w, h, hue, tone in rng.random((int(3 * things[0]) + 1, 6)).tolist():
        left, top = (1.3 * x - 0.3) * side, horizon - h * 0.6 * side
        box = (left, top * y, left + (0.1 + 0.35 * w) * side, horizon)
        draw.rectangle(box, fill=_muted((hue, tone, wall[2])))
    draw.rectangle((0, horizon, side, side), fill=_muted(floor))
    light = rng.uniform(0.8, 1.1, (4, 4, 1)) * 255 / 1.1
    shade = Image.fromarray(light.astype(np.uint8)[:, :, 0]).resize((side, side), Image.Resampling.BILINEAR)
    return Image.composite(canvas, Image.new("RGB", (side, side)), shade)


def _occlude(draw: ImageDraw.ImageDraw, hidden: NDArray[np.float64], side: int, rng: np.random.Generator) -> None:
    hidden = hidden[known(hidden)]
    if not len(hidden):
        return
    pad = side * rng.uniform(0.03, 0.06, 4)
    (left, top), (right, bottom) = hidden.min(axis=0), hidden.max(axis=0)
    colour = _muted(rng.random(3).tolist())
    draw.rectangle((left - pad[0], top - pad[1], right + pad[2], bottom + pad[3]), fill=colour)


def _expose(canvas: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness and contrast of a camera, and its grain."""
    brightness, contrast = rng.uniform(-12, 12), rng.uniform(0.85, 1.1)
    pixels = np.asarray(canvas, np.float32)
    grain = rng.integers(-8, 9, pixels.shape, np.int8)
    exposed = (pixels - 128) * np.float32(contrast) + np.float32(128 + brightness) + grain
    return np.asarray(np.clip(exposed, 0, 255), np.uint8)


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _muted(numbers: tuple[float, float, float] | list[float]) -> Colour:
    hue, grey, value = numbers
    return _hsv(hue, 0.1 + 0.3 * grey, 0.12 + 0.28 * value)


def _shade(colour: Colour, light: float) -> Colour:
    red, green, blue = colour
    return round(red * light), round(green * light), round(blue * light)


def _middle(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2


def _towards(a: Point, b: Point, share: float) -> Point:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def _beyond(a: Point, b: Point, distance: float) -> Point:
    """The point `distance` past `b` on the way from `a`."""
    length = math.hypot(b[0] - a[0], b[1] - a[1])
    return b if length < 1e-6 else _towards(a, b, 1 + distance / length)
