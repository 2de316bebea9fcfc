"""The command line: one verb for each stage and tool.

Nothing heavy is imported before a command needs it: `vitruvian --help` loads neither torch nor ray.
"""

from __future__ import annotations

import errno
import importlib.metadata
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
import typer.core
import typer.main
from rich.console import Console

from vitruvian import interrupt
from vitruvian.errors import Interrupted, NotFound, SpecError, Terminated, VitruvianError
from vitruvian.store import explained

if TYPE_CHECKING:
    from vitruvian.cluster.api import Cluster
    from vitruvian.cluster.rayjob import Job
    from vitruvian.cluster.settings import RaySettings
    from vitruvian.console import Teller
    from vitruvian.inference.access.guard import Guard
    from vitruvian.inference.access.tls import Tls
    from vitruvian.inference.offline import Writing
    from vitruvian.inference.remote.fetch import Fetcher
    from vitruvian.pipeline import Stage
    from vitruvian.spec import Classifier
    from vitruvian.training.trackers import Trackers

S = TypeVar("S", bound="RaySettings")

INTERRUPTED = 130
_INTERRUPTED = "interrupted; run the same command again to go on"

app = typer.Typer(
    help="Trains, checks, ships and watches human pose and action classifiers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
spec_app = typer.Typer(help="Explain, describe and check the file that declares a classifier.", no_args_is_help=True)
data_app = typer.Typer(help="Make and change data sets.", no_args_is_help=True)
key_app = typer.Typer(help="Make API keys for servers.", no_args_is_help=True)
app.add_typer(spec_app, name="spec")
app.add_typer(data_app, name="data")
app.add_typer(key_app, name="key")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vitruvian {importlib.metadata.version('vitruvian')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


class _Unread(SystemExit):
    """Nobody reads what is printed."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise _Unread


# Names of files and classes are shown as they are: ':smile:' is no picture.
console = _Console(emoji=False)
problems = Console(stderr=True, emoji=False)

File = Annotated[Path, typer.Option("-f", "--file", help="The file that declares the classifier.")]
MLflowAt = Annotated[
    str | None, typer.Option("--mlflow", metavar="URI", help="Track with MLflow: http://HOST:PORT or sqlite:///FILE.")
]
WandbProject = Annotated[
    str | None, typer.Option("--wandb", metavar="PROJECT", help="Track with Weights & Biases, in this project.")
]
TensorBoardAt = Annotated[
    Path | None, typer.Option("--tensorboard", metavar="FOLDER", help="Write event files for TensorBoard.")
]
Address = Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle or a classifier's artifacts: folder or s3://")]


class Architecture(StrEnum):
    """What the demo can train."""

    vit = "vit"
    heatmap_cnn = "heatmap-cnn"


class Form(StrEnum):
    """What keypoints can be drawn as."""

    heatmaps = "heatmaps"
    images = "images"


class Labels(StrEnum):
    """Which labels of a set of sequences become the classes."""

    coarse = "coarse"
    fine = "class"


class Frame(StrEnum):
    """Which frames of a sequence are drawn."""

    peak = "peak"
    every = "all"


class ExportFormat(StrEnum):
    onnx = "onnx"
    onnx_int8 = "onnx-int8"
    openvino = "openvino"
    openvino_bf16 = "openvino-bf16"
    openvino_int8 = "openvino-int8"
    torchscript = "torchscript"
    tensorrt = "tensorrt"
    tensorrt_fp16 = "tensorrt-fp16"
    tensorrt_int8 = "tensorrt-int8"


class Rows(StrEnum):
    """What a batch's answers are written as."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"


class Track(StrEnum):
    """What a server is to its classifier."""

    stable = "stable"
    canary = "canary"


def main() -> None:
    """Run the command line; errors that a user can mend are one line each on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character shows a question mark instead of ending the command.
            stream.reconfigure(errors="replace")
    interrupt.install(_end_untidied)
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except KeyboardInterrupt:
        _end_at_once(_INTERRUPTED, INTERRUPTED)
    except _Unread:
        _exit_for(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
    except Interrupted as e:
        _end_at_once(str(e), e.exit_code)
    except Exception as e:
        if interrupt.came():
            _end_at_once(_INTERRUPTED, INTERRUPTED)
        if isinstance(e, Terminated):
            _end_at_once(str(e), e.exit_code)
        _exit_for(e)


def _end_at_once(line: str, code: int) -> NoReturn:
    """End without the interpreter's own end, which training that is still inside torch in a thread doesn't survive."""
    _complain(line)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _end_untidied() -> NoReturn:
    """End in the middle of anything: what is written aside stays there, and nothing else is lost."""
    # Whatever was interrupted may hold the locks that printing needs.
    cursor = "\r\033[K\033[?25h" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(2, f"{cursor}✗ {_INTERRUPTED}\n".encode())
    os._exit(INTERRUPTED)


def _exit_for(error: Exception) -> NoReturn:
    if isinstance(error, VitruvianError):
        _complain(str(error))
        sys.exit(error.exit_code)
    if isinstance(error, OSError):
        if error.filename is not None:
            _complain(str(explained(error, error.filename)))
            sys.exit(1)
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise error
        # Nobody reads on, or the disk that the output goes to is full: the lines in the buffer can't be written either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # Training may be at work yet.
        _end_at_once(f"the output can't be written: {error.strerror}", 1)
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    sys.exit(getattr(error, "exit_code", 2))


def _complain(lines: str) -> None:
    for line in lines.splitlines():
        problems.print(f"[red]✗[/] {_plain(line)}", highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@app.command()
def run(
    file: File,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Show training metrics to Prometheus on this port; 0: any free one."),
    ] = None,
    metrics_host: Annotated[
        str | None, typer.Option(help="The address that --metrics-port is on; none: 127.0.0.1.")
    ] = None,
    mlflow: MLflowAt = None,
    wandb: WandbProject = None,
    tensorboard: TensorBoardAt = None,
) -> None:
    """Run all stages: prepare, train, evaluate, gate, export, publish. What is fresh is skipped."""
    if metrics_host is not None and metrics_port is None:
        raise SpecError("shows nothing by itself", where="--metrics-host", hint="add --metrics-port 8081")
    metrics_at = None if metrics_port is None else (metrics_host or "127.0.0.1", metrics_port)
    _until("publish", file, metrics_at, (mlflow, wandb, tensorboard))


@app.command()
def prepare(file: File) -> None:
    """Read, check, split and pack the data."""
    _until("prepare", file)


@app.command()
def train(
    file: File,
    mlflow: MLflowAt = None,
    wandb: WandbProject = None,
    tensorboard: TensorBoardAt = None,
) -> None:
    """Run the stages up to training."""
    _until("train", file, tracked_by=(mlflow, wandb, tensorboard))


@app.command()
def plan(
    file: File,
    gpus: Annotated[
        str | None, typer.Option(metavar="NAME[:N]", help="Such as a10g:4, or cpu:2; none: as the file says.")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Make some steps on this machine to tell its speed.")] = True,
    examples: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000_000, help="Examples to train on, where the source can't be read from here."),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="A YAML file of prices: instance: dollars an hour, a line each.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan for programs.")] = False,
) -> None:
    """Tell what a training needs before anything is spent: memory, time, cost; exits with 4 where it can't fit."""
    from vitruvian import spec

    classifier = spec.load(file)
    with _needs("train"):
        from vitruvian.planning import console as shown
        from vitruvian.planning.advise import check
        from vitruvian.planning.examine import examine

        with problems.status("looking …") as status:
            made = examine(
                classifier,
                gpus,
                measuring=measure,
                examples=examples,
                prices=prices,
                tell=lambda text: status.update(f"{text} …"),
            )
    if as_json:
        print(shown.machine_readable(made))
    else:
        shown.show(console, made)
    check(made.work.counts, made.chosen.setting, made.chosen.device, [other.device for other in made.others])


@app.command()
def leave(
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait.")] = 50.0,
) -> None:
    """Have the training on this machine save, and wait until it has: for whoever ends the machine, such as a hook."""
    from vitruvian.training import notice

    answered = notice.leave(seconds)
    console.print("training has saved" if answered else "no training has saved here", highlight=False)


@app.command()
def evaluate(file: File) -> None:
    """Run the stages up to the evaluation on the test part."""
    _until("evaluate", file)


@app.command()
def gate(file: File) -> None:
    """Run the stages up to the gates; exits with 3 where one isn't met."""
    _until("gate", file)


@app.command()
def export(
    bundle: Annotated[
        str | None, typer.Argument(metavar="[BUNDLE]", help="A bundle to export again, instead of a declaration.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The file that declares the classifier.")] = None,
    format: Annotated[list[ExportFormat] | None, typer.Option(help="What to make; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for what is made of a bundle; none: exports.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Files to calibrate and to compare with; folders named like classes: accuracy.")
    ] = None,
    accuracy_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="The most accuracy to lose; none: 0.01.")
    ] = None,
) -> None:
    """Run the stages up to the export, or export a published BUNDLE in other formats."""
    if (bundle is None) == (file is None):
        raise typer.BadParameter("give a declaration with -f FILE, or a BUNDLE")
    if bundle is None:
        assert file is not None
        given = {"--format": format, "--out": out, "--images": images, "--accuracy-drop": accuracy_drop}
        for flag, value in given.items():
            if value is not None:
                hint = "give one instead of -f FILE; a declaration says it in spec.export"
                raise SpecError("goes with a BUNDLE", where=flag, hint=hint)
        _until("export", file)
        return
    from vitruvian.bundle import open_bundle
    from vitruvian.console import Teller

    with _needs("train"):
        from vitruvian.export.again import export_bundle
        from vitruvian.export.table import exports_table
    formats = dict.fromkeys(one.value for one in format or [ExportFormat.onnx])
    out = out or Path("exports")
    drop = 0.01 if accuracy_drop is None else accuracy_drop
    made = export_bundle(open_bundle(bundle), list(formats), out, images, drop, Teller(console))
    console.print(exports_table(made.records, made.serve.format if made.serve else None, made.told, made.trained))
    what = "1 format is" if len(made.records) == 1 else f"{len(made.records)} formats are"
    console.print(f"{what} in {_plain(str(out))}", highlight=False, soft_wrap=True)


@app.command()
def publish(file: File) -> None:
    """Run the stages up to the published bundle."""
    _until("publish", file)


@app.command()
def study(
    file: File,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=VALUE,…", help="A field below spec and its values; several: all combinations."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Values of training.seed; the table averages over them.")] = None,
    split_seeds: Annotated[str | None, typer.Option(help="Values of data.seed; the table averages over them.")] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out combinations that aren't valid.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Folder or s3:// for the page; none: studies/ of the artifacts."),
    ] = None,
    mlflow: MLflowAt = None,
    wandb: WandbProject = None,
    tensorboard: TensorBoardAt = None,
) -> None:
    """Train variants of a classifier on the same data and compare them; exits with 1 where one failed."""
    from vitruvian import spec, variants
    from vitruvian.console import Teller

    classifier = spec.load(file)
    axes = variants.axes(vary or [], seeds, split_seeds)
    with _needs("train"):
        from vitruvian.study.run import run_study

        teller = Teller(console)
        trackers = _trackers(mlflow, wandb, tensorboard, teller)
        failed = run_study(teller, classifier, axes, out, skip_invalid=skip_invalid, trackers=trackers)
    raise typer.Exit(1 if failed else 0)


@app.command()
def tune(
    file: File,
    trials: Annotated[int | None, typer.Option(min=1, max=10_000, help="How many; none: spec.tuning.trials.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="How many at once; none: as there is room for.")] = None,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="A file or s3:// address to write the best declaration to.")
    ] = "best.yaml",
    mlflow: MLflowAt = None,
    wandb: WandbProject = None,
    tensorboard: TensorBoardAt = None,
) -> None:
    """Look for better values in spec.tuning's space with Ray Tune, and write the declaration that has them."""
    from vitruvian import spec
    from vitruvian.console import Teller

    classifier = spec.load(file)
    with _needs("train"):
        from vitruvian.tune import run_tuning

        teller = Teller(console)
        failed = run_tuning(teller, classifier, trials, concurrent, out, _trackers(mlflow, wandb, tensorboard, teller))
    raise typer.Exit(1 if failed else 0)


@app.command()
def demo(
    model: Annotated[Architecture, typer.Option(help="What to train.")] = Architecture.vit,
    serve: Annotated[bool, typer.Option(help="Serve the bundle when it is published.")] = True,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps everything.")] = Path("vitruvian-demo"),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8080,
) -> None:
    """Run the main job on synthetic poses: train, check, export, publish and serve a classifier."""
    from vitruvian.demo import run_demo

    run_demo(console, model.value, folder, host, port, serve=serve)


_LISTENING, _ACCESS, _LOAD = "Listening", "Who may ask, and by what", "How much at once"
_TRYING, _ENDING = "Trying another version beside it", "Ending"


@app.command()
def serve(
    bundle: Address,
    host: Annotated[str, typer.Option(help="The address to listen on.", rich_help_panel=_LISTENING)] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0: any free one.", rich_help_panel=_LISTENING)
    ] = 8080,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The Open Inference Protocol over gRPC, too.", rich_help_panel=_LISTENING),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Health and metrics on a port of their own.", rich_help_panel=_LISTENING),
    ] = None,
    access: Annotated[
        Path | None, typer.Option(help="A file that says who may ask; none: all.", rich_help_panel=_ACCESS)
    ] = None,
    allow_url: Annotated[
        list[str] | None,
        typer.Option(help="A host to fetch pictures from; may be repeated; none: no URLs.", rich_help_panel=_ACCESS),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The server's certificate.", rich_help_panel=_ACCESS)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.", rich_help_panel=_ACCESS)] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Whose certificates clients must have.", rich_help_panel=_ACCESS)
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the protocols; none: the classifier's.")] = None,
    track: Annotated[Track, typer.Option(help="A label of the metrics.")] = Track.stable,
    format: Annotated[
        ExportFormat | None, typer.Option(help="The export to serve; none: the fastest here that keeps the accuracy.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes that answer.", rich_help_panel=_LOAD)] = 1,
    lanes: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Predictions of a process at once; none: its CPUs.", rich_help_panel=_LOAD),
    ] = None,
    queue_seconds: Annotated[
        float, typer.Option(min=0.001, help="How long accepted work may wait.", rich_help_panel=_LOAD)
    ] = 10.0,
    deadline: Annotated[
        float, typer.Option(min=0.001, help="Seconds for an answer where a client says none.", rich_help_panel=_LOAD)
    ] = 30.0,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of one request.", rich_help_panel=_LOAD)] = 20_000_000,
    max_inputs: Annotated[int, typer.Option(min=1, help="Inputs of one request.", rich_help_panel=_LOAD)] = 64,
    challenger: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="The version to try.", rich_help_panel=_TRYING)
    ] = None,
    share: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of the requests that it answers.", rich_help_panel=_TRYING)
    ] = 0.0,
    shadow: Annotated[
        float,
        typer.Option(min=0, max=100, help="Percent that it predicts, too, for nobody.", rich_help_panel=_TRYING),
    ] = 0.0,
    sticky_cookie: Annotated[
        bool, typer.Option("--sticky-cookie", help="Keep browsers with one version.", rich_help_panel=_TRYING)
    ] = False,
    linger: Annotated[
        float,
        typer.Option(min=0, help="Seconds to go on answering after SIGTERM, but not ready.", rich_help_panel=_ENDING),
    ] = 0.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds to then finish what was accepted.", rich_help_panel=_ENDING)
    ] = 30.0,
) -> None:
    """Serve a bundle over HTTP, with a page for people."""
    # Before numpy is loaded. Its products here are small: threads that wait for each other on busy CPUs only cost.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from vitruvian.bundle import open_bundle

    if challenger is None and (share or shadow or sticky_cookie):
        raise SpecError("are for a challenger", where="--share, --shadow and --sticky-cookie", hint="add --challenger")
    if challenger is not None and track is not Track.stable:
        raise SpecError("goes beside a champion only", where="--challenger", hint=f"leave out --track {track.value}")
    with _needs("serve"):
        from vitruvian.inference.aside import begun
        from vitruvian.inference.processes import prepare_metrics

        # Checksums of a large bundle take as long as the imports, and need another CPU.
        opened = begun(lambda: open_bundle(bundle))
        if processes > 1:
            prepare_metrics()
        from vitruvian.inference import server
        from vitruvian.inference.challenger import check_there
        from vitruvian.inference.choice import chosen, fastest
        from vitruvian.inference.rules import Rules
        from vitruvian.inference.service import Settings
        from vitruvian.inference.startup import Startup
        from vitruvian.machine import usable_cpus

    if challenger is not None:
        check_there(challenger)
    startup = Startup()
    with startup.time("fetch" if bundle.startswith("s3://") else "verify"):
        found = opened()
    with startup.time("choose"):
        count = lanes or max(1, usable_cpus() // processes)
        found = chosen(found, format.value) if format else fastest(found, count, _tell)
    if name:
        found = found.named(name)

    def announce(address: str) -> None:
        what = f"[bold]{_plain(found.info.name)}[/] version {_plain(found.info.version)}"
        took = f" after {startup}" if processes == 1 else f" in {processes} processes"
        console.print(f"{what} is ready at {_plain(address)}{took}", highlight=False, soft_wrap=True)

    settings = Settings(
        max_body=max_body,
        max_inputs=max_inputs,
        queue_seconds=queue_seconds,
        deadline_seconds=deadline,
        lanes=lanes,
        track=track.value,
        linger_seconds=linger,
        drain_seconds=drain,
    )
    extras = server.Extras(
        grpc_port=grpc_port,
        admin_port=admin_port,
        guard=_guard(access, processes),
        fetcher=_fetcher(allow_url, max_body),
        tls=_tls(tls_cert, tls_key, tls_client_ca),
        challenger=challenger,
        rules=Rules(share, shadow, sticky_cookie),
    )
    if processes == 1:
        server.serve(found, host, port, settings=settings, startup=startup, extras=extras, announce=announce)
        return
    code = server.serve_in_processes(found, host, port, processes, settings=settings, extras=extras, announce=announce)
    raise typer.Exit(code)


def _guard(file: Path | None, processes: int) -> Callable[[], Guard] | None:
    """Return what makes a process's guard; raises `SpecError` for a file that can't be carried out."""
    if file is None:
        return None
    from vitruvian.inference.access.guard import Guard

    # Once here, so that what is wrong is told before anything starts.
    Guard.open(file)
    return lambda: Guard.open(file, shares=processes)


def _fetcher(hosts: list[str] | None, max_body: int) -> Callable[[], Fetcher] | None:
    """Return what makes a process's fetcher; raises `SpecError` for hosts that can't be."""
    if not hosts:
        return None
    from vitruvian.inference.remote.allowed import Allowed
    from vitruvian.inference.remote.fetch import Fetcher, Limits

    allowed = Allowed.parse(hosts)
    return lambda: Fetcher(allowed, Limits(max_body=max_body))


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    from vitruvian.inference.access.tls import Files, Tls

    return Tls(Files(certificate, key, client_ca))


@app.command()
def fetch(
    bundle: Address,
    folder: Annotated[Path, typer.Argument(help="The folder to fill.")],
) -> None:
    """Copy a bundle into a folder, each file checked; KServe's pods begin with it."""
    from vitruvian.bundle import open_bundle

    found = open_bundle(bundle, into=folder)
    what = f"[bold]{_plain(found.info.name)}[/] version {_plain(found.info.version)}"
    console.print(f"{what} is in {_plain(str(folder))}", highlight=False, soft_wrap=True)


@app.command()
def push(
    bundle: Address,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub; made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make it for its owner only.")] = False,
    revision: Annotated[str, typer.Option(metavar="BRANCH", help="The branch to commit to.")] = "main",
) -> None:
    """Publish a bundle on the Hugging Face hub, with its model card, as one commit."""
    from vitruvian.bundle import open_bundle

    with _needs("hub"):
        from vitruvian import hub

        hub.check_repository(repository)
        found = open_bundle(bundle)
        pushed = hub.push(found, repository, private=private, branch=revision)
    what = f"[bold]{_plain(found.info.name)}[/] version {_plain(found.info.version)}"
    already = "" if pushed.changed else " already"
    console.print(f"{what} is{already} at {_plain(pushed.url)}", highlight=False, soft_wrap=True)


@app.command()
def probe(
    url: Annotated[str, typer.Argument(help="A server's address, such as http://127.0.0.1:8080.")],
    host: Annotated[str | None, typer.Option(help="The Host header, for a server behind an ingress.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Ask again for so many seconds while nobody answers.")] = 0.0,
    key: Annotated[
        str | None, typer.Option(envvar="VITRUVIAN_KEY", help="The API key, for a server that asks for one.")
    ] = None,
) -> None:
    """Ask a server that runs for one prediction, of an input of zeros."""
    from vitruvian.inference.probe import probe as ask

    answer = ask(url, host, wait, key=key)
    what = f"[bold]{_plain(answer.classifier)}[/] version {_plain(answer.version)} answers"
    console.print(f"{what}: {_plain(answer.label)}, {answer.confidence:.1%}", highlight=False)


_BATCH = "Many files, in parts"


@app.command()
def predict(
    bundle: Address,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Files, or folders of files; with --out one folder or s3://")
    ],
    csv: Annotated[Path | None, typer.Option(help="Write a row for each file here instead of a table.")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Folder or s3:// for the answers.", rich_help_panel=_BATCH)
    ] = None,
    format: Annotated[Rows | None, typer.Option(help="None: parquet.", rich_help_panel=_BATCH)] = None,
    part: Annotated[
        int | None, typer.Option(min=1, help="Files of a part; none: 1,000.", rich_help_panel=_BATCH)
    ] = None,
    on_ray: Annotated[
        bool,
        typer.Option("--on-ray", help="Do parts all over the Ray cluster of RAY_ADDRESS.", rich_help_panel=_BATCH),
    ] = False,
) -> None:
    """Predict files: path, label, confidence and every class's probability for each.

    A terminal shows the next best classes where it has no room for all; --csv has all.

    With --out all files of a folder or S3 prefix are predicted in parts; the same command goes on where it was ended.
    """
    with _needs("serve"):
        from vitruvian.inference.offline import batch_command, predict_command
    if out is None:
        if format or part:
            raise SpecError("are for answers in parts", where="--format and --part", hint="add --out ADDRESS")
        if on_ray:
            raise SpecError("is for answers in parts", where="--on-ray", hint="add --out ADDRESS")
        remote = next((path for path in paths if path.startswith("s3://")), None)
        if remote:
            raise SpecError("is predicted in parts only", where=remote, hint="add --out ADDRESS")
        failed = predict_command(bundle, list(map(Path, paths)), csv, console, _complain)
        raise typer.Exit(1 if failed else 0)
    if csv is not None:
        raise SpecError("and --out exclude each other", where="--csv", hint="for parts as CSV: --out and --format csv")
    if len(paths) != 1:
        raise SpecError(f"takes one folder or s3:// prefix, not {len(paths)}", where="--out", hint="name one")
    write: Writing | None = None
    if on_ray:
        with _needs("train"):
            from vitruvian.serving import spread
        write = spread.write
    batch_command(bundle, paths[0], out, (format or Rows.parquet).value, part or 1000, console, write)


@app.command()
def search(
    bundle: Address,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Pictures: a folder or s3://")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT…", help="What to look for.")],
    top: Annotated[int, typer.Option(min=1, help="Pictures for each text.")] = 10,
    csv: Annotated[Path | None, typer.Option(help="Write the rows here instead of printing them.")] = None,
) -> None:
    """Find the pictures that fit words best, with a CLIP's bundle; pictures are embedded once."""
    with _needs("serve"):
        from vitruvian.inference.search import search_command
    search_command(bundle, folder, texts, top, csv, console, _remark)


Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="The namespace; none: kubectl's current.")]
Context = Annotated[str | None, typer.Option(help="The kubeconfig's context; none: the current one.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run, or a classifier: its latest run.")]


# What isn't an option of this command is one of the command that it submits.
@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    file: File,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND OPTIONS",
            help="run (none), train, evaluate, tune, study or predict, with its options as without submit.",
        ),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    settings: Annotated[
        Path | None, typer.Option(help="A file of what differs from what the namespace's administrator set for pods.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="The trainer's image.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be applied, and apply nothing.")] = False,
    follow: Annotated[bool, typer.Option(help="Show what the run writes until it is over.")] = True,
    mlflow: MLflowAt = None,
    wandb: WandbProject = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Pods for predict; none: as many as training has workers.")
    ] = None,
) -> None:
    """Run a command on a cluster as a KubeRay RayJob, and follow it: all stages, or the one that is named.

    'vitruvian submit tune -f FILE --trials 40' does there what 'vitruvian tune -f FILE --trials 40' does here. For
    predict, say only what to predict: the bundle is what the declaration publishes.
    """
    from vitruvian import spec

    declaration = spec.read(file)
    classifier = spec.parse(declaration, str(file))
    with _needs("cluster"):
        from vitruvian.cluster import console as shown
        from vitruvian.cluster import rayjob, runs
        from vitruvian.cluster.objects import manifest
        from vitruvian.cluster.settings import TrainerSettings, overlaid

        asked = job(classifier, words or [], rayjob.tracked(mlflow, wandb), workers)
        namespace = _declared(namespace, classifier)
        cluster = _cluster(namespace, context, needed=not dry_run)
        made = _settings(TrainerSettings, cluster, settings)
        made = made if image is None else overlaid(made, {"image": image}, "--image")
        if cluster is None or dry_run:
            where = _namespace(cluster, namespace)
            name = rayjob.name_of(classifier)
            print(manifest(rayjob.build(classifier, declaration, name, where, made, asked)), end="")
            return
        name = runs.submit(cluster, classifier, declaration, made, asked)
        console.print(f"run [bold]{name}[/] in namespace {_plain(cluster.namespace)}", highlight=False)
        if follow:
            shown.follow(console, cluster, name)


def job(classifier: Classifier, words: Sequence[str], tracked: Sequence[str] = (), workers: int | None = None) -> Job:
    """Return the RayJob that words ask for behind `submit`, `tracked` being the options of a tracked one.

    Raises `SpecError` for what the command that they name wouldn't take, and for what no cluster does.
    """
    from vitruvian.cluster import jobs

    named = bool(words) and not words[0].startswith("-")
    verb, options = (words[0], words[1:]) if named else ("run", words)
    if tracked and verb not in jobs.TRACKED:
        hint = f"it is for {', '.join(jobs.TRACKED)}; leave it out"
        raise SpecError(f"{verb} is not tracked", where=tracked[0], hint=hint)
    jobs.check_verb(verb)
    given = _given(verb, jobs.words_of(classifier, verb, options))
    return jobs.asked(classifier, verb, [*options, *tracked], given, workers)


def _given(verb: str, words: Sequence[str]) -> dict[str, Any]:
    """Return what a command's parser makes of words; raises `SpecError` for those that it doesn't take."""
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    try:
        context = command.make_context(verb, list(words))
    except Exception as e:
        refused = getattr(e, "format_message", None)
        if refused is None:
            raise
        told = " ".join(refused().split()).rstrip(".").replace("Value error, ", "")
        hint = f"see 'vitruvian submit --help' and 'vitruvian {verb} --help'"
        raise SpecError(told, where=f"submit {verb}", hint=hint) from e
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _declared(namespace: str | None, classifier: Classifier) -> str | None:
    """Return the namespace that is asked for or else declared; raises `SpecError` where both are, and differ."""
    declared = classifier.metadata.namespace
    if namespace is not None and declared not in (None, namespace):
        hint = "leave one of them out"
        raise SpecError(f"is {declared!r}, but --namespace is {namespace!r}", where="metadata.namespace", hint=hint)
    return declared if namespace is None else namespace


def _cluster(namespace: str | None, context: str | None, needed: bool) -> Cluster | None:
    """Return the cluster, or None where it isn't needed and can't be asked."""
    from vitruvian.cluster.api import Cluster
    from vitruvian.cluster.objects import is_namespace

    try:
        return Cluster(namespace, context)
    except VitruvianError as e:
        # What was named by hand must be right, even where the cluster isn't needed.
        if needed or context is not None or (namespace is not None and not is_namespace(namespace)):
            raise
        _remark(f"with default settings: {e}")
        return None


def _namespace(cluster: Cluster | None, namespace: str | None) -> str:
    """Return the namespace that manifests name: without a cluster the one asked for, or the current context's."""
    from vitruvian.cluster.kubeconfig import namespace_of

    return cluster.namespace if cluster else namespace or namespace_of()


def _settings(kind: type[S], cluster: Cluster | None, file: Path | None) -> S:
    """Return what the namespace's administrator set, without a cluster the defaults, and a file's settings over it."""
    from vitruvian.cluster.settings import administered, overlaid_by

    found = administered(kind, cluster) if cluster else kind.model_validate({})
    return overlaid_by(found, file) if file else found


@app.command()
def logs(run: RunName, namespace: Namespace = None, context: Context = None) -> None:
    """Show what a run on a cluster writes until it is over."""
    with _needs("cluster"):
        from vitruvian.cluster import console as shown
        from vitruvian.cluster import runs
        from vitruvian.cluster.api import Cluster

        cluster = Cluster(namespace, context)
        shown.follow(console, cluster, runs.find(cluster, run).name)


@app.command()
def status(
    classifier: Annotated[str | None, typer.Argument(help="Only the runs of this classifier.")] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """List the runs on a cluster."""
    with _needs("cluster"):
        from vitruvian.cluster import console as shown
        from vitruvian.cluster.api import Cluster

        shown.status(console, Cluster(namespace, context), classifier)


@app.command()
def cancel(run: RunName, namespace: Namespace = None, context: Context = None) -> None:
    """End a run on a cluster; a new one goes on from its last checkpoint."""
    with _needs("cluster"):
        from vitruvian.cluster import runs
        from vitruvian.cluster.api import Cluster

        ended = runs.cancel(Cluster(namespace, context), run)
    was = f"had {ended.state.lower()} before; its pods are gone" if ended.over else "is ended; its checkpoints stay"
    console.print(f"run [bold]{ended.name}[/] {was}", highlight=False)


@app.command()
def deploy(
    file: File,
    namespace: Namespace = None,
    context: Context = None,
    version: Annotated[str | None, typer.Option(help="The version to serve; none: the champion.")] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="A file of what differs from what the namespace's administrator set for Ray Serve's pods."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be applied, and apply nothing.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it answers; 0: don't wait.")] = 300,
) -> None:
    """Serve a published version on a cluster with KServe or Ray Serve; a later call replaces it without a gap."""
    from vitruvian import spec

    classifier = spec.load(file)
    with _needs("cluster"):
        from vitruvian.cluster import readiness, servers
        from vitruvian.cluster.objects import manifest
        from vitruvian.cluster.settings import RayServeSettings

        if settings is not None and classifier.spec.serving.backend != "rayserve":
            hint = f"leave it out: spec.serving.backend is {classifier.spec.serving.backend}"
            raise SpecError("is for Ray Serve's pods only", where="--settings", hint=hint)
        namespace = _declared(namespace, classifier)
        cluster = _cluster(namespace, context, needed=not dry_run)
        # KServe's servers need none of it, not even that it can be read.
        asked = cluster if classifier.spec.serving.backend == "rayserve" else None
        pods = _settings(RayServeSettings, asked, settings)
        made = servers.objects(classifier, version, _namespace(cluster, namespace), pods, _remark)
        if cluster is None or dry_run:
            print(manifest(made), end="")
            return
        before = servers.former(cluster, made[0])
        served = servers.deploy(cluster, made)
        console.print(f"[bold]{classifier.name}[/] version {_plain(served)} is applied", highlight=False)
        if not wait:
            if before is not None:
                _remark(
                    f"{servers.called(before)} goes on, too; without --wait 0, deploy ends it when this one answers"
                )
            return
        url = readiness.wait(cluster, made[0], wait, _tell)
        console.print(f"[green]✓[/] it answers at {_plain(url)}", highlight=False)
        service, port = readiness.within(made[0])
        _tell(f"from here: kubectl -n {cluster.namespace} port-forward service/{service} 8080:{port}")
        if readiness.leaving(cluster, made[0]):
            _tell("servers of the version before may answer for some seconds more")
        if before is not None:
            earlier = readiness.address(cluster, before)
            servers.wait_gone(cluster, servers.remove(cluster, before, pause=True), wait, _tell)
            addresses = [*({earlier} - {"", url}), "{}:{}".format(*readiness.within(before))]
            moved = f", and nothing answers at {' and '.join(addresses)} any more"
            removed = _plain(f"{servers.called(before)} is removed{moved}")
            console.print(f"[green]✓[/] {removed}", highlight=False, soft_wrap=True)


@app.command()
def undeploy(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The classifier.")] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Or the file that declares it.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="Nothing to remove is no error.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until all is gone; 0: don't wait.")] = 300,
) -> None:
    """Remove from a cluster what deploy made for a classifier; what is in S3 stays."""
    from vitruvian import spec

    if (name is None) == (file is None):
        raise SpecError("says what to remove by NAME or by -f FILE", where="undeploy", hint="give one of them")
    name = spec.load(file).name if file else str(name)
    with _needs("cluster"):
        from vitruvian.cluster import servers
        from vitruvian.cluster.api import Cluster

        cluster = Cluster(namespace, context)
        try:
            found = servers.deployed(cluster, name)
        except NotFound as e:
            if not ignore_not_found:
                raise
            console.print(_plain(f"{e.where}: {e.what}"), highlight=False)
            return
        going = [each for service in found for each in servers.remove(cluster, service)]
        if wait:
            servers.wait_gone(cluster, going, wait, _tell)
        for each in going:
            console.print(
                f"[bold]{_plain(servers.called(each))}[/] is {'removed' if wait else 'going'}", highlight=False
            )


@app.command(hidden=True)
def operator(
    namespace: Namespace = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Tell at http://0.0.0.0:PORT/healthz whether it lives.")
    ] = None,
) -> None:
    """Train, gate, publish and serve a namespace's Classifiers, for as long as this runs: what the chart's pod does."""
    with _needs("operator"):
        from vitruvian.cluster.api import Cluster
        from vitruvian.operator.handlers import run as run_operator

        run_operator(Cluster(namespace), port)


def _tell(text: str) -> None:
    """Show what a command waits for, or found out."""
    console.print(f"  {_plain(text)}", highlight=False, soft_wrap=True)


def _remark(text: str) -> None:
    """Show what is worth knowing, beside what a program reads."""
    problems.print(f"[dim]{_plain(text)}[/]", highlight=False, soft_wrap=True)


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Option("-f", "--file", help="A classifier: look at what it needs, too.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings for programs.")] = False,
) -> None:
    """Tell what this machine and the cluster lack, and how to get it; exits with 1 where it is essential."""
    from vitruvian import spec
    from vitruvian.doctor import console as shown
    from vitruvian.doctor.examine import examine

    classifier = spec.load(file) if file else None
    with problems.status("looking …"):
        report = examine(classifier, namespace, context)
    if as_json:
        print(shown.machine_readable(report))
    else:
        shown.show(console, report)
    raise typer.Exit(1 if report.missing else 0)


@key_app.command("new")
def key_new(
    name: Annotated[str, typer.Argument(help="What the key is called in logs and limits.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="The file of keys; it gets the key's digest.")],
) -> None:
    """Make an API key: it is printed once, and its digest added to the file of keys."""
    with _needs("serve"):
        from vitruvian.inference.access.keys import add, new_key
    key, digest = new_key()
    add(file, name, digest)
    print(key)
    _remark(f"'{name}' is in {file}; the key itself is shown only now")


@spec_app.command("explain")
def spec_explain(
    path: Annotated[str, typer.Argument(help="Only this and what lies below: spec.training, training.epochs.")] = "",
) -> None:
    """Tell what every field of a Classifier means."""
    from vitruvian import fields

    fields.show(console, fields.found(path))


@spec_app.command("schema")
def spec_schema() -> None:
    """Print the JSON schema of a Classifier."""
    from vitruvian import spec

    print(json.dumps(spec.schema(), indent=2))


@spec_app.command("validate")
def spec_validate(
    path: Annotated[Path | None, typer.Argument(metavar="FILE", help="The file that declares a classifier.")] = None,
    option: Annotated[Path | None, typer.Option("-f", "--file", help="The same, as other commands take it.")] = None,
) -> None:
    """Check a file without running anything."""
    from vitruvian import spec

    file = path or option
    if file is None or (path and option):
        raise SpecError("takes one file, as FILE or as -f FILE", where="spec validate", hint="give one of them")
    classifier = spec.load(file)
    console.print(f"{_plain(str(file))}: classifier [bold]{classifier.name}[/] is valid", highlight=False)


class _Import(typer.core.TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {"--help", "--", *(name for parameter in self.params for name in parameter.opts)}
        names = (word.partition("=")[0] for word in itertools.takewhile("--".__ne__, args) if word.startswith("--"))
        for name in names:
            if name not in own:
                hint = f"an existing system's flags go behind --: vitruvian spec import FILE… -- {name}"
                raise SpecError("is no option of this command", where=name, hint=hint)
        return super().parse_args(ctx, args)


@spec_app.command("import", cls=_Import)
def spec_import(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE… [-- FLAGS…]", help="An existing system's configs; its flags behind --."),
    ],
    name: Annotated[str | None, typer.Option(help="The classifier's name; none: the system's.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file to write; none: the output.")] = None,
) -> None:
    """Write the Classifier that says what an existing system's configs say; docs/coming-from.md has every key."""
    from vitruvian import spec
    from vitruvian.migration import read, summary
    from vitruvian.migration.convert import convert
    from vitruvian.migration.systems import FLAGS, SYSTEMS

    if out is not None and out.exists():
        raise SpecError("is there already", where=out, hint="name another file with -o, or remove it")
    flags = next((number for number, word in enumerate(files) if word.startswith("--")), len(files))
    configs = [read.read(file, spec.read(Path(file), read.WANTED)) for file in files[:flags]]
    if files[flags:]:
        configs.append(read.read_flags(files[flags:], {key.path: key.kind for key in FLAGS.keys}))
    made = convert(configs, SYSTEMS, name)
    width = problems.width if problems.is_terminal else None
    for line in summary.todo(made, width):
        problems.print(f"[yellow]{_plain(line)}[/]", highlight=False, soft_wrap=True)
    for line in summary.notes(made, width):
        _remark(line)
    if out is None:
        print(made.text, end="")
        return
    _write_new(out, made.text)
    console.print(f"{_plain(str(out))}: classifier [bold]{made.classifier.name}[/] is valid", highlight=False)


def _write_new(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as e:
        raise explained(e, path) from e
    finally:
        aside.unlink(missing_ok=True)


@data_app.command("render-keypoints")
def render(
    source: Annotated[Path, typer.Argument(help="A folder with sequences.npz and index.json.")],
    out: Annotated[Path, typer.Argument(help="The folder to write: one folder for each class, and groups.csv.")],
    form: Annotated[Form, typer.Option("--as", help="Heatmaps (.npy) or images (.png).")],
    labels: Annotated[Labels, typer.Option(help="Which labels become classes.")] = Labels.fine,
    frame: Annotated[Frame, typer.Option(help="The frame farthest from the first, or every frame.")] = Frame.peak,
    yaw: Annotated[float, typer.Option(help="Turn 3D figures at random by up to this many degrees.")] = 0.0,
    views: Annotated[int, typer.Option(min=1, help="Pictures of each frame, each turned anew.")] = 1,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Height and width of images in pixels.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Decides the turns and the clothes.")] = 0,
    most: Annotated[int | None, typer.Option(min=1, help="With --frame all: this many of each take, spread.")] = None,
) -> None:
    """Draw sequences of 17 COCO keypoints as a folder for each class."""
    from vitruvian.console import Teller
    from vitruvian.data.keypoints import render_keypoints

    with Teller(console).counter("drawing") as count:
        summary = render_keypoints(
            source, out, form.value, labels.value, frame.value, yaw, views, size, seed, most, progress=count
        )
    for name, number in sorted(summary.counts.items()):
        console.print(f"  {_plain(f'{name:<24}')} {number:>7,}", highlight=False)
    console.print(f"{sum(summary.counts.values()):,} {form.value} in {_plain(str(out))}", highlight=False)


@data_app.command("synthetic")
def draw(
    folder: Annotated[Path, typer.Argument(help="The folder to write: one folder for each pose, and groups.csv.")],
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many pictures.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides everything in them.")] = 0,
    subjects: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many people they are of.")] = 40,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Height and width in pixels.")] = 64,
) -> None:
    """Draw the synthetic set as pictures: something to train on, or to send."""
    from vitruvian.console import Teller
    from vitruvian.data.draw import draw_pictures

    with Teller(console).counter("drawing") as progress:
        counts = draw_pictures(folder, count, seed, subjects, size, progress)
    shown = f"{count:,} pictures of {len(counts)} poses are in {_plain(str(folder))}"
    console.print(shown, highlight=False, soft_wrap=True)


def _until(
    stage: Stage,
    file: Path,
    metrics_at: tuple[str, int] | None = None,
    tracked_by: tuple[str | None, str | None, Path | None] = (None, None, None),
) -> None:
    from vitruvian import spec
    from vitruvian.console import Teller

    classifier = spec.load(file)
    with _needs("train"):
        from vitruvian.pipeline import Pipeline

        metrics = None
        if metrics_at is not None:
            from vitruvian.training.metrics import TrainingMetrics

            metrics = TrainingMetrics(classifier.name)
            host, port = metrics_at[0], metrics.serve(*metrics_at)
            console.print(f"[dim]metrics: http://{_plain(host)}:{port}/metrics[/]", highlight=False)
        teller = Teller(console)
        opened = _trackers(*tracked_by, teller)
        pipeline = Pipeline(classifier, teller, metrics, opened() if opened else None)
        made = pipeline.run(stage)
    address = _plain(pipeline.store.address(made.prefix))
    console.print(f"[green]✓[/] {stage}: {address}", highlight=False, soft_wrap=True)
    if stage == "publish":
        console.print(f"  serve it: vitruvian serve {_plain(classifier.artifacts)}", highlight=False, soft_wrap=True)
        if pipeline.store.local() is None:
            console.print("  on a cluster: vitruvian deploy -f FILE", highlight=False)


def _trackers(
    mlflow: str | None, wandb: str | None, tensorboard: Path | None, teller: Teller
) -> Callable[[], Trackers | None] | None:
    """Return what opens the trackers that were asked for, once for each training; None where none was."""
    if mlflow is None and wandb is None and tensorboard is None:
        return None
    told: set[str] = set()

    def tell(text: str) -> None:
        # What goes for all trainings of a study is told once.
        if text not in told:
            told.add(text)
            teller.note(f"[dim]{_plain(text)}[/]")

    def opened() -> Trackers | None:
        with _needs("track"):
            from vitruvian.training.trackers import open_trackers

            return open_trackers(mlflow, wandb, tensorboard, tell)

    return opened


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Name the extra to install where a library of it is missing."""
    try:
        yield
    except ModuleNotFoundError as e:
        if str(e.name).startswith("vitruvian"):
            raise
        hint = f"run pip install '.[{extra}]' in a clone of Vitruvian"
        raise VitruvianError(f"the library '{e.name}' is not installed", hint=hint) from e
