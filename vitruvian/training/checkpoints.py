"""Saving what a run needs to go on exactly, and finding it again.

Training stands still only while its state is copied in memory; the copy is written while it goes on. A checkpoint is
complete when its manifest is written; it counts when `state.json` names it. Every start of a worker group is an
attempt, and only the latest one can move `state.json`: it does so by compare-and-swap.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from vitruvian import artifact
from vitruvian.errors import ArtifactError, Conflict, NotFound, StoreError, TrainingError
from vitruvian.store import Store, check_key
from vitruvian.training.behind import Behind
from vitruvian.training.frozen import Chosen
from vitruvian.training.precision import LossScale
from vitruvian.training.together import everywhere

STATE = "state.json"
_LEARNED = StateDictOptions(ignore_frozen_params=True, strict=False)
# What a file of torch.save begins with.
_ZIP = b"PK\3\4"
# As many may claim a run at once.
_CLAIMS = 1000

# Where one process saves by itself, that is on purpose.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


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
    scale: LossScale | None = None
    """What the next step's loss is scaled by."""


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
    chosen: Chosen | None = None
    """What is saved of the chosen epoch, where some weights don't learn: those are in no checkpoint."""
    _tag: str | None = None
    _behind: Behind = field(default_factory=Behind)
    _stager: DefaultStager = field(default_factory=lambda: _stager())
    _group: dist.ProcessGroup | None = None

    def claim(self) -> State:
        """Become the latest attempt; earlier ones can't commit any more. Call on rank 0 only."""
        for _ in range(_CLAIMS):
            tag = self.store.tag(STATE)
            seen = State() if tag is None else _parse(self.store.get(STATE), self.store.address(STATE))
            try:
                self._tag = tag
                self._write(replace(seen, attempt=seen.attempt + 1))
                return self.state
            except Conflict:
                continue
        hint = "delete it to begin this run anew"
        raise TrainingError("can't be written: something else is there", where=self.store.address(STATE), hint=hint)

    def save(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        position: Position,
        step: int,
        rank: int,
        world: int,
        saved: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Begin to write a checkpoint, every rank its own shards; all ranks call it together.

        It returns once the state is copied. The checkpoint counts when `saved` is told how long it took; `settle`, or
        the next call, raises what went wrong.
        """
        began = time.monotonic()
        # There is memory for one copy.
        self.settle()
        if world > 1 and self._group is None:
            # What is agreed on behind the training must not mix with what the training sends.
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)
            self._group = group
        copied: Any = self._stager.stage(self._tensors(module, optimizer, rank))
        prefix = f"step-{step:08d}-attempt-{self.state.attempt}"
        about = {"attempt": self.state.attempt, "step": step, "world": world, "position": asdict(position)}
        about["frozen"] = self._frozen

        def write() -> None:
            self._write_out(copied, prefix, about, rank, world)
            saved(time.monotonic() - began)

        self._behind.add(write)

    def settle(self) -> None:
        """Wait until all that was begun is written; raises `TrainingError` where this attempt is stale."""
        self._behind.settle()

    def _write_out(self, state: Any, prefix: str, about: Mapping[str, Any], rank: int, world: int) -> None:
        below = self.store.at(prefix)
        with tempfile.TemporaryDirectory(prefix="vitruvian-checkpoint-") as name:
            folder = Path(name)
            # The store sees to it that what it is given stays; this copy needn't reach the disk.
            writer = FileSystemWriter(folder, sync_files=False)
            save(state, storage_writer=writer, process_group=self._group, no_dist=world == 1)
            files = {path.name: artifact.describe(path) for path in sorted(folder.iterdir())}
            for file in files:
                below.upload(file, folder / file)
        if world > 1:
            files = _merged(files, world, self._group)
        if rank == 0:
            below.put(artifact.MANIFEST, artifact.Manifest(files, about).to_json())
            self._commit(prefix)

    def keep_weights(self, write: Callable[[Path], None], epoch: int) -> None:
        """Write the weights that would become the model now, while training goes on. Call on rank 0 only."""
        scratch = tempfile.TemporaryDirectory(prefix="vitruvian-weights-")
        write(Path(scratch.name))
        prefix = f"weights-{epoch:04d}-attempt-{self.state.attempt}"

        def commit() -> None:
            with scratch:
                artifact.commit(self.store, prefix, Path(scratch.name))
            former = self.state.weights
            self._write(replace(self.state, weights=prefix))
            if former:
                artifact.remove(self.store, former)

        self._behind.add(commit)

    def find(self, world: int) -> tuple[Path, list[ArtifactError]] | None:
        """Return where the newest checkpoint is that all workers find whole, and what is wrong with those after it.

        None where there never was one; raises `ArtifactError` where none is whole. All ranks call it together.
        """
        faults: list[ArtifactError] = []
        for prefix in reversed(self.state.checkpoints):
            folder = None
            try:
                folder = artifact.fetch(self.store, prefix)
                _place(folder, self.store.address(f"{prefix}/{artifact.MANIFEST}"))
                _check_shards(folder, self.store.address(prefix))
            except ArtifactError as e:
                folder = None
                faults.append(e)
            if everywhere(folder is not None, world):
                assert folder is not None
                return folder, faults
        if faults:
            raise faults[0]
        if self.state.checkpoints:
            raise ArtifactError("can't be read by another worker", where=self.store.url, hint="see that worker's log")
        return None

    def load(
        self, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, rank: int, world: int
    ) -> Position:
        """Restore what `find` found into a module and its optimizer.

        Raises `TrainingError` where the weights that don't learn are others than when it was saved.
        """
        state = self._tensors(module, optimizer, rank)
        former, position, frozen = _place(folder, str(folder))
        if frozen != self._frozen:
            what = "the weights that don't learn are not those that this run began with"
            hint = "bring back what model.pretrained led to, or delete the run's checkpoints to begin anew"
            raise TrainingError(what, where=self.store.url, hint=hint)
        if rank >= former:
            # More workers than before: this one keeps the generator it was seeded with.
            state = {name: value for name, value in state.items() if name not in _generators(rank)}
        load(state, checkpoint_id=folder, no_dist=world == 1)
        set_state_dict(
            module,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_LEARNED if self.chosen else None,
        )
        for name, generator in _generators(rank).items():
            if name in state:
                generator.set_state(state[name])
        return position

    @property
    def _frozen(self) -> str | None:
        return self.chosen.frozen if self.chosen else None

    def _tensors(self, module: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, Any]:
        model, optim = get_state_dict(module, optimizer, options=_LEARNED if self.chosen else None)
        # DCP keeps one rank's value of a key: each rank's generator has a key of its own.
        generators = {name: generator.get_state() for name, generator in _generators(rank).items()}
        chosen = {"chosen": self.chosen.state} if self.chosen else {}
        return {"model": model, "optimizer": optim, **chosen, **generators}

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
        attempt, names, weights = saved["attempt"], saved["checkpoints"], saved["weights"]
        if not isinstance(attempt, int) or attempt < 0 or not isinstance(names, list):
            raise ValueError
        for name in names if weights is None else (*names, weights):
            check_key(name)
        return State(attempt, tuple(names), weights)
    except (StoreError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise TrainingError("is damaged", where=where, hint="delete it to begin this run anew") from e


def _place(folder: Path, where: str) -> tuple[int, Position, str | None]:
    """Return how many workers saved a checkpoint, where the run stood, and what it rests on; raises `ArtifactError`."""
    try:
        saved = json.loads((folder / artifact.MANIFEST).read_text())
        world, place = saved["world"], saved["position"]
        scale = LossScale(**place["scale"]) if place.get("scale") else None
        position = Position(**{**place, "history": tuple(place["history"]), "scale": scale})
        counts = (world - 1, position.epoch, position.step, position.correct, position.seen)
        if not all(isinstance(count, int) and count >= 0 for count in counts) or not saved["files"]:
            raise ValueError
        if len(position.history) != position.epoch:
            raise ValueError
        judged = (epoch[name] for epoch in position.history for name in ("validationAccuracy", "validationLoss"))
        if not all(isinstance(value, int | float) for value in (position.loss_sum, *judged)):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ArtifactError("is damaged", where=where, hint="delete this checkpoint") from e
    return world, position, saved.get("frozen")


def _check_shards(folder: Path, where: str) -> None:
    """Raise `ArtifactError` where DCP can't read what it would load: its own error may as well be a lost worker's."""
    try:
        shards = FileSystemReader(folder).read_metadata().storage_data
        for place in {(item.relative_path, item.offset) for item in shards.values()}:
            with open(folder / place[0], "rb") as file:
                file.seek(place[1])
                if file.read(len(_ZIP)) != _ZIP:
                    raise ValueError
    # Whatever it is that is pickled there.
    except Exception as e:
        raise ArtifactError("is damaged", where=where, hint="delete this checkpoint") from e


def _stager() -> DefaultStager:
    # Its copies are made once and used again for each checkpoint.
    gpu = torch.cuda.is_available()
    return DefaultStager(
        StagingOptions(gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=gpu)
    )


def _generators(rank: int) -> dict[str, torch.Generator]:
    """Return what a rank draws from, by the key that it is saved under."""
    generators = {f"rng-{rank}": torch.default_generator}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators[f"rng-{rank}-cuda"] = torch.cuda.default_generators[torch.cuda.current_device()]
    return generators


def _merged(mine: dict[str, artifact.File], world: int, group: dist.ProcessGroup | None) -> dict[str, artifact.File]:
    everyone: list[dict[str, artifact.File]] = [{} for _ in range(world)]
    dist.all_gather_object(everyone, mine, group=group)
    return {name: file for files in everyone for name, file in files.items()}
