"""Opening the bundle that is tried beside the one that serves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vitruvian.bundle import Bundle, open_bundle
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.rules import Rules, challenger_settings
from vitruvian.inference.service import Settings
from vitruvian.machine import usable_cpus


def challenger_at(address: str, champion: Bundle, settings: Settings, rules: Rules) -> Callable[[], Predictor]:
    """Return what opens the challenger at an address, for a server of the champion with these settings.

    It has the champion's name in the protocols, whatever its own is, and raises `BundleError`.
    """
    lanes = settings.lanes or usable_cpus()
    threads, own = max(1, usable_cpus() // lanes), challenger_settings(settings, rules).lanes or 1
    # The thread that shadows is one more that runs the model.
    return partial(_open, address, champion.info.name, threads, own + bool(rules.shadow))


def _open(address: str, name: str, threads: int, lanes: int) -> Predictor:
    return Predictor.open(open_bundle(address).named(name), threads, lanes=lanes)
