"""Write what follows from the code: docs/classifier.md from the spec."""

from __future__ import annotations

from pathlib import Path

from vitruvian import spec

ROOT = Path(__file__).parents[1]

HEAD = """\
# The Classifier

Every field of the file that declares a classifier, as `vitruvian spec explain` tells them; `vitruvian spec schema`
prints the JSON schema and `vitruvian spec validate FILE` checks a file. Unknown keys are refused with the nearest valid
name. What is not implemented yet is refused by name, never ignored.

| field | type | default | meaning |
|---|---|---|---|
"""


def classifier_page() -> str:
    """Return docs/classifier.md."""
    rows = []
    for line in spec.fields():
        later = f" *Not implemented yet: {line.planned}.*" if line.planned else ""
        kind = line.kind.replace("|", "\\|")
        rows.append(f"| `{line.path}` | {kind} | {line.default} | {line.text}{later} |")
    return HEAD + "\n".join(rows) + "\n"


PAGES = {ROOT / "docs" / "classifier.md": classifier_page}

if __name__ == "__main__":
    for path, make in PAGES.items():
        path.write_text(make())
