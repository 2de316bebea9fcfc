"""What follows from the code is up to date, and every link in the docs leads somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_generated_pages_are_up_to_date() -> None:
    found = importlib.util.spec_from_file_location("generate", ROOT / "scripts" / "generate.py")
    assert found and found.loader
    generate = importlib.util.module_from_spec(found)
    found.loader.exec_module(generate)
    for path, make in generate.PAGES.items():
        assert path.read_text() == make(), f"{path.name} is old: run python scripts/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
