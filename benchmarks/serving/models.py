"""Bundles of real size with random weights: what they answer means nothing, what it costs does."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification

from benchmarks.serving.pictures import photograph
from vitruvian import spec
from vitruvian.bundle import Bundle, BundleInfo, Golden, Machine, open_bundle, publish
from vitruvian.console import Teller
from vitruvian.data.preprocess import ImagePreprocess
from vitruvian.export.make import export_all
from vitruvian.export.parity import Examples
from vitruvian.machine import cpu_features, cpu_model, usable_cpus
from vitruvian.models import clip
from vitruvian.pipeline import Pipeline
from vitruvian.spec import Clip, Dimensions, Model
from vitruvian.store import open_store

FOLDER = Path("build/serving")
CLASSES = tuple(f"class-{number:02d}" for number in range(15))
FORMATS = ("onnx", "openvino-int8")
_CALIBRATION = 16


_POSES = """
apiVersion: vitruvian.dev/v1alpha1
kind: Classifier
metadata: {{name: poses}}
spec:
  data: {{source: "synthetic://poses?count=2000", format: images, groupBy: subject}}
  model:
    architecture: vit
    dimensions: {{imageSize: 64, patchSize: 8, hiddenSize: 96, layers: 4, heads: 4, intermediateSize: 192}}
  training: {{strategy: none, epochs: 12, batchSize: 32, learningRate: 2.0e-3, augmentation: light}}
  artifacts: "{folder}"
"""


class _Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = ViTForImageClassification(ViTConfig(num_labels=len(CLASSES))).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(pixel_values=images).logits
        return logits


def vit() -> Bundle:
    """Return a ViT-B/16 as ONNX and in 8 bits, made once."""
    return _made("vit", "vit", lambda: _Vit())


def vit_weights() -> Path:
    """Return a folder with the same model's weights, as transformers reads them."""
    folder = FOLDER / "vit-weights"
    if not (folder / "config.json").exists():
        _Vit().inner.save_pretrained(folder)
    return folder


def poses() -> Bundle:
    """Return a small ViT that was trained on synthetic poses, made once."""
    folder = FOLDER / "poses"
    classifier = spec.parse(_POSES.format(folder=folder.absolute()))
    if not (folder / "champion.json").exists():
        Pipeline(classifier, Teller(Console(quiet=True))).run()
    return open_bundle(folder)


def clip_b32() -> Bundle:
    """Return a CLIP of ViT-B/32's size with its text tower, made once."""
    return _made("clip", "clip", _clip)


def _clip() -> nn.Module:
    torch.manual_seed(0)
    small = Dimensions(imageSize=224, patchSize=32, hiddenSize=64, layers=1, heads=1)
    tokenizer: Any = clip.build(Model(architecture="clip", dimensions=small), CLASSES).tokenizer
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {**special, "vocab_size": len(tokenizer)}
    inner = CLIPModel(CLIPConfig(text_config=text)).eval()
    return clip.PromptedClip(inner, tokenizer, clip.prompts_of(CLASSES, Clip().templates)).eval()


def _made(name: str, architecture: str, build: Callable[[], nn.Module]) -> Bundle:
    folder = FOLDER / name
    if (folder / "done").exists():
        return open_bundle(folder / "store" / "bundles" / "v1")
    shutil.rmtree(folder, ignore_errors=True)
    making = folder / "making"
    (making / "exports").mkdir(parents=True)
    preprocess = ImagePreprocess(size=224)
    golden = photograph(640, 480)
    pictures = np.stack([preprocess.prepare(photograph(320, 240, seed=seed), seed) for seed in range(_CALIBRATION)])
    pictures[0] = preprocess.prepare(golden, "golden")
    tensors = preprocess.tensor(pictures)
    examples = Examples(lambda indices: tensors[indices], np.zeros(len(tensors), np.int64))
    made = export_all(
        architecture,
        build(),
        CLASSES,
        tensors,
        examples,
        examples,
        FORMATS,
        Clip().templates,
        1.0 - 1e-9,
        making / "exports",
        _silent,
    )
    (making / "golden.jpg").write_bytes(golden)
    (making / "preprocess.json").write_text(preprocess.model_dump_json())
    assert made.serve is not None and made.serve.golden is not None
    info = BundleInfo(
        name="m",
        version="v1",
        created="2026-11-20T12:00:00Z",
        labels=CLASSES,
        architecture=architecture,
        metrics={},
        gates=(),
        exports=tuple(record.model_copy(update={"path": f"exports/{record.path}"}) for record in made.records),
        serve=made.serve.format,
        golden=Golden(input="golden.jpg", probabilities=made.serve.golden, tolerance=1e-3),
        machine=Machine(cpu=cpu_model(), features=cpu_features(), cpus=usable_cpus()),
        head=made.head and f"exports/{made.head}",
        text=made.text
        and made.text.model_copy(
            update={"model": f"exports/{made.text.model}", "tokenizer": f"exports/{made.text.tokenizer}"}
        ),
        lineage={},
        spec={},
    )
    publish(open_store(folder / "store"), making, info)
    shutil.rmtree(making)
    (folder / "done").touch()
    return open_bundle(folder / "store" / "bundles" / "v1")


@contextlib.contextmanager
def _silent(what: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None
