"""The synthetic set keeps its promises: each figure from its number alone, inside the picture, classes apart."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitruvian.data import skeleton as sk
from vitruvian.data import synthetic
from vitruvian.data.draw import draw_pictures
from vitruvian.data.preprocess import ImagePreprocess
from vitruvian.data.sources import open_source
from vitruvian.data.split import split
from vitruvian.data.synthetic import CLASSES, figure, heatmap, picture
from vitruvian.errors import DataError
from vitruvian.spec import Data
from vitruvian.synthetic import LEAST, SyntheticSet, parse


def test_the_same_seed_draws_the_same_figure() -> None:
    one, other = figure(7, 3), figure(7, 3)
    assert (one.label, one.subject) == (other.label, other.subject)
    np.testing.assert_array_equal(one.keypoints, other.keypoints)
    np.testing.assert_array_equal(picture(one), picture(other))
    np.testing.assert_array_equal(heatmap(one), heatmap(other))


def test_drawing_one_figure_never_depends_on_another() -> None:
    alone = picture(figure(25, 0))
    for index in range(20):
        heatmap(figure(index, 0))
    np.testing.assert_array_equal(picture(figure(25, 0)), alone)


@pytest.mark.parametrize("other", [(8, 3), (17, 3), (7, 4)])
def test_another_number_or_seed_draws_another_figure(other: tuple[int, int]) -> None:
    assert not np.array_equal(figure(7, 3).keypoints, figure(*other).keypoints)


def test_classes_come_evenly_and_every_subject_takes_several_poses() -> None:
    figures = [figure(index, 0, subjects=10) for index in range(400)]
    assert set(Counter(one.label for one in figures).values()) == {400 // len(CLASSES)}
    poses = {
        subject: {one.label for one in figures if one.subject == subject} for subject in {f.subject for f in figures}
    }
    assert len(poses) == 10
    assert min(map(len, poses.values())) > len(CLASSES) / 2


def test_a_subject_wears_the_same_clothes_in_every_picture() -> None:
    looks = {synthetic._body(0, subject).look for subject in range(20)}
    assert len(looks) == 20
    assert synthetic._body(0, 4) is synthetic._body(0, 4)


def test_every_figure_lies_inside_the_picture_with_room_around() -> None:
    keypoints = np.stack([figure(index, 1).keypoints for index in range(500)])
    assert keypoints.dtype == np.float32
    assert keypoints.min() > 0.05
    assert keypoints.max() < 0.95


def test_every_peak_lies_inside_the_heatmap() -> None:
    for index in range(100):
        drawn = figure(index, 2)
        maps = heatmap(drawn)
        assert maps.shape == (17, 64, 48)
        assert maps.dtype == np.float32
        peaks = maps.reshape(17, -1).max(axis=1)
        assert peaks[drawn.visible].min() > 0.4
        assert peaks.max() <= 1
        assert (peaks[~drawn.visible] < 0.36).all()


@pytest.mark.parametrize("size", [32, 64, 224])
def test_pictures_come_in_the_size_asked_for(size: int) -> None:
    drawn = picture(figure(0, 0), size)
    assert drawn.shape == (size, size, 3)
    assert drawn.dtype == np.uint8
    assert drawn.std() > 10


def test_the_poses_are_what_their_names_say() -> None:
    for index in range(300):
        drawn = figure(index, 5)
        y = drawn.keypoints[:, 1]
        left_up = y[sk.L_WRIST] < y[sk.NOSE]
        right_up = y[sk.R_WRIST] < y[sk.NOSE]
        match drawn.label:
            case "arms-raised":
                assert left_up and right_up
            case "left-arm-raised":
                assert left_up and not right_up
            case "right-arm-raised":
                assert right_up and not left_up
            case "standing" | "sitting":
                assert not left_up and not right_up
            case "bending":
                assert y[sk.NOSE] > y[[sk.L_HIP, sk.R_HIP]].mean() - 0.25
            case "tree":
                assert abs(y[sk.L_ANKLE] - y[sk.R_ANKLE]) > 0.1


def test_a_person_seen_from_the_front_has_their_left_on_the_right() -> None:
    for index in range(0, 200, len(CLASSES)):
        x = figure(index, 0).keypoints[:, 0]
        assert x[sk.L_SHOULDER] > x[sk.R_SHOULDER]


def test_some_joints_are_hidden_but_most_are_seen() -> None:
    seen = np.stack([figure(index, 0).visible for index in range(500)])
    assert 0.9 < seen.mean() < 1


def test_four_thousand_pictures_take_seconds() -> None:
    start = time.process_time()
    for index in range(200):
        picture(figure(index, 9))
    assert (time.process_time() - start) / 200 < 0.005


def test_an_address_says_how_many_of_whom() -> None:
    assert parse("synthetic://poses?count=200&seed=7&subjects=5") == SyntheticSet(count=200, seed=7, subjects=5)
    assert parse("synthetic://poses") == SyntheticSet(count=4000, seed=0, subjects=40)
    assert parse("synthetic://poses?count=30").subjects == 30


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("synthetic://poses?cuont=5", "the synthetic set has no parameter 'cuont'; did you mean 'count'?"),
        ("synthetic://poses?zzz=5", "no parameter 'zzz'; there are count, seed, subjects"),
        ("synthetic://poses?count=0", "count must be a whole number from 30"),
        ("synthetic://poses?count=29", "count must be a whole number from 30"),
        ("synthetic://poses?count=-5", "not '-5'"),
        ("synthetic://poses?count=1e3", "not '1e3'"),
        ("synthetic://poses?seed=", "seed must be a whole number from 0"),
        ("synthetic://poses?count=99999999999999", "count must be a whole number from 30 to 1000000, not '9999"),
        ("synthetic://poses?subjects=0", "subjects must be a whole number from 1"),
        ("synthetic://poses?seed=1&seed=2", "seed is given twice; remove one of them"),
        ("synthetic://poses?count=50&subjects=60", "60 subjects are too many for 50 figures; lower subjects"),
        ("synthetic://dogs", "'synthetic://dogs' is no synthetic set; write synthetic://poses"),
        ("synthetic://", "write synthetic://poses"),
        ("synthetic:/poses", "write synthetic://poses"),
        ("synthetic://poses/train", "write synthetic://poses"),
        ("synthetic://poses#1", "write synthetic://poses"),
        ("synthetic://[poses", "write synthetic://poses"),
        ("file:///poses", "write synthetic://poses"),
    ],
)
def test_a_wrong_address_is_refused_in_one_line(address: str, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as refused:
        parse(address)
    assert "\n" not in str(refused.value)


def test_the_fewest_examples_can_be_parted_and_one_less_cant() -> None:
    labels = [figure(index, 0).label for index in range(LEAST)]
    assert set(split(labels, None, 0.2, 0.2, 0)) == {"train", "validation", "test"}
    with pytest.raises(DataError, match="is left for the"):
        split(labels[:-1], None, 0.2, 0.2, 0)


def test_the_set_drawn_as_files_is_the_one_that_is_trained_on(tmp_path: Path) -> None:
    out = tmp_path / "new" / "figures"
    counts = draw_pictures(out, 30, seed=3, subjects=5, size=32)
    assert counts == dict.fromkeys(CLASSES, 3)
    path = out / CLASSES[2] / "000012.png"
    assert (np.asarray(Image.open(path)) == picture(figure(12, 3, 5), 32)).all()
    declared = Data.model_validate({"source": str(out), "groupBy": "subject"})
    source = open_source(declared, ImagePreprocess(size=32))
    assert len(source.examples) == 30 and {example.group for example in source.examples} <= {
        f"subject-{number:03d}" for number in range(5)
    }
    assert [path.name for path in out.parent.iterdir()] == ["figures"]


def test_nothing_is_drawn_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is in the way; choose a new or empty folder"):
        draw_pictures(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
