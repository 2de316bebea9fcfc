"""Drawing from keypoints: what is known is drawn where it is, what is not known leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vitruvian.data import render
from vitruvian.data import skeleton as sk
from vitruvian.data.synthetic import figure

ALL = np.ones(17, np.bool_)


def person() -> NDArray[np.float32]:
    return figure(0, 0).keypoints


def generator() -> np.random.Generator:
    return np.random.default_rng(1)


def test_keypoints_pair_left_with_right() -> None:
    assert len(sk.KEYPOINTS) == 17
    assert [sk.KEYPOINTS[place] for place in (sk.NOSE, sk.L_WRIST, sk.R_ANKLE)] == ["nose", "left_wrist", "right_ankle"]
    for left, right in sk.PAIRS:
        assert sk.KEYPOINTS[left].replace("left", "right") == sk.KEYPOINTS[right]
        assert (sk.MIRROR[left], sk.MIRROR[right]) == (right, left)
    assert [sk.MIRROR[place] for place in sk.MIRROR] == list(range(17))


def test_a_heatmap_peaks_at_its_keypoint() -> None:
    places = np.stack([np.arange(17) * 2.0 + 5, np.arange(17) * 3.0 + 4], axis=1)
    maps = render.draw_heatmaps(places, ALL)
    assert maps.shape == (17, 64, 48)
    for channel, (x, y) in zip(maps, places, strict=True):
        assert np.unravel_index(channel.argmax(), channel.shape) == (y, x)
        assert channel.max() == 1
        assert channel[int(y), int(x) + 2] == pytest.approx(np.exp(-0.5))


def test_an_unknown_keypoint_leaves_an_empty_heatmap() -> None:
    places = np.full((17, 2), 20.0)
    places[3] = np.nan
    places[4, 0] = np.nan
    maps = render.draw_heatmaps(places, ALL, rng=generator())
    assert np.isfinite(maps).all()
    assert maps[3].max() == maps[4].max() == 0
    assert maps[5].max() > 0.5


def test_a_hidden_keypoint_peaks_low() -> None:
    visible = ALL.copy()
    visible[9] = False
    for rng in (None, generator()):
        peaks = render.draw_heatmaps(np.full((17, 2), 20.0), visible, rng=rng).reshape(17, -1).max(axis=1)
        assert peaks[9] < 0.36 < peaks[visible].min()


def test_a_box_is_fitted_with_its_aspect_kept() -> None:
    points = np.array([[0.0, 0.0], [2.0, 1.0], [np.nan, np.nan], [1.0, 0.5]])
    fitted = render.fit(points, 48, 64, margin=0.25)
    np.testing.assert_allclose(fitted[[0, 1, 3]], [[12, 26], [36, 38], [24, 32]])
    assert np.isnan(fitted[2]).all()


def test_a_single_point_is_fitted_to_the_middle_and_none_stays_none() -> None:
    np.testing.assert_allclose(render.fit(np.array([[5.0, 5.0]]), 48, 64), [[24, 32]])
    assert np.isnan(render.fit(np.full((17, 2), np.nan), 48, 64)).all()


def test_the_same_generator_state_draws_the_same_picture() -> None:
    one, other = (render.draw_picture(person(), ALL, 64, generator()) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (64, 64, 3)
    assert one.dtype == np.uint8


def test_the_person_is_drawn_where_the_keypoints_are() -> None:
    look = render.draw_look(np.random.default_rng(0))
    shown = render.draw_picture(person(), ALL, 64, generator(), look=look).astype(int)
    empty = render.draw_picture(np.full((17, 2), np.nan), ALL, 64, generator(), look=look).astype(int)
    changed = np.abs(shown - empty).max(axis=2) > 40
    x, y = (person()[[sk.L_HIP, sk.L_KNEE, sk.R_SHOULDER]] * 64).astype(int).T
    assert changed[y, x].all()
    assert not changed[[0, -1]].any()
    assert not changed[:, [0, -1]].any()


def test_a_thing_stands_in_front_of_hidden_joints() -> None:
    hidden = ALL.copy()
    hidden[[sk.L_HIP, sk.R_HIP]] = False
    look = render.draw_look(np.random.default_rng(0))
    free, covered = (render.draw_picture(person(), seen, 64, generator(), look=look) for seen in (ALL, hidden))
    x, y = (person()[[sk.L_HIP, sk.R_HIP]].mean(axis=0) * 64).astype(int)
    assert np.abs(free[y, x].astype(int) - covered[y, x]).max() > 30
    assert (covered[y - 1 : y + 2, x - 1 : x + 2].std(axis=(0, 1)) < 12).all()


@pytest.mark.parametrize("missing", [[1, 2, 3, 4], [0, 1, 2, 3, 4], [5], [11, 12], list(range(1, 17)), list(range(17))])
def test_missing_joints_never_stop_the_drawing(missing: list[int]) -> None:
    points = person().copy()
    points[missing] = np.nan
    drawn = render.draw_picture(points, ALL, 64, generator(), depth=np.where(np.isnan(points[:, 0]), np.nan, 0.0))
    assert drawn.shape == (64, 64, 3)


def test_joints_in_one_place_are_drawn_without_complaint() -> None:
    with np.errstate(all="raise"):
        render.draw_picture(np.full((17, 2), 0.5), ALL, 64, generator())
        render.draw_heatmaps(np.full((17, 2), 20.0), ALL)


def test_what_is_nearer_is_drawn_over_what_is_farther() -> None:
    points = person().copy()
    points[[sk.L_ELBOW, sk.L_WRIST]] = points[[sk.L_HIP, sk.R_HIP]].mean(axis=0) - [[0, 0.1], [0, 0.12]]
    near, far = np.zeros(17), np.zeros(17)
    near[[sk.L_SHOULDER, sk.L_ELBOW, sk.L_WRIST]] = 1.0
    far[[sk.L_SHOULDER, sk.L_ELBOW, sk.L_WRIST]] = -1.0
    look = render.draw_look(np.random.default_rng(0))
    x, y = (points[sk.L_WRIST] * 64).astype(int)
    before, behind = (
        render.draw_picture(points, ALL, 64, generator(), look=look, depth=depth)[y, x].astype(int)
        for depth in (near, far)
    )
    assert np.abs(before - behind).max() > 20
