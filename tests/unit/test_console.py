"""What people read of a run where no terminal says how wide it is."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from vitruvian.console import Teller


def test_a_stages_heading_stays_one_line_however_long_its_address() -> None:
    address = f"s3://models/{'yoga/' * 40}"
    out = StringIO()
    teller = Teller(Console(file=out, width=80))
    teller.fresh(1, 6, "prepare", address)
    with teller.stage(2, 6, "train", address):
        pass
    fresh, heading, _ = out.getvalue().splitlines()
    assert address in fresh and address in heading
