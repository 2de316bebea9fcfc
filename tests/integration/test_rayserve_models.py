"""One deployment on a real Ray Serve serves many classifiers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.bundles import make_bundle, picture
from tests.rayserves import serving


def test_one_deployment_serves_many_classifiers_by_name(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for name, labels in {"yoga": ("red", "green", "blue"), "dance": ("tango", "waltz", "polka")}.items():
        make_bundle(tmp_path / name, name=name, labels=labels)
        (root).mkdir(exist_ok=True)
        (tmp_path / name / "store").rename(root / name)
    with serving(tmp_path, "vitruvian.serving.rayserve:models", f"root={root}", "most=1") as address:

        def ask(name: str) -> tuple[int, Any]:
            headers = {"serve_multiplexed_model_id": name, "Content-Type": "image/png"}
            asked = urllib.request.Request(f"{address}/predict/image", picture("red"), headers)
            try:
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as e:
                return e.code, json.load(e)

        for _ in range(2):
            assert ask("yoga")[1]["label"] == "red"
            assert ask("dance")[1]["label"] == "tango"
        for name in ("nobody", "..", "a/b", ""):
            status, refused = ask(name)
            assert (status, refused["type"]) == (404, "urn:vitruvian:problem:not-found")
