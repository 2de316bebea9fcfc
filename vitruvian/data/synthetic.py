"""The synthetic set: articulated figures in ten poses, drawn as pictures or heatmaps, each from its number alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitruvian.data import render

# To be raised whenever a (seed, index) draws another figure, picture or heatmap than before: caches are keyed by it.
GENERATION: Final = 1

Floats = NDArray[np.float64]
Range = tuple[float, float]
# For either segment of a limb: how far it is lifted from hanging down, and which way in a person's own frame
# (0 to their side, 90 forward, 180 across the body, 270 back); all in degrees.
Limb = tuple[Range, Range, Range, Range]
Both = tuple[Limb, Limb]

_TOWARDS_US: Final[Range] = (0, 35)
# A bent knee or back shows from the side, not from the front.
_FROM_THE_SIDE: Final[Range] = (40, 78)


@dataclass(frozen=True)
class Pose:
    """A class: how far the trunk leans forward, the arms and legs (left, right) it may have, and how it is seen.

    `turn` is how far the person is turned away from the camera, to either side; like `lean` in degrees.
    """

    lean: Range
    arms: tuple[Both, ...]
    legs: tuple[Both, ...]
    turn: Range = _TOWARDS_US
    either_side: bool = True


_HANGING: Final[Limb] = ((4, 20), (0, 60), (4, 25), (20, 90))
_ON_HIP: Final[Limb] = ((38, 52), (-30, 0), (40, 60), (170, 200))
_UP: Final[Limb] = ((148, 175), (0, 60), (155, 180), (0, 120))
_SIDEWAYS: Final[Limb] = ((82, 98), (-12, 12), (82, 98), (-12, 15))
_FORWARD: Final[Limb] = ((70, 95), (75, 100), (75, 100), (80, 110))
_DOWN_TO_FLOOR: Final[Limb] = ((60, 100), (70, 100), (65, 105), (70, 110))
_ON_KNEE: Final[Limb] = ((25, 40), (60, 90), (50, 75), (70, 110))

_STRAIGHT: Final[Limb] = ((1, 10), (-20, 30), (0, 6), (-20, 90))
_APART: Final[Limb] = ((8, 16), (-10, 15), (5, 14), (-10, 15))
_SQUAT: Final[Limb] = ((88, 112), (35, 65), (12, 32), (200, 250))
_SEAT: Final[Limb] = ((78, 92), (68, 88), (0, 12), (60, 280))
_LUNGE_FRONT: Final[Limb] = ((62, 88), (70, 92), (0, 12), (60, 280))
_LUNGE_BACK: Final[Limb] = ((22, 42), (262, 285), (55, 80), (262, 278))
_TREE: Final[Limb] = ((55, 78), (-5, 30), (48, 66), (175, 200))

_RESTING: Final[tuple[Both, ...]] = ((_HANGING, _HANGING), (_ON_HIP, _ON_HIP), (_HANGING, _ON_HIP))
_UPRIGHT: Final[tuple[Both, ...]] = ((_STRAIGHT, _STRAIGHT), (_APART, _APART))

POSES: Final[dict[str, Pose]] = {
    "standing": Pose((-4, 6), _RESTING, _UPRIGHT),
    "arms-raised": Pose((-6, 6), ((_UP, _UP),), _UPRIGHT),
    "left-arm-raised": Pose((-5, 6), ((_UP, _HANGING), (_UP, _ON_HIP)), _UPRIGHT, either_side=False),
    "right-arm-raised": Pose((-5, 6), ((_HANGING, _UP), (_ON_HIP, _UP)), _UPRIGHT, either_side=False),
    "t-pose": Pose((-4, 6), ((_SIDEWAYS, _SIDEWAYS),), _UPRIGHT),
    "squatting": Pose((15, 40), (*_RESTING, (_FORWARD, _FORWARD)), ((_SQUAT, _SQUAT),)),
    "sitting": Pose(
        (-8, 10), ((_ON_KNEE, _ON_KNEE), (_HANGING, _ON_KNEE), (_ON_HIP, _ON_HIP)), ((_SEAT, _SEAT),), _FROM_THE_SIDE
    ),
    "lunging": Pose((-4, 12), (*_RESTING, (_FORWARD, _FORWARD)), ((_LUNGE_FRONT, _LUNGE_BACK),), _FROM_THE_SIDE),
    "bending": Pose((75, 110), ((_DOWN_TO_FLOOR, _DOWN_TO_FLOOR),), _UPRIGHT, _FROM_THE_SIDE),
    "tree": Pose((-4, 5), ((_UP, _UP), (_ON_HIP, _ON_HIP)), ((_STRAIGHT, _TREE),)),
}
CLASSES: Final[tuple[str, ...]] = tuple(POSES)

# Streams of random numbers that must not meet.
_BODY, _FIGURE, _SCENE, _PEAKS = range(4)


@dataclass(frozen=True, eq=False)
class Figure:
    """One posed person: keypoints (17, 2) in the unit square, x right and y down; `visible` and `depth` are (17,).

    `depth` is larger for what is nearer to the camera, in the unit of the keypoints. `subject` names the person, whose
    proportions and clothes are the same in all their figures.
    """

    label: str
    subject: str
    keypoints: NDArray[np.float32]
    visible: NDArray[np.bool_]
    depth: NDArray[np.float32]
    index: int
    seed: int


@dataclass(frozen=True)
class _Body:
    """Lengths over body height, and the clothes."""

    hip: float
    shoulder: float
    trunk: float
    neck: float
    segments: Floats
    look: render.Look


def figure(index: int, seed: int, subjects: int = 40) -> Figure:
    """Pose the figure of one number: a pure function of its arguments, the classes coming round in turn."""
    rng = _generator(_FIGURE, seed, index)
    label = CLASSES[index % len(CLASSES)]
    subject = int(rng.integers(subjects))
    joints = _view(_pose(POSES[label], _body(seed, subject), rng), POSES[label].turn, rng)
    keypoints = _place(joints[:, :2], rng)
    return Figure(
        label=label,
        subject=f"subject-{subject:03d}",
        keypoints=keypoints,
        visible=_seen(keypoints, rng),
        depth=(joints[:, 2] * np.ptp(keypoints[:, 1]) / np.ptp(joints[:, 1])).astype(np.float32),
        index=index,
        seed=seed,
    )


def picture(figure: Figure, size: int = 64) -> NDArray[np.uint8]:
    """Draw a figure in its clothes and a scene of its own: uint8 (size, size, 3) RGB."""
    rng = _generator(_SCENE, figure.seed, figure.index)
    look = _body(figure.seed, int(figure.subject.rpartition("-")[2])).look
    return render.draw_picture(figure.keypoints, figure.visible, size, rng, look=look, depth=figure.depth)


def heatmap(figure: Figure) -> NDArray[np.float32]:
    """Draw a figure as a pose model would see it in a 3:4 box around the person: float32 (17, 64, 48)."""
    rng = _generator(_PEAKS, figure.seed, figure.index)
    width, height = render.HEATMAP_WIDTH, render.HEATMAP_HEIGHT
    fitted = render.fit(figure.keypoints, width - 1, height - 1, margin=rng.uniform(0.08, 0.16))
    shift = rng.uniform(-0.05, 0.05, 2) * (width, height)
    return render.draw_heatmaps(fitted + shift, figure.visible, rng=rng)


def _generator(stream: int, *numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((stream, *numbers))))


@lru_cache(maxsize=1024)
def _body(seed: int, subject: int) -> _Body:
    rng = _generator(_BODY, seed, subject)
    # Upper arm, forearm, thigh, shin.
    segments = np.array([0.165, 0.145, 0.24, 0.24]) * rng.uniform(0.92, 1.08, 4)
    return _Body(
        hip=rng.uniform(0.05, 0.066),
        shoulder=rng.uniform(0.098, 0.125),
        trunk=rng.uniform(0.27, 0.31),
        neck=rng.uniform(0.10, 0.125),
        segments=segments,
        look=render.draw_look(rng),
    )


def _pose(pose: Pose, body: _Body, rng: np.random.Generator) -> Floats:
    """The 17 joints (17, 3) of a body in a pose: x to the person's left, y up, z forward, the hips' middle at 0."""
    arms, legs = pose.arms[rng.integers(len(pose.arms))], pose.legs[rng.integers(len(pose.legs))]
    if pose.either_side and rng.random() < 0.5:
        arms, legs = arms[::-1], legs[::-1]
    ranges = np.array((*arms, *legs)).reshape(4, 2, 2, 2)
    angles = rng.uniform(ranges[..., 0], ranges[..., 1]) + rng.normal(0.0, 4.0, (4, 2, 2))
    lift, turn = np.radians(angles[..., 0]), np.radians(angles[..., 1])
    ways = np.stack([np.sin(lift) * np.cos(turn), -np.cos(lift), np.sin(lift) * np.sin(turn)], axis=-1)
    ways[1::2, :, 0] *= -1
    ways[:2] *= body.segments[:2, None]
    ways[2:] *= body.segments[2:, None]

    lean, sway, twist = rng.uniform(*pose.lean), rng.normal(0.0, 4.0), rng.normal(0.0, 8.0)
    trunk = _turn_y(twist) @ _turn_z(sway) @ _turn_x(lean)
    head = trunk @ _turn_y(rng.uniform(-25, 25)) @ _turn_x(rng.uniform(-12, 15) - 0.4 * lean)

    joints = np.empty((17, 3))
    neck = trunk @ (0.0, body.trunk, 0.0)
    atlas = neck + trunk @ (0.0, 0.4 * body.neck, 0.0)
    skull = head @ (0.0, 0.6 * body.neck, 0.0)
    joints[:5] = atlas + skull + _FACE @ head.T
    across = np.array([[body.shoulder, 0.0, 0.0], [-body.shoulder, 0.0, 0.0]])
    joints[5:7] = neck + across @ trunk.T
    joints[7:9] = joints[5:7] + ways[:2, 0] @ trunk.T
    joints[9:11] = joints[7:9] + ways[:2, 1] @ trunk.T
    joints[11:13] = ((body.hip, 0.0, 0.0), (-body.hip, 0.0, 0.0))
    joints[13:15] = joints[11:13] + ways[2:, 0]
    joints[15:17] = joints[13:15] + ways[2:, 1]
    return joints


# Nose, eyes and ears from the middle of the head, over body height.
_FACE: Final = np.array(
    [[0.0, 0.0, 0.055], [0.018, 0.02, 0.046], [-0.018, 0.02, 0.046], [0.045, 0.008, 0.0], [-0.045, 0.008, 0.0]]
)


def _view(joints: Floats, turn: Range, rng: np.random.Generator) -> Floats:
    """Joints as a camera in front sees them: x right, y down, z nearer; the person's left is on the right."""
    yaw = rng.uniform(*turn) * rng.choice((-1, 1))
    camera = _turn_z(rng.normal(0.0, 3.0)) @ _turn_x(rng.uniform(0, 12)) @ _turn_y(yaw)
    seen: Floats = joints @ camera.T
    seen[:, 1] *= -1
    return seen


def _place(points: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
    """Points (17, 2) somewhere in the unit square, with room for the width of the body around them."""
    margin = 0.09
    size = rng.uniform(0.86, 1.0) * (1 - 2 * margin)
    low = points.min(axis=0)
    span = points.max(axis=0) - low
    scale = size * min(1 / span.max(), 1 / 0.75)
    free = 1 - 2 * margin - span * scale
    start = margin + free * rng.uniform(0.23, 0.77, 2)
    return np.asarray((points - low) * scale + start, np.float32)


def _seen(keypoints: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which joints nothing stands in front of: now and then a thing hides a hand, a knee, a shoulder."""
    if rng.random() >= 0.15:
        return np.ones(len(keypoints), np.bool_)
    centre = keypoints[rng.integers(5, len(keypoints))]
    hidden = np.hypot(*(keypoints - centre).T) < rng.uniform(0.02, 0.09)
    return np.asarray(~hidden, np.bool_)


def _turn_x(degrees: float) -> Floats:
    """Turn about the axis to the person's left: what is up goes forward."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _turn_y(degrees: float) -> Floats:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _turn_z(degrees: float) -> Floats:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
