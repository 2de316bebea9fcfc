"""When garbage is looked for in training."""

from __future__ import annotations

import gc

import pytest

from vitruvian.training.collector import awake, resting


def test_the_collector_rests_until_it_is_awoken_and_passes_over_what_was_there() -> None:
    with resting():
        assert not gc.isenabled()
        awake()
        assert gc.isenabled() and gc.get_freeze_count() > 0
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_the_collector_works_again_after_a_failure() -> None:
    with pytest.raises(ValueError, match="broken"), resting(), resting():
        raise ValueError("broken")
    assert gc.isenabled()
