"""The model card that a bundle carries as its README.md."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from vitruvian.bundle import BundleInfo, ExportRecord


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
                        "dataset": _dataset(info),
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
        _measured_on(info, sizes),
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in info.metrics.items()),
        *_interpolated(info),
        "",
        "## Gates",
        *([f"- {'✓' if gate.passed else '✗'} {gate.text}" for gate in info.gates] or ["None were set."]),
        "",
        "## Exports",
        *_exports(info),
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


def _dataset(info: BundleInfo) -> dict[str, str]:
    """Return what the metrics were measured on, as hubs want it named: they refuse metrics without it."""
    data = info.spec.get("spec", {}).get("data", {})
    return {"type": data.get("format", "images"), "name": data.get("source", info.name), "split": "test"}


def _exports(info: BundleInfo) -> list[str]:
    """Return what each export costs and how it compares with the trained model."""
    where = "" if info.machine is None else f" on {info.machine.cpus} CPUs ({info.machine.cpu})"
    trained = info.trained
    itself = []
    if trained is not None:
        took, size = 1000 * trained.seconds_per_image, trained.size / 1e6
        itself = [f"| torch | {took:.2f} | {size:.1f} | {1:.1%} | {trained.accuracy:.3f} | the trained model |"]
    rows = [
        f"| {record.format} | {1000 * record.seconds_per_image:.2f} | {(record.size or 0) / 1e6:.1f} "
        f"| {record.top1_agreement:.1%} | {record.accuracy:.3f} | {_verdict(record, info.serve)} |"
        for record in info.exports
    ]
    return [
        f"Timed{where}, one picture at a time on each; agreement with the trained model and accuracy on the test part.",
        "",
        "| format | ms a picture | MB | same answer | accuracy | |",
        "|---|---|---|---|---|---|",
        *itself,
        *rows,
    ]


def _verdict(record: ExportRecord, served: str) -> str:
    return "served" if record.format == served else "" if record.kept else "loses too much"


def _measured_on(info: BundleInfo, sizes: Mapping[str, int]) -> str:
    if info.spec.get("spec", {}).get("training", {}).get("epochs") == 0:
        return f"Measured on {sizes['test']} examples. Nothing was trained: the weights are the pretrained ones."
    return (
        f"Measured on {sizes['test']} examples that training never saw "
        f"({sizes['train']} trained, {sizes['validation']} chose the epoch)."
    )


def _interpolated(info: BundleInfo) -> list[str]:
    """Return what was measured between the pretrained and the learnt weights; nothing where only the latter were."""
    points = info.lineage.get("interpolation")
    if not points:
        return []
    return [
        "",
        f"The weights lie at {points['chosen']:g} between the pretrained ones, 0, and the learnt ones, 1, "
        "the best on the validation part:",
        "",
        "| weights | validation accuracy |",
        "|---|---|",
        *(f"| {point} | {value:.3f} |" for point, value in points["validationAccuracy"].items()),
    ]
