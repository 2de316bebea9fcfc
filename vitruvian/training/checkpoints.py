"""Saving what a run needs to go on exactly, and finding it again.

A checkpoint is complete when its manifest is written; it counts when `state.json` names it. Every start of a worker
group is an attempt, and only the latest one can move `state.json`: it does so by compare-and-swap.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from vitruvian import artifact
from vitruvian.errors import Conflict, NotFound, TrainingError
from vitruvian.store import Store

STATE = "state.json"


@dataclass(frozen=True)
class Position:
    """Where a run stands between two steps, with the sums of the epoch so far."""

    epoch: int = 0
    step: int = 0
    """Steps done in this epoch."""
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    history: tuple[Mapping[str, float], ...] = ()
    """One record for each finished epoch."""


@dataclass(frozen=True)
class State:
    """What `state.json` holds."""

    attempt: int = 0
    checkpoints: tuple[str, ...] = ()
    """Complete checkpoints, the newest last."""
    weights: str | None = None
    """Where the weights of the chosen epoch lie."""


@dataclass
class Checkpoints:
    """The checkpoints of one run, as one attempt sees them."""

    store: Store
    keep: int
    state: State = field(default_factory=State)
    _tag: str | None = None

    def claim(self) -> State:
        """Become the latest attempt; earlier ones can't commit any more. Call on rank 0 only."""
        while True:
            tag = self.store.tag(STATE)
            seen = State() if tag is None else _parse(self.store.get(STATE), self.store.address(STATE))
            try:
                self._tag = tag
                self._write(replace(seen, attempt=seen.attempt + 1))
                return self.state
            except Conflict:
                continue

    def save(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, position: Position, step: int, rank: int, world: int
    ) -> str:
        """Write a checkpoint, every rank its own shards; return its prefix. All ranks call it together."""
        prefix = f"step-{step:08d}-attempt-{self.state.attempt}"
        with tempfile.TemporaryDirectory(prefix="vitruvian-checkpoint-") as name:
            folder = Path(name)
            with _alone(world):
                save(_tensors(module, optimizer, rank), checkpoint_id=folder, no_dist=world == 1)
            mine = {path.name: artifact.describe(path) for path in sorted(folder.iterdir())}
            below = self.store.at(prefix)
            for file in mine:
                below.upload(file, folder / file)
        files = mine if world == 1 else _merged(mine, world)
        if rank == 0:
            about = {"attempt": self.state.attempt, "step": step, "world": world, "position": asdict(position)}
            below.put(artifact.MANIFEST, artifact.Manifest(files, about).to_json())
            self._commit(prefix)
        return prefix

    def keep_weights(self, folder: Path, epoch: int) -> None:
        """Write the weights that would become the model now. Call on rank 0 only."""
        prefix = f"weights-{epoch:04d}-attempt-{self.state.attempt}"
        artifact.commit(self.store, prefix, folder)
        former = self.state.weights
        self._write(replace(self.state, weights=prefix))
        if former:
            artifact.remove(self.store, former)

    def load(self, prefix: str, module: nn.Module, optimizer: torch.optim.Optimizer, rank: int, world: int) -> Position:
        """Restore a checkpoint into a module and its optimizer; raises `ArtifactError` where a shard is damaged."""
        folder = artifact.fetch(self.store, prefix)
        state = _tensors(module, optimizer, rank)
        saved = json.loads((folder / artifact.MANIFEST).read_text())
        if rank >= int(saved["world"]):
            # More workers than before: this one keeps the generator it was seeded with.
            state = {name: value for name, value in state.items() if name not in _generators(rank)}
        with _alone(world):
            load(state, checkpoint_id=folder, no_dist=world == 1)
        set_state_dict(module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        for name, generator in _generators(rank).items():
            if name in state:
                generator.set_state(state[name])
        position = saved["position"]
        return Position(**{**position, "history": tuple(position["history"])})

    def _commit(self, prefix: str) -> None:
        names = (*self.state.checkpoints, prefix)
        self._write(replace(self.state, checkpoints=names[-self.keep :]))
        for name in names[: -self.keep]:
            artifact.remove(self.store, name)

    def _write(self, state: State) -> None:
        content = json.dumps(asdict(state), indent=1).encode()
        try:
            self._tag = self.store.put(STATE, content, if_absent=self._tag is None, if_match=self._tag)
        except Conflict as e:
            if state.attempt != self.state.attempt:
                raise
            raise TrainingError(
                f"attempt {state.attempt} is stale: a later one has taken over",
                where=self.store.address(STATE),
                hint="nothing was changed; let the later one finish",
            ) from e
        self.state = state


def read_state(store: Store) -> State:
    """Return what the run's checkpoints stand at, before any attempt as after."""
    try:
        return _parse(store.get(STATE), store.address(STATE))
    except NotFound:
        return State()


def _parse(content: bytes, where: str) -> State:
    try:
        saved = json.loads(content)
        return State(int(saved["attempt"]), tuple(saved["checkpoints"]), saved["weights"])
    except (ValueError, KeyError, TypeError) as e:
        raise TrainingError("is damaged", where=where, hint="delete it to begin this run anew") from e


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, Any]:
    model, optim = get_state_dict(module, optimizer)
    # DCP keeps one rank's value of a key: each rank's generator has a key of its own.
    generators = {name: generator.get_state() for name, generator in _generators(rank).items()}
    return {"model": model, "optimizer": optim, **generators}


@contextlib.contextmanager
def _alone(world: int) -> Iterator[None]:
    """Silence what torch warns of where one process saves by itself on purpose."""
    with warnings.catch_warnings():
        if world == 1:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _generators(rank: int) -> dict[str, torch.Generator]:
    """Return what a rank draws from, by the key that it is saved under."""
    generators = {f"rng-{rank}": torch.default_generator}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators[f"rng-{rank}-cuda"] = torch.cuda.default_generators[torch.cuda.current_device()]
    return generators


def _merged(mine: dict[str, artifact.File], world: int) -> dict[str, artifact.File]:
    everyone: list[dict[str, artifact.File]] = [{} for _ in range(world)]
    dist.all_gather_object(everyone, mine)
    return {name: file for files in everyone for name, file in files.items()}
