"""The stages in order: what is fresh is skipped, what broke off goes on.

A stage's artifact lies below `stages/STAGE/KEY`, where the key is the digest of all that decides its content: the
digests of the artifacts it reads, its part of the spec and its revision. So a stage is fresh where its artifact exists.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic.alias_generators import to_camel
from rich.markup import escape

from vitruvian import artifact, interrupt
from vitruvian.bundle import (
    BUNDLES,
    CHECKSUMS,
    BundleInfo,
    Exported,
    Golden,
    Machine,
    open_bundle,
    promote,
    publish,
)
from vitruvian.bundle import read_champion as champion_of
from vitruvian.console import Teller
from vitruvian.data import versions
from vitruvian.data.prepare import prepare
from vitruvian.data.prepared import PARTS, Prepared
from vitruvian.data.preprocess import HeatmapPreprocess
from vitruvian.data.sources import open_source
from vitruvian.errors import ArtifactError, BundleError, GateFailed, SpecError, TrainingError
from vitruvian.inference.engine import with_exact
from vitruvian.machine import cpu_features, cpu_model, usable_cpus
from vitruvian.models import layers
from vitruvian.models.inputs import pinned, preprocess_for, weights_version
from vitruvian.spec import Classifier, Clip, Data, Model, Training
from vitruvian.store import explained, open_store
from vitruvian.words import counted

if TYPE_CHECKING:
    from vitruvian.evaluation.gates import Decision
    from vitruvian.evaluation.metrics import Metrics
    from vitruvian.training.job import Job
    from vitruvian.training.metrics import TrainingMetrics
    from vitruvian.training.trackers import Run, Trackers

Stage = Literal["prepare", "train", "evaluate", "gate", "export", "publish"]
STAGES: tuple[Stage, ...] = ("prepare", "train", "evaluate", "gate", "export", "publish")
# Raised when a stage makes something else of the same inputs.
_REVISIONS: dict[Stage, int] = {"prepare": 2, "train": 3, "evaluate": 1, "gate": 2, "export": 3, "publish": 4}
_INTERPOLATION = "interpolation.json"
GOLDEN_TOLERANCE = 1e-3
_FEW_TESTED = 30
_FEW_GROUPS = 3
_LIBRARIES = ("vitruvian", "torch", "ray", "transformers", "peft", "numpy", "onnx", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True)
class Made:
    """A stage's artifact in the store."""

    stage: Stage
    key: str
    prefix: str
    digest: str


@dataclass(frozen=True)
class Results:
    """What was learnt and measured, for those who compare."""

    data: Prepared
    history: list[dict[str, float]]
    metrics: Metrics


class Pipeline:
    """The stages of one classifier; each property makes its stage's artifact unless it is fresh."""

    def __init__(
        self,
        classifier: Classifier,
        teller: Teller,
        metrics: TrainingMetrics | None = None,
        trackers: Trackers | None = None,
        shared: dict[str, Made] | None = None,
    ) -> None:
        """`shared` holds what pipelines on the same data prepare once: the source is read by the first of them."""
        self._compared = shared is not None
        self._shared = {} if shared is None else shared
        self.classifier = classifier
        self.spec = classifier.spec
        self.teller = teller
        self.training_metrics = metrics
        self.trackers = trackers
        self.store = open_store(classifier.artifacts)
        self._will_export = False

    def run(self, until: Stage = "publish") -> Made:
        """Run the stages up to one of them; raises `GateFailed` where a gate isn't met."""
        _check_folder(self.store.local())
        self._will_export = STAGES.index(until) >= STAGES.index("export")
        with self.trackers or contextlib.nullcontext():
            return {
                "prepare": lambda: self.prepared,
                "train": lambda: self.trained,
                "evaluate": lambda: self.evaluated,
                "gate": lambda: self.gated,
                "export": lambda: self.exported,
                "publish": lambda: self.published,
            }[until]()

    @cached_property
    def prepared(self) -> Made:
        layers.check(self.spec.model)
        preprocess = preprocess_for(self.spec.model)
        data = self._pinned_data
        alike = artifact.digest_of([data.model_dump(), preprocess.model_dump()])
        if alike in self._shared:
            return self._shared[alike]
        source = open_source(data, preprocess)
        at = f" at {self.spec.data.version or 'its newest'} ({data.version[:12]})" if data.version else ""
        about = f"{data.source}{at} → {preprocess.kind}s of {'x'.join(map(str, preprocess.tensor_shape))}"
        # The source's own version has the commit.
        decides = [data.model_dump(exclude={"version"}), preprocess.model_dump(), source.version]

        def make(folder: Path) -> None:
            if self.trackers:
                self.trackers.check()
            with self.teller.bar("reading", len(source.examples)) as advance:
                made = prepare(source, data, preprocess, folder, advance)
            if source.ignored:
                self.teller.note(f"[yellow]{_ignored(source.ignored, preprocess.kind)}[/]")
            self.teller.statistics(made.statistics())
            if data.group_by:
                for note in _groups(made, {example.name: example.group for example in source.examples}):
                    self.teller.note(note)
            tested = len(made.part("test"))
            if tested < _FEW_TESTED:
                examples = counted(tested, "example")
                self.teller.note(f"[yellow]the test part has {examples}: what is measured on it is rough[/]")

        made = self._shared[alike] = self._made("prepare", about, decides, make)
        return made

    @cached_property
    def _pinned_data(self) -> Data:
        # Once: a branch may move while a run lasts.
        return versions.pinned(self.spec.data)

    @cached_property
    def trained(self) -> Made:
        from vitruvian.export.formats import check

        settings = self.spec.training
        how = f"{workers_of(settings)}, up to {counted(settings.epochs, 'epoch')}" if settings.epochs else "as it is"
        about = f"{self.spec.model.architecture}, {how}"
        if self.trackers:
            begun = next(iter(self.store.at(f"checkpoints/{self._run}").list()), None) is not None
            self.trackers.begin(self.tracked, begun=begun)

        def make(folder: Path) -> None:
            if self._will_export:
                # A format that can't be made here is told before anything is spent, not after.
                check(self.spec.export.formats)
            (self._train if settings.epochs else self._take)(folder)

        made = self._made("train", about, self._trains_on(self.spec.model), make)
        if settings.epochs:
            self.teller.note(f"[dim]curves: {escape(self.store.address(f'{made.prefix}/curves.html'))}[/]")
        if self.trackers:
            self.trackers.trained(self._history_of(made))
        return made

    @property
    def tracked(self) -> Run:
        """What trackers know its training by."""
        from vitruvian.evaluation.report import flat
        from vitruvian.models.rates import default_learning_rate
        from vitruvian.training.identity import how
        from vitruvian.training.trackers import Run

        key = self._key("train", self._trains_on(self.spec.model))
        whole = self.spec.model_dump(mode="json", by_alias=True)
        # The rest may change under the same key.
        for name in how(self.spec.model):
            del whole["training"][to_camel(name)]
        decides = dict(flat({part: whole[part] for part in ("data", "model", "training")}))
        settings = self.spec.training
        if settings.epochs:
            decides["training.learningRate"] = settings.learning_rate or default_learning_rate(self.spec.model)
        return Run(self.classifier.name, key, decides, declared(self.classifier))

    def _how(self) -> dict[str, str]:
        """Return the settings that may change while the run goes on."""
        from vitruvian.evaluation.report import flat
        from vitruvian.training.identity import how

        whole = self.spec.training.model_dump(mode="json", by_alias=True, include=set(how(self.spec.model)))
        return {name: str(value) for name, value in flat({"training": whole})}

    def _trains_on(self, model: Model) -> list[object]:
        from vitruvian.training.identity import decisive

        weights = weights_version(self._pinned)
        settings = decisive(model, self.spec.training)
        return [self.prepared.digest, model.model_dump(), settings.model_dump(), weights]

    @property
    def _run(self) -> str:
        """What checkpoints go by: what was learnt is there for other points between the weights, too."""
        return self._key("train", self._trains_on(without_interpolation(self.spec.model)))

    @cached_property
    def _pinned(self) -> Model:
        """What learns, from weights that stay the same while this run lasts."""
        return pinned(self.spec.model)

    def _take(self, folder: Path) -> None:
        """Make a model of pretrained weights as they are."""
        from vitruvian.models.registry import architecture

        kind = architecture(self.spec.model.architecture)
        (folder / "model").mkdir()
        kind.save(kind.build(self._pinned, self._data.classes), folder / "model")
        (folder / "history.json").write_text("[]")

    @property
    def job(self) -> Job:
        """What trains it, and where its checkpoints lie: below the train stage's key."""
        from vitruvian.training.job import Job

        checkpoints = self.store.at(f"checkpoints/{self._run}")
        return Job(self._pinned, self.spec.training, self.store.at(self.prepared.prefix).url, checkpoints.url)

    @property
    def results(self) -> Results:
        """What the stages up to evaluate found."""
        return Results(self._data, self._history, self._metrics)

    def _train(self, folder: Path) -> None:
        from vitruvian.evaluation.report import write_curves
        from vitruvian.training import latest
        from vitruvian.training.checkpoints import read_state
        from vitruvian.training.job import chosen_epoch
        from vitruvian.training.launch import run
        from vitruvian.training.progress import EpochTable

        settings = self.spec.training
        key = self._run
        store = self.store.at(f"checkpoints/{key}")
        log = (self.store.local() or artifact.cache_folder()) / "logs" / f"train-{key}.log"
        self._folder(self.prepared)
        job = self.job
        self.teller.note(f"[dim]starting {workers_of(settings)}; Ray's log: {escape(str(log))}[/]")
        if self.trackers:
            self.trackers.note(self._how())
        # What is compared differs on purpose.
        if not self._compared:
            tracked = self.tracked
            mine = latest.Latest(key, f"stages/train/{tracked.key}", tracked.parameters)
            if told := latest.begin(self.store, mine):
                self.teller.note(f"[yellow]{escape(told)}[/]")
        with (
            _deletable(store.url, "to train from the start"),
            EpochTable(self.teller.console, job) as table,
            self.training_metrics.training(key) if self.training_metrics else contextlib.nullcontext() as measure,
            interrupt.termination() as terminated,
        ):
            for event in run(job, log, terminated):
                interrupt.look()
                table.show(event)
                if measure:
                    measure(event)
                if self.trackers:
                    self.trackers.take(event)
        weights = read_state(store).weights
        if weights is None or not table.history:
            raise TrainingError("training ended without a finished epoch", where=log, hint="look at this log")
        learnt = artifact.fetch(store, weights)
        history = [{name: value for name, value in record.items() if name != "kind"} for record in table.history]
        (folder / "history.json").write_text(json.dumps(history, indent=1))
        write_curves(folder, self.classifier.name, f"training {key}", history, settings.select)
        chosen = history[chosen_epoch(history, settings.select)]
        accuracy = chosen["validationAccuracy"]
        self.teller.note(f"{settings.select} epoch {chosen['epoch']}: validation accuracy {accuracy:.1%}")
        if self.spec.model.clip and self.spec.model.clip.interpolation:
            self._interpolate(self.spec.model.clip.interpolation, learnt, folder)
        else:
            _copy(learnt, folder / "model")

    def _interpolate(self, points: tuple[float, ...], learnt: Path, folder: Path) -> None:
        from vitruvian.evaluation.interpolation import choose, interpolate

        count = len(set(points)) * len(self._data.part("validation"))
        (folder / "model").mkdir()
        with self.teller.bar("interpolating", count) as advance:
            accuracy = interpolate(self._pinned, points, learnt, self._data, folder / "model", advance)
        measured = {f"{point:g}": value for point, value in accuracy.items()}
        best = choose(accuracy)
        (folder / _INTERPOLATION).write_text(json.dumps({"chosen": best, "validationAccuracy": measured}, indent=1))
        listed = ", ".join(f"{point}: {value:.1%}" for point, value in measured.items())
        self.teller.note(f"from pretrained (0) to learnt (1): validation accuracy {listed}; taken: {best:g}")

    @cached_property
    def evaluated(self) -> Made:
        decides = [self.trained.digest, self.prepared.digest]
        made = self._made("evaluate", "on the test part", decides, self._evaluate)
        if self.trackers:
            self.trackers.tested(self._metrics_of(made).measured())
        return made

    def _evaluate(self, folder: Path) -> None:
        import numpy as np

        from vitruvian.evaluation.metrics import measure
        from vitruvian.evaluation.predict import load_model, predict

        prepared = self._data
        part = prepared.part("test")
        module = load_model(self.spec.model.architecture, self._folder(self.trained) / "model")
        with self.teller.bar("predicting", len(part)) as advance:
            probabilities = predict(module, prepared, part, advance)
        metrics = measure(part.labels, probabilities, prepared.classes)
        np.save(folder / "probabilities.npy", probabilities)
        (folder / "metrics.json").write_text(metrics.model_dump_json(by_alias=True, indent=1))
        low, high = metrics.accuracy_interval.low, metrics.accuracy_interval.high
        self.teller.note(
            f"accuracy [bold]{metrics.accuracy:.3f}[/] (95 % interval {low:.3f} to {high:.3f}), "
            f"weighted F1 {metrics.f1:.3f}, worst class {escape(metrics.worst_class)} {metrics.worst_class_recall:.3f}"
        )

    @cached_property
    def gated(self) -> Made:
        gates = self.spec.gates
        about = counted(len(gates), "gate") if gates else "no gates are set"
        decides = [self.evaluated.digest, [gate.model_dump() for gate in gates], self._opponent]
        made = self._made("gate", about, decides, self._gate)
        decision = self._decision(made)
        report = self.store.address(f"{made.prefix}/report/report.html")
        for outcome in decision.gates:
            self.teller.note(f"{'[green]✓[/]' if outcome.passed else '[red]✗[/]'} {outcome.text}")
        self.teller.note(f"[dim]report: {escape(report)}[/]")
        if self.trackers:
            judged = "passed" if decision.passed else "failed"
            said = "; ".join([judged, *(outcome.text for outcome in decision.gates)]) if decision.gates else "none set"
            self.trackers.note({"gates": said})
            self.trackers.files(self._folder(made) / "report")
        if not decision.passed:
            champion = champion_of(self.store)
            hint = f"see {report}; " + (f"the champion stays {champion}" if champion else "nothing is published")
            raise GateFailed("; ".join(decision.misses), where="gate", hint=hint)
        return made

    def _gate(self, folder: Path) -> None:
        from vitruvian.evaluation.gates import decide
        from vitruvian.evaluation.report import Report, write_report

        metrics = self._metrics
        decision = decide(self.spec.gates, metrics.headline(), self._measured_champion())
        (folder / "decision.json").write_text(
            json.dumps({"passed": decision.passed, "gates": [g.model_dump(by_alias=True) for g in decision.gates]})
        )
        write_report(
            folder / "report",
            Report(
                name=self.classifier.name,
                version=self.version,
                created=datetime.now(UTC),
                architecture=self.spec.model.architecture,
                metrics=metrics,
                decision=decision,
                statistics=self._data.statistics(),
                epochs=self._history,
                select=self.spec.training.select,
                lineage=self._lineage(),
                spec=self.classifier.document(),
            ),
        )

    @cached_property
    def exported(self) -> Made:
        wanted = self.spec.export
        decides = [self.trained.digest, self.evaluated.digest, wanted.model_dump()]
        self.gated  # noqa: B018 - what misses a gate isn't exported
        return self._made("export", ", ".join(with_exact(wanted.formats)), decides, self._export)

    def _export(self, folder: Path) -> None:
        from vitruvian.evaluation.predict import load_model
        from vitruvian.export.make import examples_of, export_all
        from vitruvian.export.source import calibration
        from vitruvian.export.table import exports_table

        prepared = self._data
        model = self.spec.model
        made = export_all(
            model.architecture,
            load_model(model.architecture, self._folder(self.trained) / "model"),
            prepared.classes,
            calibration(prepared),
            examples_of(prepared, "validation"),
            examples_of(prepared, "test"),
            self.spec.export.formats,
            (model.clip or Clip()).templates,
            self.spec.export.accuracy_drop,
            folder,
            self.teller.bar,
        )
        assert made.serve is not None
        self.teller.console.print(exports_table(made.records, made.serve.format, trained=made.trained))
        golden = _write_golden(folder, prepared, made.serve.golden)
        exports = Exported(
            exports=made.records,
            serve=made.serve.format,
            golden=golden,
            machine=Machine(cpu=cpu_model(), features=cpu_features(), cpus=usable_cpus()),
            head=made.head,
            text=made.text,
            trained=made.trained,
        )
        (folder / "exports.json").write_text(exports.model_dump_json(by_alias=True))

    @cached_property
    def published(self) -> Made:
        exported = self.exported
        interrupt.look()
        prefix = f"{BUNDLES}/{self.version}"
        present = artifact.read_manifest(self.store, prefix, CHECKSUMS)
        number, of = len(STAGES), len(STAGES)
        if present is not None:
            address = self.store.address(prefix)
            with _deletable(address):
                open_bundle(address)
            self.teller.fresh(number, of, "publish", f"version {self.version}")
            digest = present.digest
        else:
            with self.teller.stage(number, of, "publish", f"version {self.version}"), self._scratch() as folder:
                info = self._assemble(folder, exported)
                total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                with self.teller.bar("writing", total, size=True) as advance:
                    digest = publish(self.store, folder, info, advance=advance)
        if champion_of(self.store) != self.version:
            promote(self.store, self.version, digest, [gate.text for gate in self._decision(self.gated).gates])
            self.teller.note(f"champion: {self.version}")
        if self.trackers:
            self.trackers.note({"version": self.version})
        return Made("publish", self.version, prefix, digest)

    @cached_property
    def version(self) -> str:
        """The bundle's version: it follows from what was trained, how it was judged and what is exported."""
        decides = [self.trained.digest, self.evaluated.digest, self._gates, self.spec.export.model_dump()]
        return self._key("publish", decides)[:12]

    def _assemble(self, folder: Path, exported: Made) -> BundleInfo:
        from vitruvian.card import card

        made = self._folder(exported)
        exported_as = Exported.model_validate_json((made / "exports.json").read_bytes()).below("exports")
        info = BundleInfo(
            name=self.classifier.name,
            version=self.version,
            created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            labels=self._data.classes,
            architecture=self.spec.model.architecture,
            metrics=self._metrics.headline(),
            gates=self._decision(self.gated).gates,
            **dict(exported_as),
            lineage=self._lineage(),
            spec=self.classifier.document(),
        )
        _copy(self._folder(self.trained) / "model", folder)
        _copy(made / "golden", folder / "golden")
        _copy(made, folder / "exports", "golden", "exports.json")
        _copy(self._folder(self.gated) / "report", folder / "report")
        (folder / "preprocess.json").write_text(self._data.preprocess.model_dump_json(indent=1))
        (folder / "README.md").write_text(card(info, self._data.statistics()))
        return info

    # What later stages read of earlier ones.

    @cached_property
    def _data(self) -> Prepared:
        return Prepared.open(self._folder(self.prepared))

    @cached_property
    def _metrics(self) -> Metrics:
        return self._metrics_of(self.evaluated)

    def _metrics_of(self, evaluated: Made) -> Metrics:
        from vitruvian.evaluation.metrics import Metrics

        return Metrics.model_validate_json((self._folder(evaluated) / "metrics.json").read_bytes())

    @property
    def _history(self) -> list[dict[str, float]]:
        return self._history_of(self.trained)

    def _history_of(self, trained: Made) -> list[dict[str, float]]:
        history: list[dict[str, float]] = json.loads((self._folder(trained) / "history.json").read_text())
        return history

    @property
    def _gates(self) -> list[dict[str, Any]]:
        return [gate.model_dump() for gate in self.spec.gates]

    def _decision(self, made: Made) -> Decision:
        from vitruvian.bundle import GateDecision
        from vitruvian.evaluation.gates import Decision

        saved = json.loads((self._folder(made) / "decision.json").read_text())
        return Decision(saved["passed"], tuple(GateDecision.model_validate(gate) for gate in saved["gates"]))

    @cached_property
    def _opponent(self) -> str | None:
        """The version that gates compare with; a champion is held to what it was once judged by."""
        if not any(gate.versus for gate in self.spec.gates):
            return None
        champion = champion_of(self.store)
        if champion != self.version:
            return champion
        judged: str | None = open_bundle(self.store.address(f"{BUNDLES}/{champion}")).info.lineage.get("champion")
        return judged

    def _measured_champion(self) -> Mapping[str, float] | None:
        """Measure the champion on the present test part; None where there is none."""
        from vitruvian.evaluation.metrics import measure
        from vitruvian.inference.predictor import Predictor

        if self._opponent is None:
            return None
        bundle = open_bundle(self.store.address(f"{BUNDLES}/{self._opponent}"))
        prepared = self._data
        if bundle.info.labels != prepared.classes or bundle.preprocess != prepared.preprocess:
            # Other classes or inputs: it has no answer that could be compared.
            return {}
        part = prepared.part("test")
        with self.teller.bar("measuring the champion", len(part)) as advance:
            predictor = Predictor.open(bundle)
            answers = predictor.predict(part.gather(range(len(part))))
            advance(len(part))
        return measure(part.labels, answers, prepared.classes).headline()

    def _lineage(self) -> dict[str, Any]:
        points = self._folder(self.trained) / _INTERPOLATION
        return {
            **({"interpolation": json.loads(points.read_text())} if points.exists() else {}),
            "data": {
                "source": self.spec.data.source,
                "digest": self.prepared.digest,
                **({"commit": self._pinned_data.version} if self._pinned_data.version else {}),
            },
            "stages": {made.stage: made.key for made in (self.prepared, self.trained, self.evaluated)},
            "champion": self._opponent,
            "libraries": _versions(),
            "python": platform.python_version(),
        }

    # How a stage's artifact is made and read.

    def _key(self, stage: Stage, decides: object) -> str:
        return artifact.digest_of([stage, _REVISIONS[stage], decides])[:16]

    def _made(self, stage: Stage, about: str, decides: object, make: Callable[[Path], None]) -> Made:
        interrupt.look()
        key = self._key(stage, decides)
        prefix = f"stages/{stage}/{key}"
        number, of = STAGES.index(stage) + 1, len(STAGES)
        with _deletable(self.store.address(prefix)):
            present = artifact.read_manifest(self.store, prefix)
        if present is not None:
            self.teller.fresh(number, of, stage, about)
            return Made(stage, key, prefix, present.digest)
        with self.teller.stage(number, of, stage, about), self._scratch() as folder:
            make(folder)
            interrupt.look()
            total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            with self.teller.bar("writing", total, size=True) as advance:
                manifest = artifact.commit(self.store, prefix, folder, {"stage": stage, "key": key}, advance=advance)
        return Made(stage, key, prefix, manifest.digest)

    def _folder(self, made: Made) -> Path:
        known = self._folders.get(made.prefix)
        if known is None:
            with _deletable(self.store.address(made.prefix)):
                known = self._folders[made.prefix] = artifact.fetch(self.store, made.prefix)
        return known

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return {}

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder that goes away, with the operating system's errors explained."""
        try:
            with tempfile.TemporaryDirectory(prefix="vitruvian-") as name:
                yield Path(name)
        except OSError as e:
            raise explained(e, e.filename or tempfile.gettempdir()) from e


@contextlib.contextmanager
def _deletable(address: str, purpose: str = "") -> Iterator[None]:
    """Tell what to delete where what the pipeline made, and can make again, is damaged."""
    try:
        yield
    except (ArtifactError, BundleError) as e:
        hint = f"delete {address}{purpose and f' {purpose},'} and run the same command again"
        raise type(e)(e.what, where=e.where, hint=hint) from e


def declared(classifier: Classifier) -> str:
    """Return the declaration as YAML."""
    return yaml.safe_dump(classifier.document(), sort_keys=False, allow_unicode=True)


def _ignored(count: int, kind: str) -> str:
    if count == 1:
        return f"1 file was ignored: it is no {kind}"
    return f"{count:,} files were ignored: they are no {kind}s"


def _check_folder(root: Path | None) -> None:
    """Raise `SpecError` where a file stands where a folder of artifacts is to be."""
    nearest = next((path for path in (root, *root.parents) if os.path.lexists(path)), None) if root else None
    if nearest and not nearest.is_dir():
        raise SpecError("is no folder", where=nearest, hint="remove it, or name another folder in spec.artifacts")


def _groups(made: Prepared, group_of: Mapping[str, str | None]) -> Iterator[str]:
    """Say how many groups each part has, and which have so few that they tell little of others."""
    counts = {part: len({group_of[name] for name in made.part(part).names}) for part in PARTS}
    yield f"groups: {', '.join(f'{count:,} in {part}' for part, count in counts.items())}"
    few = [part for part in ("validation", "test") if counts[part] < _FEW_GROUPS]
    if few:
        chosen = "; validation chooses the epoch, unless training.select is last" if "validation" in few else ""
        yield f"[yellow]few groups in {' and '.join(few)}: what is measured there is rough{chosen}[/]"


def workers_of(settings: Training) -> str:
    """Return in words what trains."""
    if settings.strategy == "none":
        return "one process"
    asked = settings.workers
    if isinstance(asked, int):
        return f"{settings.strategy}, {counted(asked, 'worker')}"
    return f"{settings.strategy}, {asked.min} to {asked.max} workers"


def without_interpolation(model: Model) -> Model:
    """Return what is learnt, whatever point between the pretrained and the learnt weights is taken of it."""
    if model.clip is None or model.clip.interpolation is None:
        return model
    clip = model.clip.model_copy(update={"interpolation": None})
    return model.model_copy(update={"clip": None if clip == Clip() else clip})


def _copy(source: Path, target: Path, *without: str) -> None:
    """Copy an artifact's files, without what the store keeps beside them."""
    left_out = shutil.ignore_patterns(".incomplete", artifact.MANIFEST, *without)
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=left_out)


def _write_golden(folder: Path, prepared: Prepared, answer: Any) -> Golden:
    """Keep the first test example in the form in which clients send it."""
    import numpy as np
    from PIL import Image

    example = prepared.part("test").gather([0])[0]
    (folder / "golden").mkdir()
    if isinstance(prepared.preprocess, HeatmapPreprocess):
        name = "golden/input.npy"
        np.save(folder / name, example)
    else:
        name = "golden/input.png"
        Image.fromarray(example.astype(np.uint8)).save(folder / name)
    return Golden(input=name, probabilities=tuple(float(p) for p in answer), tolerance=GOLDEN_TOLERANCE)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
