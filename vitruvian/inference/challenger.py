"""Opening the bundle that is tried beside the one that serves."""

from __future__ import annotations

from vitruvian.bundle import Bundle, open_bundle
from vitruvian.errors import SpecError
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.rules import Rules, challenger_settings
from vitruvian.inference.service import Settings
from vitruvian.machine import usable_cpus
from vitruvian.store import open_store


def check_there(address: str) -> None:
    """Raise `SpecError` for an address where there is nothing: it is mistyped.

    A store that can't be reached, or that denies, may be better when the champion serves; it doesn't wait for that.
    """
    store = open_store(address)
    if store.nowhere():
        what = "nothing at" if store.local() is None else "no folder"
        raise SpecError(f"there is {what} '{address}'", where="--challenger", hint="check the address")


def open_challenger(address: str, champion: Bundle, settings: Settings, rules: Rules) -> Predictor:
    """Return the challenger at an address, for a server of the champion with these settings.

    It has the champion's name in the protocols, whatever its own is, and is served in the same format if it has that:
    the fastest here, and no difference of the versions. Raises `BundleError`.
    """
    bundle = open_bundle(address).named(champion.info.name)
    if any(record.format == champion.info.serve and record.kept for record in bundle.info.exports):
        bundle = bundle.serving(champion.info.serve)
    lanes = settings.lanes or usable_cpus()
    own = challenger_settings(settings, rules).lanes or 1
    # What shadows is one more thread that runs the model.
    return Predictor.open(bundle, max(1, usable_cpus() // lanes), lanes=own + bool(rules.shadow))
