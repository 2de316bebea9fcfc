"""From one GPU to 256: what the plan's arithmetic says of three models, as docs/scaling.md has it.

python benchmarks/scaling.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitruvian.planning import duration, memory
from vitruvian.planning.advise import gib
from vitruvian.planning.devices import GPUS, PRICED
from vitruvian.planning.scaling import EACH, page
from vitruvian.spec import Model
from vitruvian.training.measure import count

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
_BASE = {"imageSize": 224, "hiddenSize": 768, "layers": 12, "heads": 12}
_LINEAR = {"head": "linear"}
MODELS: dict[str, dict[str, Any]] = {
    "ViT-B/16": {"architecture": "vit", "dimensions": _BASE | {"patchSize": 16}},
    "CLIP ViT-B/32": {"architecture": "clip", "dimensions": _BASE | {"patchSize": 32}, "clip": _LINEAR},
    "ResNet50": {"architecture": "resnet50", "dimensions": {"imageSize": 224}},
}
DEVICES = ("a10g", "a100-80", "h100")
CLASSES = tuple(f"class {number}" for number in range(10))

HEAD = """\
# From one GPU to many

What [vitruvian plan](plan.md) says of three models from 1 to 256 GPUs, with {each} images of 224 pixels on each, `ddp`,
`precision: auto` (bf16 on all of these GPUs) and 10 classes. Written by `python benchmarks/scaling.py`; nothing on
this page was timed on a GPU.

**Counted**, from the real modules: parameters, operations, activations (as bf16 keeps them, with bf16's copies of the
weights), and so memory but for two lines. Tests hold these counts against real steps, real checkpoints and two real
workers (`tests/unit/test_plan.py`, `tests/integration/test_plan.py`). CLIP is its visual tower with `head: linear`;
with prompts the text tower is added.

**Assumed**: a context of {context} and {slack:.0%} of allocator's slack; {usual:.0%} of the bf16 peak with tensor cores
(from {low:.0%} to {high:.0%}: images/s follow in proportion where computing decides); gradients that travel as
float32, at {link:.0%} of a link's speed; {overlap:.0%} of the backward pass hides traffic. A ring goes through all
machines, so its slowest link counts.

**Computed** from both: images/s, efficiency and dollars.

**Left out**: reading. Threads of each worker read and augment ahead (`training.loaders`), {input:.0f} ns for each
number of an input on one core, {image:.0f} ms for such an image: where a GPU is faster than they are, this decides.
`vitruvian plan` counts it in, measured on your machine. Start-up, stragglers, validation and checkpoints are left out,
too.

Prices are those of {priced}; the machines are
those on which a million images cost least.
"""


def scaling_page() -> str:
    """Return docs/scaling.md."""
    low, usual, high = duration.UTILISATION["bf16"]
    head = HEAD.format(
        each=EACH,
        context=gib(memory.CONTEXT["gpu"]),
        slack=memory.SLACK,
        low=low,
        usual=usual,
        high=high,
        link=duration.LINK_SHARE,
        overlap=duration.OVERLAP,
        input=duration.INPUT_SECONDS * 1e9,
        image=duration.INPUT_SECONDS * 3 * 224 * 224 * 1e3,
        priced=PRICED,
    )
    counted = {name: count(Model.model_validate(declared), CLASSES) for name, declared in MODELS.items()}
    titles = {f"{name}, {gib(GPUS[name].memory)}": GPUS[name] for name in DEVICES}
    return head + page(counted, titles)


if __name__ == "__main__":
    PAGE.write_text(scaling_page())
