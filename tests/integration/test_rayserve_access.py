"""A bundle on a real Ray Serve asks for keys as `vitruvian serve` does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.bundles import make_bundle
from tests.rayserves import serving
from vitruvian.cluster import rayservice
from vitruvian.inference.access.keys import digest_of, new_key


def test_replicas_ask_for_keys_where_a_file_says_who_may_ask(tmp_path: Path) -> None:
    key, _ = new_key()
    (tmp_path / "access.yaml").write_text("keys: keys.yaml\n")
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": [{"name": "app", "sha256": digest_of(key)}]}))
    words = (f"bundle={make_bundle(tmp_path).folder}", f"access={tmp_path / 'access.yaml'}", "deadline=20")
    with serving(tmp_path, rayservice.IMPORT_PATH, *words) as address:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/limits")
        assert refused.value.code == 401
        asked = urllib.request.Request(f"{address}/limits", headers={"X-API-Key": key})
        assert json.load(urllib.request.urlopen(asked))["deadline_seconds"] == 20
