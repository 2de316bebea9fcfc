"""A photograph of 12 megapixels, from its bytes to the answer: ours, and KServe's documented way; and what is lost."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.serving import models
from benchmarks.serving.peers import FASTAPI, KSERVE, OURS, Peer
from benchmarks.serving.pictures import photograph
from benchmarks.serving.running import Failed
from benchmarks.serving.vit import served
from vitruvian.data import synthetic
from vitruvian.inference.predictor import Predictor

_SIDE = 3464
_AGREEMENT = 100


def in_full(content: bytes, size: int) -> NDArray[np.uint8]:
    """Return a JPEG decoded with all its pixels, then scaled: what the fast way is held to."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def agreement(count: int = _AGREEMENT) -> tuple[int, int, float, float]:
    """Return of how many large pictures of poses the label stays, and the worst cosine of logits and difference."""
    predictor = Predictor.open(models.poses())
    size = predictor.bundle.preprocess.tensor_shape[-1]
    same, cosine, difference = 0, 1.0, 0.0
    for number in range(count):
        # None that it learnt from.
        drawn = synthetic.picture(synthetic.figure(number, seed=1000), _SIDE)
        file = io.BytesIO()
        Image.fromarray(drawn).save(file, "JPEG", quality=88)
        fast = predictor.bundle.preprocess.prepare(file.getvalue(), number)
        exact = in_full(file.getvalue(), size)
        one, other = predictor.outputs(np.stack([fast, exact]))
        same += int(one.argmax() == other.argmax())
        cosine = min(cosine, float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))
        shares = predictor.probabilities(np.stack([one, other]))
        difference = max(difference, float(np.abs(shares[0] - shares[1]).max()))
    return count, same, cosine, difference


def run(console: Console, seconds: float, peers: Sequence[Peer] = (KSERVE,)) -> None:
    """Print what an answer costs, and how often the label stays."""
    content = photograph(4032, 3024)
    best: dict[str, tuple[float, float]] = {}
    for _ in range(2):
        for peer, model in ((OURS, str(models.vit().folder.absolute())), (KSERVE, "vit"), (FASTAPI, "vit")):
            if peer is not OURS and peer not in peers:
                continue
            with suppress(Failed), peer.running(model) as server:
                found = served(server, peer.ask(content), seconds, 2)
                best[peer.name] = min(best.get(peer.name, found), found, key=lambda each: each[1])
    table = Table(title=f"a JPEG of 4032 x 3024, {len(content) / 1e6:.1f} MB, ViT-B/16")
    for name in ("server", "CPU ms", "of ours", "images/s"):
        table.add_column(name, justify="left" if name == "server" else "right")
    for name, (rate, spent) in best.items():
        table.add_row(name, f"{spent:.0f}", f"{spent / best[OURS.name][1]:.2f}", f"{rate:.2f}")
    console.print(table)
    count, same, cosine, difference = agreement()
    console.print(
        f"decoded at a fraction instead of in full, a trained ViT on {count} new JPEGs of {_SIDE} x {_SIDE}: the "
        f"same label {same} times, worst cosine of logits {cosine:.5f}, a probability differs by {difference:.3f}",
        highlight=False,
    )
