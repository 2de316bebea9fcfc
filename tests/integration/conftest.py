"""What integration tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import make_bundle


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a small published bundle of pictures."""
    root = tmp_path_factory.mktemp("bundle")
    make_bundle(root)
    return root / "store"
