"""Grafana's dashboards, made from the names of the metrics; needs the extra `dev`, nothing that runs imports this.

`python scripts/generate.py` writes them where the chart ships them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as parts
from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from vitruvian.observability import metrics as names
from vitruvian.observability.metrics import LEARNER, PREDICTING, Metric

_SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _STAT_HEIGHT, _HEIGHT = 24, 4, 8
_WINDOW = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """What a panel asks Prometheus, and how it names the answers."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A picture of one or several queries; a stat shows the latest value only."""

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    stat: bool = False
    highest: float | None = None


@dataclass(frozen=True)
class Row:
    """Panels side by side below a title."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A page for one audience; its variables are labels of the metric that `variables_of` names."""

    uid: str
    title: str
    text: str
    variables_of: Metric
    variables: tuple[str, ...]
    rows: tuple[Row, ...]

    def queries(self) -> Iterator[Query]:
        """Yield what all panels ask."""
        for row in self.rows:
            for panel in row.panels:
                yield from panel.queries


def _of(metric: Metric, labels: tuple[str, ...], more: str = "", suffix: str = "") -> str:
    chosen = [f'{label}=~"${label}"' for label in labels]
    return f"{metric.name}{suffix}{{{', '.join([*chosen, *filter(None, [more])])}}}"


_CHOSEN = ("namespace", *names.IDENTITY)
_BY = "by (namespace, classifier, version, track)"
# A line says whose it is: a dashboard may show several namespaces and several classifiers.
_WHOSE = "{{namespace}}/{{classifier}}"
_NAMED = f"{_WHOSE} {{{{version}}}} {{{{track}}}}"
_NAMED_POD = "{{namespace}}/{{pod}}"


def _server(metric: Metric, more: str = "", suffix: str = "") -> str:
    return _of(metric, _CHOSEN, more, suffix)


def _rate(metric: Metric, more: str = "", suffix: str = "") -> str:
    return f"rate({_server(metric, more, suffix)}[{_WINDOW}])"


_ANSWERED = f'route=~"{PREDICTING}"'


def _share(code: str) -> str:
    """Return the share of predictions that were answered with a code, 0 where none was."""
    every = f"sum {_BY} ({_rate(names.REQUESTS, _ANSWERED)})"
    some = f"sum {_BY} ({_rate(names.REQUESTS, f'{_ANSWERED}, {code}')})"
    return f"({some} or 0 * {every}) / {every}"


def _quantile(metric: Metric, share: float, *by: str, more: str = "") -> str:
    inner = f"sum by ({', '.join(('le', *by))}) ({_rate(metric, more, '_bucket')})"
    return f"histogram_quantile({share}, {inner})"


def _mean(metric: Metric) -> str:
    return f"sum {_BY} ({_rate(metric, suffix='_sum')}) / sum {_BY} ({_rate(metric, suffix='_count')})"


def _shadow(*agreements: str) -> str:
    """Return how many of the challenger's inputs a second came out as one of these."""
    chosen = f'agreement=~"{"|".join(agreements)}"'
    return f"sum by (namespace, classifier, version, track, champion) ({_rate(names.SHADOW, chosen)})"


_BESIDE = f"{_NAMED} beside {{{{champion}}}}"


def _process(metric: Metric, rate: bool = False) -> str:
    """Return a process's metric for the chosen servers: it has their pod's labels, but not their own."""
    value = f'{metric.name}{{namespace=~"$namespace"}}'
    value = f"rate({value}[{_WINDOW}])" if rate else value
    # Not what is there of each bundle: a challenger beside it is in the same process.
    pods = f"group by (namespace, pod, classifier, version, track) ({_server(names.READY)})"
    return f"max by (namespace, pod) ({value}) * on (namespace, pod) group_left (classifier, version, track) {pods}"


_LATENCIES = (0.5, 0.95, 0.99)

SERVING = Dashboard(
    uid="vitruvian-serving",
    title="Vitruvian / Serving",
    text="What servers are asked, how well they answer, and what they predict.",
    variables_of=names.BUNDLE_INFO,
    variables=_CHOSEN,
    rows=(
        Row(
            "Now",
            (
                Panel(
                    "Ready servers",
                    "Servers that accept predictions.",
                    "short",
                    (Query(f"sum({_server(names.READY)})"),),
                    stat=True,
                ),
                Panel(
                    "Predictions asked",
                    "Requests to the routes that predict, a second.",
                    "reqps",
                    (Query(f"sum({_rate(names.REQUESTS, _ANSWERED)})"),),
                    stat=True,
                ),
                Panel(
                    "Latency, 95 %",
                    "95 of 100 predictions are answered sooner.",
                    "s",
                    (Query(_quantile(names.REQUEST_TIME, 0.95, more=_ANSWERED)),),
                    stat=True,
                ),
                Panel(
                    "Bundles served",
                    "How many servers have which version.",
                    "short",
                    (Query(f"count {_BY} ({_server(names.BUNDLE_INFO)})", _NAMED),),
                    stat=True,
                ),
            ),
        ),
        Row(
            "Requests",
            (
                Panel(
                    "Requests by route",
                    "All requests a second, probes included.",
                    "reqps",
                    (
                        Query(
                            f"sum by (namespace, classifier, route, code) ({_rate(names.REQUESTS)})",
                            f"{_WHOSE} {{{{route}}}} {{{{code}}}}",
                        ),
                    ),
                ),
                Panel(
                    "Refused and failed",
                    "Shares of the requests to predict: answered with 5xx, or with 429 because the queue was full.",
                    "percentunit",
                    (
                        Query(_share('code=~"5.."'), f"5xx {_NAMED}"),
                        Query(_share('code="429"'), f"429 {_NAMED}"),
                    ),
                ),
                Panel(
                    "Latency",
                    "From the first byte of a request to predict to the end of its answer.",
                    "s",
                    tuple(
                        Query(
                            _quantile(names.REQUEST_TIME, share, *_CHOSEN, more=_ANSWERED),
                            f"{100 * share:g} % {_NAMED}",
                        )
                        for share in _LATENCIES
                    ),
                ),
                Panel(
                    "In flight",
                    "Requests that aren't answered yet.",
                    "short",
                    (Query(f"sum {_BY} ({_server(names.REQUESTS_IN_FLIGHT)})", _NAMED),),
                ),
            ),
        ),
        Row(
            "Inside a server",
            (
                Panel(
                    "Queue",
                    "Accepted predictions that wait for a free thread, for each server.",
                    "short",
                    (Query(f"max by (namespace, pod) ({_server(names.QUEUE_LENGTH)})", _NAMED_POD),),
                ),
                Panel(
                    "Stages, 95 %",
                    "What a prediction's time goes to: waiting, decoding, the model.",
                    "s",
                    (
                        Query(
                            _quantile(names.STAGE_TIME, 0.95, "namespace", "classifier", "stage"),
                            f"{_WHOSE} {{{{stage}}}}",
                        ),
                    ),
                ),
                Panel(
                    "Batch size",
                    "Inputs that the model answered at once, on average.",
                    "short",
                    (Query(_mean(names.BATCH_SIZE), _NAMED),),
                ),
            ),
        ),
        Row(
            "Predictions",
            (
                Panel(
                    "By class",
                    "Predicted inputs a second; a shift without a cause in the world is drift.",
                    "cps",
                    (
                        Query(
                            f"sum by (namespace, classifier, class) ({_rate(names.PREDICTIONS)})",
                            f"{_WHOSE} {{{{class}}}}",
                        ),
                    ),
                ),
                Panel(
                    "Confidence",
                    "Probability of the predicted class: on average, and what 10 of 100 predictions stay below.",
                    "percentunit",
                    (
                        Query(_mean(names.CONFIDENCE), f"mean {_NAMED}"),
                        Query(_quantile(names.CONFIDENCE, 0.1, *_CHOSEN), f"10 % {_NAMED}"),
                    ),
                    highest=1,
                ),
            ),
        ),
        Row(
            "Champion and challenger",
            (
                Panel(
                    "Agreement",
                    "Share of the inputs that the challenger took for the same class as the champion did.",
                    "percentunit",
                    (Query(f"{_shadow('same')} / {_shadow('same', 'different')}", _BESIDE),),
                    highest=1,
                ),
                Panel(
                    "Not compared",
                    "Inputs a second that the challenger was to answer, too, but failed at, or that found no room.",
                    "cps",
                    (
                        Query(_shadow("failed"), f"failed {_BESIDE}"),
                        Query(_shadow("dropped"), f"dropped {_BESIDE}"),
                    ),
                ),
                Panel(
                    "Difference, 95 %",
                    "Largest difference of a class's probability: 95 of 100 inputs have less.",
                    "percentunit",
                    (Query(_quantile(names.SHADOW_DIFFERENCE, 0.95, *_CHOSEN, "champion"), _BESIDE),),
                    highest=1,
                ),
                Panel(
                    "Both versions' time, 95 %",
                    "From the decoded input to the answer, of the inputs that both answered.",
                    "s",
                    (Query(_quantile(names.SHADOW_TIME, 0.95, *_CHOSEN), _NAMED),),
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "Memory",
                    "Resident memory of each server.",
                    "bytes",
                    (Query(_process(names.PROCESS_MEMORY), f"{_NAMED_POD} {{{{version}}}}"),),
                ),
                Panel(
                    "CPU",
                    "CPUs that each server uses.",
                    "short",
                    (Query(_process(names.PROCESS_CPU, rate=True), f"{_NAMED_POD} {{{{version}}}}"),),
                ),
                Panel(
                    "Start",
                    "Seconds from the process's start to the first right answer, by stage; the slowest server.",
                    "s",
                    (
                        Query(
                            f"max by (namespace, classifier, stage) ({_server(names.STARTUP_TIME)})",
                            f"{_WHOSE} {{{{stage}}}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)


_CHOSEN_TRAINING = ("namespace", *LEARNER)
_BY_TRAINING = "by (namespace, classifier, training)"
_NAMED_TRAINING = f"{_WHOSE} {{{{training}}}}"


def _training(metric: Metric, more: str = "", suffix: str = "") -> str:
    return _of(metric, _CHOSEN_TRAINING, more, suffix)


def _latest(metric: Metric, by: str = _BY_TRAINING) -> str:
    """Return a gauge without its pod: an attempt on another pod goes on with the same line."""
    return f"max {by} ({_training(metric)})"


_BY_PART = "by (namespace, classifier, training, part)"
_NAMED_PART = f"{{{{part}}}} {_NAMED_TRAINING}"

TRAINING = Dashboard(
    uid="vitruvian-training",
    title="Vitruvian / Training",
    text="What is learnt, how fast, and what it cost to go on after interruptions.",
    variables_of=names.TRAINING_RUNNING,
    variables=_CHOSEN_TRAINING,
    rows=(
        Row(
            "Now",
            (
                Panel(
                    "Trainings",
                    "Trainings that run.",
                    "short",
                    (Query(f"sum({_training(names.TRAINING_RUNNING)})"),),
                    stat=True,
                ),
                Panel(
                    "Epochs",
                    "Finished, and the most there will be.",
                    "short",
                    (
                        Query(_latest(names.TRAINING_EPOCH), f"finished {_NAMED_TRAINING}"),
                        Query(_latest(names.TRAINING_EPOCHS), f"most {_NAMED_TRAINING}"),
                    ),
                    stat=True,
                ),
                Panel(
                    "Attempt",
                    "How often workers were started, the first time included.",
                    "short",
                    (Query(_latest(names.TRAINING_ATTEMPT), _NAMED_TRAINING),),
                    stat=True,
                ),
                Panel(
                    "Since progress",
                    "Time since workers told of progress, while they train.",
                    "s",
                    (
                        Query(
                            f"time() - {_latest(names.TRAINING_PROGRESS)} and {_latest(names.TRAINING_RUNNING)} == 1",
                            _NAMED_TRAINING,
                        ),
                    ),
                    stat=True,
                ),
            ),
        ),
        Row(
            "Learning",
            (
                Panel(
                    "Loss",
                    names.TRAINING_LOSS.help,
                    "none",
                    (Query(_latest(names.TRAINING_LOSS, _BY_PART), _NAMED_PART),),
                ),
                Panel(
                    "Accuracy",
                    names.TRAINING_ACCURACY.help,
                    "percentunit",
                    (Query(_latest(names.TRAINING_ACCURACY, _BY_PART), _NAMED_PART),),
                    highest=1,
                ),
            ),
        ),
        Row(
            "Speed",
            (
                Panel(
                    "Images a second",
                    "Examples that all workers together trained on; validation and checkpoints make gaps.",
                    "cps",
                    (
                        Query(
                            f"sum {_BY_TRAINING} (rate({_training(names.TRAINING_IMAGES)}[{_WINDOW}]))",
                            _NAMED_TRAINING,
                        ),
                    ),
                ),
                Panel(
                    "Steps",
                    "Finished optimizer steps; a step back is what an interruption cost.",
                    "short",
                    (Query(_latest(names.TRAINING_STEP), _NAMED_TRAINING),),
                ),
            ),
        ),
        Row(
            "Interruptions",
            (
                Panel(
                    "Checkpoints, seconds",
                    "How long workers waited for a checkpoint, on average.",
                    "s",
                    (
                        Query(
                            " / ".join(
                                f"sum {_BY_TRAINING} "
                                f"(rate({_training(names.TRAINING_CHECKPOINT_TIME, suffix=suffix)}[{_WINDOW}]))"
                                for suffix in ("_sum", "_count")
                            ),
                            _NAMED_TRAINING,
                        ),
                    ),
                ),
                Panel(
                    "Attempts and workers",
                    "A new attempt begins where a worker, or all of them, were lost.",
                    "short",
                    (
                        Query(_latest(names.TRAINING_ATTEMPT), f"attempt {_NAMED_TRAINING}"),
                        Query(_latest(names.TRAINING_WORKERS), f"workers {_NAMED_TRAINING}"),
                    ),
                ),
            ),
        ),
    ),
)

DASHBOARDS = {"serving": SERVING, "training": TRAINING}
"""Each dashboard by the name of its file."""


def rendered(wanted: Dashboard) -> str:
    """Return a dashboard as Grafana reads it."""
    built = (
        board.Dashboard(wanted.title)
        .uid(wanted.uid)
        .description(wanted.text)
        .tags(["vitruvian"])
        .editable()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .with_variable(board.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for number, label in enumerate(wanted.variables):
        built = built.with_variable(_variable(wanted, label, wanted.variables[:number]))
    identity = itertools.count(1)
    for row in wanted.rows:
        built = built.with_row(board.Row(row.title).id(next(identity)))
        for panel in row.panels:
            built = built.with_panel(_panel(panel, _WIDTH // len(row.panels)).id(next(identity)))
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(wanted: Dashboard, label: str, before: tuple[str, ...]) -> board.QueryVariable:
    """Return a label's variable; it offers what there is for the values that were chosen before it."""
    return (
        board.QueryVariable(label)
        .label(label.capitalize())
        .datasource(_SOURCE)
        .query(f"label_values({_of(wanted.variables_of, before)}, {label})")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(dashboard.VariableOption(text="All", value="$__all"))
    )


def _panel(panel: Panel, width: int) -> Stat | TimeSeries:
    made: Stat | TimeSeries
    if panel.stat:
        last = parts.ReduceDataOptions().calcs(["lastNotNull"])
        made = Stat().height(_STAT_HEIGHT).reduce_options(last).graph_mode(common.BigValueGraphMode.NONE)
        made = made.no_value("none")
    else:
        legend = parts.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).show_legend(True)
        made = (
            TimeSeries().height(_HEIGHT).legend(legend.placement(common.LegendPlacement.BOTTOM)).min(0).fill_opacity(5)
        )
    made = made.title(panel.title).description(panel.text).unit(panel.unit).span(width).datasource(_SOURCE)
    if panel.highest is not None:
        made = made.max(panel.highest)
    for number, query in enumerate(panel.queries):
        target = Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + number))
        # Over a range, a stat would go on showing the last value of what is gone.
        made = made.with_target(target.instant() if panel.stat else target.range())
    return made
