"""What clients send wrong is told to them, and leaves the log to the operator."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from tests.bundles import heatmaps, make_bundle, npy
from tests.serving import problem, serving
from vitruvian.data.decode import HEATMAP_SHAPE, decode_heatmap
from vitruvian.inference.predictor import Predictor


def test_a_form_without_its_boundary_leaves_no_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Predictor.open(make_bundle(tmp_path))) as client, caplog.at_level(logging.WARNING):
        head = {"Content-Type": "multipart/form-data; boundary=b"}
        problem(client.post("/predict/image", content=b"--a", headers=head), 400)
    assert caplog.records == []


def test_a_heatmap_of_python_2_is_read_without_a_warning() -> None:
    content = npy(heatmaps())
    old = content.replace(b"(1, 17, 64, 48), }   ", b"(1L, 17, 64, 48), }  ")
    assert old != content
    with warnings.catch_warnings(action="error"):
        assert decode_heatmap(old, "x").shape == HEATMAP_SHAPE
