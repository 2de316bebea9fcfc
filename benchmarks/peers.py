"""What others run: one training loop under torchrun, under Ray as it comes, and the Hugging Face Trainer.

    torchrun --nproc-per-node 2 benchmarks/peers.py torchrun JOB.json
    torchrun --nproc-per-node 2 benchmarks/peers.py trainer JOB.json
    python benchmarks/peers.py ray JOB.json

All of them learn the same model from the same prepared examples in the same batches, changed by the same augmentation.
They print `first step`, and after each epoch the seconds that a step of it took. JOB.json holds what `Job` holds.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from vitruvian.data.prepared import Prepared
from vitruvian.models.registry import architecture
from vitruvian.spec import Model, Training
from vitruvian.training.batches import augment, load, order, share


class Work:
    """What a job asks for."""

    def __init__(self, path: Path) -> None:
        asked = json.loads(path.read_text())
        self.settings = Training.model_validate(asked["training"])
        self.prepared = Prepared.open(Path(asked["prepared"]))
        self.part = self.prepared.part("train")
        self.steps = math.ceil(len(self.part) / self.settings.batch_size)
        torch.manual_seed(self.settings.seed)
        model = Model.model_validate(asked["model"])
        self.module = architecture(model.architecture).build(model, self.prepared.classes)

    def batch(self, indices: NDArray[np.int64], epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, labels = load(self.part, indices, self.prepared.preprocess)
        kind, strength = self.prepared.preprocess.kind, self.settings.augmentation
        return augment(inputs, indices, kind, strength, self.settings.seed, epoch), labels

    def batches(self, epoch: int, rank: int, world: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size = self.settings.batch_size
        shuffled = order(self.settings.seed, epoch, len(self.part))
        for start in range(0, len(self.part), size):
            yield self.batch(share(shuffled[start : start + size], rank, world), epoch)

    def optimizer(self) -> torch.optim.Optimizer:
        rate, decay = self.settings.learning_rate or 1e-3, self.settings.weight_decay
        return torch.optim.AdamW(self.module.parameters(), lr=rate, weight_decay=decay, fused=True)


def loop(work: Work, rank: int, world: int) -> None:
    """Train without any metrics: the plainest DDP loop."""
    parallel: nn.Module = nn.parallel.DistributedDataParallel(work.module)
    optimizer = work.optimizer()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, work.steps * work.settings.epochs)
    parallel.train()
    for epoch in range(work.settings.epochs):
        began = time.monotonic()
        for step, (inputs, labels) in enumerate(work.batches(epoch, rank, world)):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(parallel(inputs), labels, label_smoothing=work.settings.label_smoothing)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parallel.parameters(), work.settings.gradient_clip)
            optimizer.step()
            schedule.step()
            if rank == 0 and epoch == step == 0:
                print("first step", flush=True)
        if rank == 0:
            print(f"epoch {(time.monotonic() - began) / work.steps}", flush=True)


def torchrun(path: Path) -> None:
    """Train as one of torchrun's workers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    loop(Work(path), dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()


def ray(path: Path) -> None:
    """Train under Ray Train with its defaults."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    def worker() -> None:
        # Workers know this file as a module only, not as the program that it is here.
        from benchmarks import peers

        torch.set_num_threads(1)
        peers.loop(peers.Work(path), dist.get_rank(), dist.get_world_size())

    workers = ScalingConfig(num_workers=2)
    TorchTrainer(worker, torch_config=TorchConfig(backend="gloo"), scaling_config=workers).fit()


def trainer(path: Path) -> None:
    """Train with the Hugging Face Trainer as one of torchrun's workers."""
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(1)
    work = Work(path)

    class Numbers(Dataset[int]):
        def __len__(self) -> int:
            return len(work.part)

        def __getitem__(self, index: int) -> int:
            return index

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = work.module

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.module(inputs)
            return {"loss": F.cross_entropy(logits, labels, label_smoothing=work.settings.label_smoothing)}

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_epoch_end(self, arguments: Any, *_: Any, **__: Any) -> None:
            if arguments.process_index == 0:
                print(f"epoch {(time.monotonic() - self.began) / work.steps}", flush=True)

    settings = work.settings
    arguments = TrainingArguments(
        output_dir=str(path.parent / "trainer"),
        per_device_train_batch_size=settings.batch_size // 2,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate or 1e-3,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.gradient_clip,
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        use_cpu=True,
        ddp_backend="gloo",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )

    def collate(indices: list[int]) -> dict[str, torch.Tensor]:
        inputs, labels = work.batch(np.array(indices), 0)
        return {"inputs": inputs, "labels": labels}

    peer: Any = Trainer(Wrapped(), arguments, data_collator=collate, train_dataset=Numbers(), callbacks=[Clock()])
    peer.train()


if __name__ == "__main__":
    {"torchrun": torchrun, "ray": ray, "trainer": trainer}[sys.argv[1]](Path(sys.argv[2]))
