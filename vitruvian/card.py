"""The model card that a bundle carries as its README.md."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from vitruvian.bundle import BundleInfo


def card(info: BundleInfo, statistics: Mapping[str, Mapping[str, int]]) -> str:
    """Return a model card in Markdown, with the metadata block that model hubs read (Mitchell et al., 2019)."""
    head = {
        "tags": ["vitruvian", "pose-classification", info.architecture],
        "pipeline_tag": "image-classification",
        "model-index": [
            {
                "name": info.name,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "metrics": [{"type": name, "value": round(value, 4)} for name, value in info.metrics.items()],
                    }
                ],
            }
        ],
    }
    sizes = {part: sum(counts.values()) for part, counts in statistics.items()}
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        f"# {info.name}",
        "",
        f"A {info.architecture} that tells {len(info.labels)} classes apart: {', '.join(info.labels)}.",
        f"Version `{info.version}`, made {info.created}.",
        "",
        "## How good it is",
        f"Measured on {sizes['test']} examples that training never saw "
        f"({sizes['train']} trained, {sizes['validation']} chose the epoch).",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in info.metrics.items()),
        "",
        "## Gates",
        *([f"- {'✓' if gate.passed else '✗'} {gate.text}" for gate in info.gates] or ["None were set."]),
        "",
        "## Use",
        "```sh",
        "vitruvian serve .",
        "vitruvian predict . PICTURE",
        "```",
        "",
        "## How it was made",
        "```yaml",
        yaml.safe_dump(info.spec, sort_keys=False).strip(),
        "```",
    ]
    return "\n".join(lines) + "\n"
