"""Drawing recorded motion: complete or not at all, each picture from its place alone, bad input refused by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitruvian.data import keypoints
from vitruvian.data import skeleton as sk
from vitruvian.data.keypoints import project, read_motion, render_keypoints
from vitruvian.data.skeleton import KEYPOINTS
from vitruvian.data.synthetic import figure
from vitruvian.errors import DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CLASSES = ("walk", "wave", "bow")


def sample(dimensions: int) -> NDArray[np.float32]:
    """Ten frames each of three takes, upright as the data has it."""
    frames = []
    for index in range(30):
        drawn = figure(index, 0)
        if dimensions == 2:
            frames.append(drawn.keypoints)
        else:
            frames.append(np.column_stack([drawn.keypoints[:, 0], -drawn.keypoints[:, 1], drawn.depth]))
    return np.stack(frames).astype(np.float32)


def release(folder: Path, dimensions: int = 3, joints: Any = None, **changes: Any) -> Path:
    """A folder as the recorded sets have it."""
    folder.mkdir(parents=True)
    joints = sample(dimensions) if joints is None else joints
    np.savez(
        folder / "sequences.npz",
        joints=joints,
        seq_start=np.array([0, 10, 20], np.int32),
        seq_len=np.array([10, 10, 10], np.int32),
        seq_id=np.array([f"{name}-001" for name in CLASSES]),
    )
    sequences = [
        {"id": f"{name}-001", "class": name, "group": f"g{place}", "start": place * 10, "length": 10, "peak": 4}
        | {"novel": name == "bow"}
        for place, name in enumerate(CLASSES)
    ]
    index = {"keypoints": list(KEYPOINTS), "coarse": {"moving": ["walk", "wave"]}, "sequences": sequences} | changes
    (folder / "index.json").write_text(json.dumps({key: value for key, value in index.items() if value is not None}))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def groups(folder: Path) -> dict[str, str]:
    with (folder / "groups.csv").open(newline="") as file:
        return {row["path"]: row["group"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_each_sequence_gives_its_peak_in_the_folder_of_its_class(tmp_path: Path, dimensions: int) -> None:
    out = tmp_path / "new" / "out"
    summary = render_keypoints(release(tmp_path / "in", dimensions), out, "images", size=48)
    assert files(out) == ["bow/bow-001-004.png", "groups.csv", "walk/walk-001-004.png", "wave/wave-001-004.png"]
    assert groups(out) == {"bow/bow-001-004.png": "g2", "walk/walk-001-004.png": "g0", "wave/wave-001-004.png": "g1"}
    assert summary.counts == {"bow": 1, "walk": 1, "wave": 1}
    assert summary.total == 3
    assert not summary.skipped
    with Image.open(out / "walk/walk-001-004.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (48, 48))


def test_coarse_classes_leave_out_what_has_none_and_say_so(tmp_path: Path) -> None:
    summary = render_keypoints(release(tmp_path / "in"), tmp_path / "out", "images", labels="coarse", frame="all")
    assert summary.counts == {"moving": 20}
    assert summary.skipped == {"sequences without a coarse label": 1}
    assert len(files(tmp_path / "out" / "moving")) == 20


def test_a_few_frames_of_each_take_are_spread_over_all_of_it(tmp_path: Path) -> None:
    source = release(tmp_path / "in")
    render_keypoints(source, tmp_path / "few", "images", labels="coarse", frame="all", most=3)
    render_keypoints(source, tmp_path / "many", "images", labels="coarse", frame="all", most=99)
    assert [name[-7:-4] for name in files(tmp_path / "few" / "moving") if "walk" in name] == ["000", "004", "009"]
    assert len(files(tmp_path / "many" / "moving")) == 20
    for settings, named in (({"most": 0, "frame": "all"}, "less than 1"), ({"most": 2}, "--most is for all frames")):
        with pytest.raises(DataError, match=named):
            render_keypoints(source, tmp_path / "none", "images", labels="coarse", **settings)


def test_heatmaps_are_half_precision_and_peak_where_the_joints_are(tmp_path: Path) -> None:
    joints = sample(2)
    joints[:, 1:5] = np.nan
    render_keypoints(release(tmp_path / "in", joints=joints), tmp_path / "out", "heatmaps")
    maps = np.load(tmp_path / "out/walk/walk-001-004.npy", allow_pickle=False)
    assert (maps.shape, maps.dtype) == ((17, 64, 48), np.float16)
    assert not maps[1:5].any()
    peaks = np.array([np.unravel_index(channel.argmax(), channel.shape)[::-1] for channel in maps])[[0, *range(5, 17)]]
    known = joints[4][[0, *range(5, 17)]]
    scale = np.ptp(peaks, axis=0).max() / np.ptp(known, axis=0).max()
    np.testing.assert_allclose(peaks - peaks[0], (known - known[0]) * scale, atol=1.6)


def test_views_differ_by_their_yaw_alone_and_repeat_exactly(tmp_path: Path) -> None:
    source = release(tmp_path / "in")
    for name in ("one", "two"):
        render_keypoints(source, tmp_path / name, "heatmaps", yaw=60, views=2)
    render_keypoints(source, tmp_path / "other", "heatmaps", yaw=60, views=2, seed=1)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert "walk/walk-001-004-1.npy" in files(tmp_path / "one")
    first, again, second, other = (
        (tmp_path / path).read_bytes()
        for path in (
            "one/walk/walk-001-004-0.npy",
            "two/walk/walk-001-004-0.npy",
            "one/walk/walk-001-004-1.npy",
            "other/walk/walk-001-004-0.npy",
        )
    )
    assert first == again
    assert len({first, second, other}) == 3


def test_a_picture_depends_on_its_own_place_alone(tmp_path: Path) -> None:
    source = release(tmp_path / "in")
    render_keypoints(source, tmp_path / "peak", "images", yaw=30)
    render_keypoints(source, tmp_path / "all", "images", yaw=30, frame="all", labels="coarse")
    assert (tmp_path / "peak/walk/walk-001-004.png").read_bytes() == (
        tmp_path / "all/moving/walk-001-004.png"
    ).read_bytes()


def test_a_front_view_shows_the_left_on_the_right_and_up_above() -> None:
    joints = np.zeros((17, 3), np.float32)
    joints[sk.L_WRIST] = (1, 2, 0)
    joints[sk.NOSE] = (0, 0, 1)
    points, depth = project(joints, 0)
    np.testing.assert_allclose(points[sk.L_WRIST], (1, -2), atol=1e-6)
    assert depth[sk.NOSE] == 1
    points, depth = project(joints, 90)
    np.testing.assert_allclose(points[sk.L_WRIST], (0, -2), atol=1e-6)
    np.testing.assert_allclose(points[sk.NOSE], (1, 0), atol=1e-6)
    assert depth[sk.L_WRIST] == -1


def test_frames_without_any_joint_are_counted_and_left_out(tmp_path: Path) -> None:
    joints = sample(2)
    joints[4] = np.nan
    summary = render_keypoints(release(tmp_path / "in", joints=joints), tmp_path / "out", "images")
    assert summary.counts == {"bow": 1, "wave": 1}
    assert summary.skipped == {"frames without joints": 1}


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    render_keypoints(
        release(tmp_path / "in"), tmp_path / "out", "heatmaps", progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="out: is in the way; choose a new or empty folder"):
        render_keypoints(release(tmp_path / "in"), tmp_path / "out", "images")
    assert files(tmp_path / "out") == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    render_keypoints(release(tmp_path / "in"), tmp_path / "out", "images")
    assert len(files(tmp_path / "out")) == 4


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("disk full")])
def test_breaking_off_leaves_nothing_behind(tmp_path: Path, stop: BaseException) -> None:
    source = release(tmp_path / "in")

    def progress(done: int, total: int) -> None:
        raise stop

    with pytest.raises(type(stop) if isinstance(stop, BaseException) else stop):
        render_keypoints(source, tmp_path / "deep" / "out", "images", progress=progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"form": "movies"}, "--as movies is unknown; it is one of heatmaps, images"),
        ({"labels": "fine"}, "--labels fine is unknown"),
        ({"frame": "last"}, "--frame last is unknown"),
        ({"yaw": -1.0}, "--yaw -1.0 is not within 0 and 180"),
        ({"yaw": float("nan")}, "--yaw nan"),
        ({"views": 0}, "--views 0"),
        ({"views": 2, "form": "heatmaps"}, "several views without a yaw"),
        ({"size": 8}, "--size 8"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError) as error:
        render_keypoints(release(tmp_path / "in"), tmp_path / "out", **({"form": "images"} | settings))
    assert says in str(error.value)
    assert not (tmp_path / "out").exists()


def test_two_dimensions_are_not_turned(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2D keypoints can't be turned; leave out --yaw"):
        render_keypoints(release(tmp_path / "in", 2), tmp_path / "out", "images", yaw=10)


def test_coarse_labels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index\.json: no coarse labels; use --labels class"):
        render_keypoints(release(tmp_path / "in", coarse=None), tmp_path / "out", "images", labels="coarse")


def entry(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "class": "walk", "group": "g", "start": 0, "length": 10, "peak": 4} | changes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"joints": np.zeros((30, 15, 3), np.float32)}, "sequences.npz: joints are 30x15x3"),
        ({"joints": np.zeros((30, 17, 3), np.int32)}, "joints are int32"),
        ({"joints": np.zeros((25, 17, 3), np.float32)}, "bow-001 lies outside the 25 frames"),
        ({"joints": np.array([None] * 3)}, "not readable as .npz without pickles"),
        ({"keypoints": list(reversed(KEYPOINTS))}, "not the 17 of COCO in order"),
        ({"sequences": None}, "index.json: no list of sequences"),
        ({"sequences": []}, "3 sequences, but 0 in index.json"),
        ({"sequences": [entry()] * 3}, "two sequences have the same id"),
        ({"sequences": [entry(id=name) for name in "abc"]}, "a differs from index.json"),
        ({"sequences": [entry(id="../a")]}, "can't be a file name"),
        ({"sequences": [{"id": "a"}]}, "sequence 0 has no class, group, start, length, peak"),
        ({"sequences": [entry(peak=10)]}, "peak 10 is not one of its 10 frames"),
        ({"sequences": [entry(start="0")]}, "start '0' is not a whole number"),
        ({"coarse": {"moving": "walk"}}, "coarse class moving is not a list"),
        ({"coarse": {"a/b": ["walk"]}}, "can't be a file name"),
        ({"coarse": {"a": ["walk"], "b": ["walk"]}}, "class walk is in two coarse classes"),
    ],
)
def test_a_release_that_does_not_fit_together_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError) as error:
        read_motion(release(tmp_path / "in", **changes))
    assert says in str(error.value)
    assert str(tmp_path / "in") in str(error.value)


@pytest.mark.parametrize("name", ["index.json", "sequences.npz"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, name: str) -> None:
    source = release(tmp_path / "in")
    content = (source / name).read_bytes()
    (source / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{name}: not readable"):
        read_motion(source)
    (source / name).unlink()
    with pytest.raises(DataError, match=f"{name}: no such file"):
        read_motion(source)


@pytest.mark.parametrize(("name", "classes"), [("mocap-17kp", 17), ("jhmdb-2d-17kp", 13)])
@pytest.mark.parametrize("form", ["images", "heatmaps"])
def test_real_motion_is_drawn(tmp_path: Path, name: str, classes: int, form: keypoints.Form) -> None:
    source = SHARED / name
    if not source.is_dir():
        pytest.skip(f"no test data at ../shared/data/{name}")
    summary = render_keypoints(source, tmp_path / "out", form, size=32)
    assert len(summary.counts) == classes
    assert summary.total == len(groups(tmp_path / "out")) == len(files(tmp_path / "out")) - 1
    assert len(set(groups(tmp_path / "out").values())) > 10


def test_real_motion_has_coarse_labels(tmp_path: Path) -> None:
    source = SHARED / "mocap-17kp"
    if not source.is_dir():
        pytest.skip("no test data at ../shared/data/mocap-17kp")
    summary = render_keypoints(source, tmp_path / "out", "heatmaps", labels="coarse", yaw=60)
    assert set(summary.counts) == {"both-arms-up", "left-arm-up", "right-arm-up", "run", "walk"}
    assert summary.skipped == {"sequences without a coarse label": 10}
