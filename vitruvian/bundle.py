"""What moves from training to serving: writing, verifying and reading bundles, and the champion pointer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from vitruvian import artifact
from vitruvian.controls import steers
from vitruvian.data.preprocess import PREPROCESS, HeatmapPreprocess, ImagePreprocess
from vitruvian.errors import ArtifactError, BundleError, Conflict, NotFound
from vitruvian.store import Store, open_store

CHECKSUMS = "checksums.json"
CHAMPION = "champion.json"
BUNDLES = "bundles"
CARD, EVALUATION = "README.md", "report/metrics.json"
"""Where a bundle tells people of itself."""


def _shown(text: str) -> str:
    if steers(text):
        raise ValueError("holds a control character")
    return text


def _template(text: str) -> str:
    if text.count("{}") != 1:
        raise ValueError("needs {} once, where the label stands")
    return text


def _unique(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) != len(labels):
        raise ValueError("names one label twice")
    return labels


_OUTSIDE = (".data", "_data")
"""What is appended to an ONNX file's name for the weights that are kept outside of it."""
_UNLISTED = "it would be read unverified; export the model and publish the bundle again"
_LONGEST_CONTEXT = 1 << 16
_Shown = Annotated[str, AfterValidator(_shown)]
"""What people read in terminals and logs."""


class _Record(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True)


class GateDecision(_Record):
    """One gate with the value it was held against."""

    gate: str
    """The condition as people read it: `accuracy >= 0.79`."""
    value: float | None
    """What was measured; none where that was no number."""
    required: float | None
    """The least value that passes; none where there was no champion to compare with."""
    passed: bool
    text: str = ""
    """The outcome as people read it: `accuracy 0.771 misses 0.790 by 0.019`."""


class ExportRecord(_Record):
    """One exported format, with what its parity check measured."""

    format: str
    path: str
    """Where its main file lies in the bundle."""
    max_difference: float
    """Largest absolute difference of a probability to the trained model's."""
    top1_agreement: float
    """Share of the test part on which it says what the trained model says."""
    accuracy: float
    """On the test part."""
    seconds_per_image: float
    """Where it was exported, one image at a time in each lane."""
    cosine: float | None = None
    """The least cosine between its logits and the trained model's."""
    validation_accuracy: float | None = None
    size: int | None = None
    """Bytes of its files."""
    kept: bool = True
    """Whether it keeps the accuracy, and so may be served."""
    golden: tuple[float, ...] | None = None
    """Its own answer to the golden example."""


class TrainedRecord(_Record):
    """The trained model as PyTorch runs it, measured as exports are: what they are faster than."""

    seconds_per_image: float
    size: int
    """Bytes of its weights."""
    accuracy: float
    """On the test part."""
    validation_accuracy: float | None = None


class Machine(_Record):
    """What exports were timed on."""

    cpu: str
    """The model's name."""
    features: tuple[str, ...]
    """Those of its instructions that matter here."""
    cpus: int


class TextTower(_Record):
    """What turns texts into embeddings that images' can be held against."""

    model: str
    """Where its ONNX file lies in the bundle: `tokens` (n, length) of int64 to `unit_embedding` (n, width)."""
    tokenizer: str
    """Where its tokenizer.json lies."""
    templates: Annotated[tuple[Annotated[str, AfterValidator(_template)], ...], Field(min_length=1)]
    """The sentences that a label stands in, at {}, unless a request says others."""
    context: Annotated[int, Field(ge=3, le=_LONGEST_CONTEXT)]
    """The most tokens of a text, a beginning and an end among them."""
    pad: Annotated[int, Field(ge=0, lt=2**32)]
    """The token that fills up shorter texts."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """What a cosine counts in a logit."""


class Golden(_Record):
    """An example with its answer, predicted before a server calls itself ready."""

    input: str
    probabilities: tuple[float, ...]
    tolerance: float


class Exported(_Record):
    """What a model was exported as; paths are those in a folder."""

    exports: tuple[ExportRecord, ...]
    serve: str
    """The format of `exports` that is served."""
    golden: Golden
    machine: Machine | None = None
    trained: TrainedRecord | None = None
    head: str | None = None
    """Where the rows lie that tell labels apart by embeddings; none: the exports give logits."""
    text: TextTower | None = None

    def below(self, folder: str) -> Exported:
        """Return this for a copy of the folder's files in another; the golden example lies beside it."""

        def moved(path: str) -> str:
            return f"{folder}/{path}"

        text = self.text and self.text.model_copy(
            update={"model": moved(self.text.model), "tokenizer": moved(self.text.tokenizer)}
        )
        exports = tuple(record.model_copy(update={"path": moved(record.path)}) for record in self.exports)
        return self.model_copy(update={"exports": exports, "head": self.head and moved(self.head), "text": text})


class BundleInfo(Exported):
    """The content of `bundle.json`."""

    format: int = 1
    name: _Shown
    """The classifier's name."""
    version: _Shown
    created: str
    """UTC, RFC 3339."""
    labels: Annotated[tuple[_Shown, ...], Field(min_length=1), AfterValidator(_unique)]
    architecture: str
    metrics: dict[str, float]
    gates: tuple[GateDecision, ...]
    lineage: dict[str, Any]
    """Digests of data, code and image, and the keys of the stages that made this bundle."""
    spec: dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on the local disk."""

    folder: Path
    info: BundleInfo
    preprocess: ImagePreprocess | HeatmapPreprocess
    digest: str
    card: bytes | None = None
    """Its model card, in Markdown."""
    evaluation: bytes | None = None
    """What was measured, in JSON."""

    @property
    def served(self) -> ExportRecord:
        """The export that a predictor loads."""
        return next(export for export in self.info.exports if export.format == self.info.serve)

    def serving(self, format: str) -> Bundle:
        """Return this bundle with another of its exports served; raises `BundleError` where there is none."""
        if format not in [export.format for export in self.info.exports]:
            known = ", ".join(export.format for export in self.info.exports)
            raise BundleError(f"has no export '{format}'", where=self.folder, hint=f"choose one of: {known}")
        return replace(self, info=self.info.model_copy(update={"serve": format}))

    def named(self, name: str) -> Bundle:
        """Return this bundle under another name."""
        return replace(self, info=self.info.model_copy(update={"name": name}))

    def golden_input(self) -> bytes:
        """Return the bytes of the golden example's file."""
        return (self.folder / self.info.golden.input).read_bytes()


def publish(store: Store, folder: Path, info: BundleInfo, *, advance: Callable[[int], None] = lambda size: None) -> str:
    """Write `bundle.json` into a folder of a bundle's other files and commit it; return the version's digest.

    A version is immutable: publishing the same content again changes nothing, other content raises `Conflict`.
    """
    (folder / "bundle.json").write_bytes(info.model_dump_json(by_alias=True, indent=1).encode())
    prefix = f"{BUNDLES}/{info.version}"
    present = artifact.read_manifest(store, prefix, CHECKSUMS)
    if present is not None:
        raise Conflict("this version is published already", where=store.address(prefix), hint="versions don't change")
    return artifact.commit(store, prefix, folder, manifest=CHECKSUMS, once=True, advance=advance).digest


def open_bundle(address: str | Path, cache: Path | None = None, *, into: Path | None = None) -> Bundle:
    """Return the verified bundle at a folder, a `file://` or an `s3://` address.

    The address of a classifier's artifacts means its champion. With `into` the bundle is copied to this folder. Raises
    `BundleError` naming the file that is missing or doesn't match its checksum.
    """
    store, listed = find_bundle(address)
    try:
        folder = artifact.fetch(store, "", cache, into=into, manifest=CHECKSUMS)
    except BundleError:
        raise
    except ArtifactError as e:
        raise BundleError(e.what, where=e.where, hint=e.hint) from e
    return _read(folder, listed)


def find_bundle(address: str | Path) -> tuple[Store, artifact.Manifest]:
    """Return where the bundle at an address lies, and the list of its files, none of which is looked at.

    Raises `BundleError` where there is none.
    """
    store = open_store(address)
    listed = _manifest(store)
    if listed is None:
        champion = read_champion(store)
        if champion is None:
            local = store.local()
            if local is not None and not local.exists():
                raise BundleError("there is no such folder", where=store.url, hint="check the address")
            if any(True for _ in store.list("stages/")):
                hint = "run all stages; a gate that isn't met publishes nothing"
                raise BundleError("no version is published here yet", where=store.url, hint=hint)
            raise BundleError(
                "there is no bundle here", where=store.url, hint=f"give a folder that holds {CHECKSUMS} or {CHAMPION}"
            )
        store = store.at(f"{BUNDLES}/{champion}")
        listed = _manifest(store)
        if listed is None:
            raise BundleError("the champion's bundle is missing", where=store.url, hint="publish it again")
    return store, listed


def _manifest(store: Store) -> artifact.Manifest | None:
    try:
        return artifact.read_manifest(store, manifest=CHECKSUMS)
    except ArtifactError as e:
        raise BundleError(e.what, where=e.where, hint=e.hint) from e


def _read(folder: Path, listed: artifact.Manifest) -> Bundle:
    def load(name: str) -> bytes:
        if name not in listed.files:
            raise BundleError("is missing from the bundle", where=folder / name, hint="make or fetch it again")
        return (folder / name).read_bytes()

    name = "bundle.json"
    try:
        info = BundleInfo.model_validate_json(load(name))
        name = "preprocess.json"
        preprocess = PREPROCESS.validate_json(load(name))
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        hint = "it was made by another version of vitruvian; make it again"
        raise BundleError(f"{field}: {first['msg']}", where=folder / name, hint=hint) from e
    text = [] if info.text is None else [info.text.model, info.text.tokenizer]
    head = [] if info.head is None else [info.head]
    exports = [export.path for export in info.exports]
    for needed in (info.golden.input, *head, *text, *exports):
        if needed not in listed.files:
            raise BundleError("is missing from the bundle", where=folder / needed, hint="make or fetch it again")
    for read in chain.from_iterable(_beside(folder, model) for model in (*exports, *text[:1])):
        if read not in listed.files:
            raise BundleError(f"isn't listed in {CHECKSUMS}", where=folder / read, hint=_UNLISTED)
    if info.serve not in [export.format for export in info.exports]:
        raise BundleError(f"there is no export '{info.serve}'", where=folder / "bundle.json", hint="make it again")

    def told(name: str) -> bytes | None:
        return _verified(folder / name, listed.files[name]) if name in listed.files else None

    return Bundle(folder, info, preprocess, listed.digest, told(CARD), told(EVALUATION))


def _beside(folder: Path, model: str) -> Iterator[str]:
    """Yield what an engine reads beside a model's file: OpenVINO's weights, and those that ONNX keeps outside."""
    if model.endswith(".xml"):
        yield f"{model.removesuffix('.xml')}.bin"
    yield from (model + suffix for suffix in _OUTSIDE if os.path.lexists(folder / (model + suffix)))


def _verified(path: Path, file: artifact.File) -> bytes:
    """Return the content of a file that is as it was checked; raises `BundleError`."""
    content = path.read_bytes()
    if artifact.File(len(content), hashlib.sha256(content).hexdigest()) != file:
        raise BundleError("was changed meanwhile", where=path, hint="open the bundle again")
    return content


def read_champion(store: Store) -> str | None:
    """Return the version that serves now; None where there is none yet."""
    where = store.address(CHAMPION)
    try:
        content = store.get(CHAMPION)
        pointer = json.loads(content)
        version = pointer["version"]
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        # A web server that answers everything with a page, or somebody else's file.
        what = f"is not what Vitruvian writes: it begins with {content[:20].decode(errors='replace')!r}"
        raise BundleError(what, where=where, hint="check the address, and AWS_ENDPOINT_URL for S3") from e
    if not isinstance(version, str) or "/" in version or not version.strip("."):
        raise BundleError("doesn't name a version", where=where, hint="delete it and publish again")
    return version


def promote(store: Store, version: str, digest: str, reasons: Sequence[str] = ()) -> None:
    """Point the champion at a version by compare-and-swap; raises `Conflict` where somebody else promoted first."""
    seen = store.tag(CHAMPION)
    content = json.dumps({"version": version, "digest": digest, "reasons": list(reasons)}, indent=1).encode()
    store.put(CHAMPION, content, if_absent=seen is None, if_match=seen)
