"""The main job on synthetic poses, from nothing to a page that answers."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from vitruvian import spec
from vitruvian.bundle import Bundle, open_bundle
from vitruvian.console import Teller
from vitruvian.errors import VitruvianError
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.server import Server
from vitruvian.pipeline import Pipeline
from vitruvian.store import explained

_CLASSIFIERS = {
    "vit": """\
apiVersion: vitruvian.dev/v1alpha1
kind: Classifier
metadata: {{name: demo-vit}}
spec:
  data:
    source: synthetic://poses?count=5000
    format: images
    groupBy: subject
  model:
    architecture: vit
    dimensions: {{imageSize: 48, patchSize: 8, hiddenSize: 96, layers: 4, heads: 4, intermediateSize: 192}}
  training:
    strategy: ddp
    workers: 2
    epochs: 28
    batchSize: 32
    learningRate: 2e-3
    labelSmoothing: 0.05
    augmentation: light
  gates:
    - {{metric: accuracy, atLeast: 0.9}}
    - {{metric: worstClassRecall, atLeast: 0.5}}
  artifacts: {artifacts}
""",
    "heatmap-cnn": """\
apiVersion: vitruvian.dev/v1alpha1
kind: Classifier
metadata: {{name: demo-heatmap-cnn}}
spec:
  data:
    source: synthetic://poses?count=3000
    format: heatmaps
    groupBy: subject
  model:
    architecture: heatmap-cnn
  training:
    strategy: ddp
    workers: 2
    epochs: 8
    batchSize: 64
    augmentation: light
  gates:
    - {{metric: accuracy, atLeast: 0.95}}
    - {{metric: worstClassRecall, atLeast: 0.8}}
  artifacts: {artifacts}
""",
}


def run_demo(console: Console, model: str, folder: Path, host: str, port: int, *, serve: bool) -> None:
    """Train, check, export and publish a classifier of synthetic poses, then serve it until Ctrl-C.

    Prints the page's address and one prediction. A file that the user changed in the folder is left as it is.
    """
    file = folder / model / "classifier.yaml"
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_CLASSIFIERS[model].format(artifacts=json.dumps(str(file.parent / "artifacts"))))
        except OSError as e:
            raise explained(e, file) from e
    console.print(f"[dim]The classifier is declared in[/] {escape(str(file))}", highlight=False)
    classifier = spec.load(file)
    pipeline = Pipeline(classifier, Teller(console))
    bundle = open_bundle(pipeline.store.address(pipeline.run().prefix))
    if serve:
        _serve(console, bundle, host, port)
        return
    answer = Predictor.open(bundle).predict_files([(bundle.golden_input(), bundle.info.golden.input)])[0]
    if isinstance(answer, VitruvianError):
        raise answer
    _tell(console, bundle, answer.label, answer.confidence)
    console.print(f"Serve it: [bold]vitruvian serve {escape(pipeline.classifier.artifacts)}[/]", highlight=False)


def _serve(console: Console, bundle: Bundle, host: str, port: int) -> None:
    server = Server(bundle, host, port)

    def ready() -> None:
        request = urllib.request.Request(
            f"{server.address}/predict/image",
            data=bundle.golden_input(),
            headers={"Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        _tell(console, bundle, answer["label"], answer["confidence"])
        console.print(
            f"Open [bold]{escape(server.address)}[/] and drop a file on the page; Ctrl-C ends it", highlight=False
        )

    server.run(ready)


def _tell(console: Console, bundle: Bundle, label: str, confidence: float) -> None:
    example = bundle.folder / bundle.info.golden.input
    console.print(
        f"[green]✓[/] {escape(str(example))} is [bold]{escape(label)}[/] ({confidence:.1%})",
        highlight=False,
        soft_wrap=True,
    )
