"""Training every variant of a study, one after the other, and keeping what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from vitruvian import interrupt
from vitruvian.artifact import digest_of
from vitruvian.console import BETWEEN, Teller, fitting
from vitruvian.errors import Terminated, VitruvianError
from vitruvian.models import layers
from vitruvian.models.registry import parameters
from vitruvian.pipeline import Made, Pipeline, declared
from vitruvian.spec import Classifier
from vitruvian.store import open_store
from vitruvian.study.page import BEST, PAGE, Study, files
from vitruvian.study.results import LEAST_NEEDED, Outcome, Row, Run, columns, comparable, rows
from vitruvian.training import sweep as tracking
from vitruvian.training.job import chosen_epoch
from vitruvian.training.sweep import Sweep
from vitruvian.training.trackers import Run as Tracked
from vitruvian.variants import Axis, Variant, compared, names, shown, titled, variant

_WIDEST_VALUE = 30


def run_study(
    teller: Teller,
    classifier: Classifier,
    axes: Sequence[Axis],
    out: str | None = None,
    *,
    skip_invalid: bool = False,
    trackers: tracking.Open | None = None,
) -> int:
    """Prepare, train and evaluate every variant, and write table, picture and page; return how many runs failed.

    What is fresh is skipped, so that an interrupted study goes on where it stopped; `trackers` is called for each
    variant. Raises `SpecError` where a combination isn't valid, before anything is trained.
    """
    variants, refused = compared(classifier, axes, layers.check, skip_invalid=skip_invalid)
    for line in refused:
        teller.note(f"[yellow]left out: {escape(line)}[/]")
    shared: dict[str, Made] = {}
    runs = []
    id = _id(variants)
    group = Tracked(classifier.name, f"study-{id}", {}, declared(classifier), title=f"{classifier.name} study {id}")
    with Sweep(trackers, group) as sweep:
        for number, each in enumerate(variants, 1):
            teller.console.print(f"[bold]variant {number} of {len(variants)}[/]  {escape(each.words)}", highlight=False)
            runs.append(_run(teller, each, shared, sweep))
        found = rows(runs)
        if found[0].outcomes:
            accuracy = found[0].over_seeds(lambda outcome: outcome.validation_accuracy).mean
            sweep.chosen(titled(found[0].values) or classifier.name, accuracy)
    study = Study(
        name=classifier.name,
        id=id,
        created=datetime.now(UTC),
        axes=axes,
        runs=runs,
        dropped=refused,
        spec=classifier.document(),
    )
    best = _declared(classifier, found[0])
    store = open_store(out) if out else open_store(classifier.artifacts).at(f"studies/{study.id}")
    for name, content in files(study, best).items():
        store.put(name, content)
    _show(teller, study, found)
    teller.note(f"page: {escape(store.address(PAGE))}")
    if best and (local := store.local(BEST)):
        teller.note(f"the best by validation: vitruvian run -f {escape(str(local))}")
    return sum(run.outcome is None for run in runs)


def _run(teller: Teller, each: Variant, shared: dict[str, Made], sweep: Sweep) -> Run:
    try:
        pipeline = Pipeline(each.classifier, teller, trackers=sweep.one(each.title), shared=shared)
        pipeline.run("evaluate")
        return Run(each.values, _outcome(pipeline))
    except Terminated:
        raise
    except Exception as e:
        interrupt.look()
        # A variant that needs more memory than there is, say, is no reason to lose the night's other ones.
        error = str(e) if isinstance(e, VitruvianError) else f"{type(e).__name__}: {e}"
        error = " ".join(error.split())
        teller.note(f"[red]✗ failed: {escape(error)}[/]")
        return Run(each.values, None, error)


def _outcome(pipeline: Pipeline) -> Outcome:
    results, model = pipeline.results, pipeline.spec.model
    chosen = results.history[chosen_epoch(results.history, pipeline.spec.training.select)]
    metrics = results.metrics
    learnt, total = parameters(model, results.data.classes)
    return Outcome(
        validation_accuracy=chosen["validationAccuracy"],
        validation_loss=chosen["validationLoss"],
        epoch=int(chosen["epoch"]),
        epochs=len(results.history),
        seconds=sum(record["seconds"] for record in results.history),
        accuracy=metrics.accuracy,
        low=metrics.accuracy_interval.low,
        high=metrics.accuracy_interval.high,
        worst_class=metrics.worst_class,
        worst_class_recall=metrics.worst_class_recall,
        examples=metrics.examples,
        learnt=learnt,
        parameters=total,
        parts=digest_of([results.data.part(name).names for name in ("validation", "test")]),
    )


def _id(variants: Sequence[Variant]) -> str:
    """Return the name of a study: the same for the same variants of the same declaration."""
    decides = [variant.classifier.spec.model_dump(include={"data", "model", "training"}) for variant in variants]
    return digest_of(decides)[:12]


def _declared(classifier: Classifier, best: Row) -> str | None:
    if not best.outcomes:
        return None
    return declared(variant(classifier, best.values).classifier)


def _show(teller: Teller, study: Study, found: Sequence[Row]) -> None:
    short = names([axis.path for axis in study.varied])
    shown_table = Table(box=None, padding=(0, BETWEEN, 0, 0), header_style="dim")
    room = teller.console.width
    for path, name in short.items():
        width = min(_WIDEST_VALUE, max(len(name), *(len(shown(row.values[path])) for row in found)))
        shown_table.add_column(name, overflow="fold", width=width)
        room -= width + BETWEEN
    measured = [columns(row) for row in found if row.outcomes]
    cells_of = {head: [cells[head] for cells in measured if head in cells] for head in columns(found[0])}
    heads = fitting(cells_of, LEAST_NEEDED, room)
    for head in heads:
        shown_table.add_column(head, justify="right", no_wrap=True)
    failures = []
    for number, row in enumerate(found):
        values = [escape(shown(row.values[path])) for path in short]
        failures += [f"{', '.join(f'{short[p]} {shown(row.values[p])}' for p in short)}: {e}" for e in row.errors]
        if row.outcomes:
            cells = columns(row)
            told = (escape(cells.get(head, "")) for head in heads)
            shown_table.add_row(*values, *told, style="bold" if number == 0 else None)
        else:
            shown_table.add_row(*values, "[red]failed[/]")
    teller.console.print(shown_table)
    for failure in failures:
        teller.note(f"[red]✗[/] {escape(failure)}")
    if not comparable(found):
        teller.note("[yellow]these variants were not measured on the same examples: don't compare their numbers[/]")
    teller.note("[dim]chosen by validation accuracy; the test part is only reported[/]")
