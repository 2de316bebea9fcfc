"""What each architecture takes as its input, known without loading torch."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from vitruvian.artifact import MANIFEST, Manifest, cache_folder, describe, digest_of, fetch, read_manifest
from vitruvian.bundle import BUNDLES, CHECKSUMS, open_bundle, read_champion
from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.errors import ArtifactError, NotFound, SpecError
from vitruvian.models import open_clip, torchvision
from vitruvian.spec import Dimensions, Model
from vitruvian.store import Entry, FolderStore, Store, open_store

# What each architecture's weights are usually learnt with; vit: as in its first release, clip: as CLIP's own.
_NORMS = {
    "vit": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "resnet50": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "clip": {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},
}


# What open_clip writes before a hub name.
_HUB: Final = "hf-hub:"
_WEIGHTS: Final = ".safetensors"
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SAFE: Final = (
    "weights must be safetensors; pickled ones are refused: make those of a state dict that you trust with "
    "safetensors.torch.save_file(torch.load('FILE', weights_only=True), 'model.safetensors', {'format': 'pt'})"
)


def preprocess_for(model: Model) -> ImagePreprocess | HeatmapPreprocess:
    """Return how inputs are prepared for a model; raises `SpecError` where pretrained weights don't tell."""
    if model.architecture == "heatmap-cnn":
        return HeatmapPreprocess()
    settings: dict[str, Any] = {**_NORMS[model.architecture]}
    if model.pretrained:
        settings |= _learnt_with(model.pretrained)
    if model.dimensions or not model.pretrained:
        settings["size"] = (model.dimensions or Dimensions()).image_size
    try:
        return ImagePreprocess.model_validate(settings)
    except ValidationError as e:
        first = e.errors()[0]
        what = f"{first['loc'][0]} of the pretrained input: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise SpecError(what, where=f"model.pretrained: {model.pretrained}", hint="save the weights again") from e


def _learnt_with(name: str) -> dict[str, Any]:
    """Return size, mean and deviation of the images that weights were learnt with, as far as they tell."""
    if home(name) and (own := pretrained_config(name, "preprocess.json", default={})):
        # A bundle.
        return own
    saved = pretrained_config(name, "config.json")
    how = pretrained_config(name, "preprocessor_config.json", default={})
    vision = saved.get("vision_config")
    size = (vision if isinstance(vision, dict) else saved).get("image_size", 224)
    return {"size": size} | {part: how[f"image_{part}"] for part in ("mean", "std") if f"image_{part}" in how}


def home(name: str) -> Store | None:
    """Return the folder or S3 prefix that holds the weights a name means; None where the hub does.

    A classifier's artifacts mean its champion. Raises `StoreError` where the address leads nowhere, `SpecError` where
    it is that of a pickle.
    """
    # What can't be a folder's name, the store says.
    with contextlib.suppress(RuntimeError):
        if "://" not in name and not Path(name).expanduser().is_dir() and not _file(name):
            return None
    # The folder of a file that is named.
    store = open_store(name.removesuffix(_file(name)) or ".")
    champion = read_champion(store)
    return store.at(f"{BUNDLES}/{champion}") if champion else store


def _file(name: str) -> str:
    """Return the name of the file where a name is the address of one; raises `SpecError` for a pickle."""
    file = name.rpartition("/")[2]
    if not file.endswith((_WEIGHTS, *_PICKLED)):
        return ""
    # What lies afar isn't asked for: a prefix hardly ends like a file.
    local = open_store(name).local()
    if local is not None and not local.is_file():
        return ""
    if file.endswith(_PICKLED):
        raise _pickled(file, f"model.pretrained: {name}")
    return file


def _pickled(file: str, where: str) -> SpecError:
    return SpecError(f"{file} is pickled", where=where, hint=SAFE)


def pinned(model: Model) -> Model:
    """Return the model with the champion of today in the place of a classifier's artifacts."""
    where = home(model.pretrained) if model.pretrained else None
    if where is None or read_manifest(where, manifest=CHECKSUMS) is None:
        return model
    return model.model_copy(update={"pretrained": where.url})


def weights_version(model: Model) -> str | None:
    """Return what identifies the weights that training begins with; None from scratch.

    A folder or bundle is known by its files' content, what lies in S3 by their sizes and tags, a hub name by itself.
    """
    if model.pretrained is None:
        return None
    store = home(model.pretrained)
    if store is None:
        return model.pretrained
    if bundle := read_manifest(store, manifest=CHECKSUMS):
        return bundle.digest
    folder, (file, _) = store.local(), _torchvisions(model.pretrained, store)
    if folder is None:
        return _listed(files_of_weights(store, file))
    all_kinds = ("*.json", "*.txt", f"*{_WEIGHTS}")
    files = [folder / file] if file else [path for kind in all_kinds for path in folder.glob(kind)]
    return digest_of({path.name: describe(path).sha256 for path in files})


def files_of_weights(store: Store, only: str | None = None) -> list[Entry]:
    """Return the files of a store that belong to weights: what is pickled doesn't; raises `SpecError` for none."""
    there = [entry for entry in store.list(only or "") if "/" not in entry.key and only in (None, entry.key)]
    where = f"model.pretrained: {store.url}"
    if not any(entry.key.endswith(_WEIGHTS) for entry in there):
        if pickled := [entry.key for entry in there if entry.key.endswith(_PICKLED)]:
            raise _pickled(pickled[0], where)
        hint = "give an address with config.json and model.safetensors, or a classifier's artifacts"
        raise SpecError("there are no weights here", where=where, hint=hint)
    return [entry for entry in there if entry.key.endswith((".json", ".txt", _WEIGHTS))]


def place(name: str) -> str:
    """Return the folder on this machine with the weights a name means, or the name as the hub knows it.

    What lies elsewhere is fetched and checked: a bundle against its checksums, other weights against what was fetched
    before. Raises `BundleError`, `SpecError`.
    """
    store = home(name)
    if store is None:
        return _of_hub(name)
    if read_manifest(store, manifest=CHECKSUMS):
        return str(open_bundle(store.url).folder)
    file, _ = _torchvisions(name, store)
    folder = store.local() or _fetched(store, file)
    where = f"model.pretrained: {name}"
    if file:
        return str(_made("torchvision", [folder / file], lambda into: torchvision.convert(folder / file, into, where)))
    return str(_as_transformers(folder, name) if _is_open_clips(folder) else folder)


def _torchvisions(name: str, store: Store) -> tuple[str | None, torchvision.Shapes]:
    """Return the file with torchvision's weights that a name means, and its shapes; None where it means others.

    It is named itself, or is all that its folder holds.
    """
    file = _file(name)
    if not file:
        there = _names(store)
        alone = [each for each in there if each.endswith(_WEIGHTS)]
        if len(alone) != 1 or "config.json" in there or open_clip.CONFIG in there:
            return None, {}
        (file,) = alone
    shapes = torchvision.shapes_of(store.start(file, torchvision.HEADER))
    return file if shapes else None, shapes


def _names(store: Store) -> list[str]:
    """Return the names of the files that lie in a store, but not below it."""
    folder = store.local()
    if folder is None:
        return [entry.key for entry in store.list() if "/" not in entry.key]
    # Its own list would walk through all that lies below.
    return sorted(path.name for path in folder.glob("*") if path.is_file())


def _of_hub(name: str) -> str:
    """Return the name as the hub knows it, or the folder with what transformers reads of open_clip's weights there."""
    where = f"model.pretrained: {name}"
    with contextlib.suppress(NotFound, SpecError):
        _from_hub(name, "config.json", where)
        return name.removeprefix(_HUB)
    try:
        folder = _from_hub(name, open_clip.CONFIG, where).parent
    except (NotFound, SpecError):
        return name.removeprefix(_HUB)
    for file in (open_clip.WEIGHTS, *open_clip.TOKENIZER):
        with contextlib.suppress(NotFound):
            _from_hub(name, file, where)
    return str(_as_transformers(folder, name))


def _is_open_clips(folder: Path) -> bool:
    return (folder / open_clip.CONFIG).exists() and not (folder / "config.json").exists()


def _as_transformers(folder: Path, name: str) -> Path:
    """Return the copy of open_clip's weights that transformers reads."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    where = f"model.pretrained: {name}"
    return _made("open_clip", files, lambda into: open_clip.convert(folder, into, where))


def _made(whose: str, files: Iterable[Path], convert: Callable[[Path], None]) -> Path:
    """Return the folder that was converted from files; it is made once."""
    made = cache_folder() / "weights" / digest_of([whose, {path.name: describe(path).sha256 for path in files}])[:32]
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=made.parent))
        try:
            convert(aside)
            # Somebody else may have made the same meanwhile.
            with contextlib.suppress(OSError):
                aside.rename(made)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return made


def _fetched(store: Store, only: str | None = None) -> Path:
    files = files_of_weights(store, only)
    folder = cache_folder() / "weights" / digest_of([store.url, _listed(files)])[:32]
    kept = FolderStore(folder)
    with contextlib.suppress(ArtifactError):
        return fetch(kept, "")
    for entry in files:
        store.download(entry.key, folder / entry.key)
    if files_of_weights(store, only) != files:
        raise SpecError(
            "was changed while it was fetched", where=f"model.pretrained: {store.url}", hint="run the command again"
        )
    kept.put(MANIFEST, Manifest({entry.key: describe(folder / entry.key) for entry in files}).to_json())
    return folder


def _listed(files: Iterable[Entry]) -> str:
    return digest_of({entry.key: [entry.size, entry.tag] for entry in files})


def pretrained_config(name: str, file: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a JSON file that lies beside pretrained weights, here, in S3 or on the hub; raises `SpecError`."""
    where = f"model.pretrained: {name}"
    store = home(name)
    if store is not None and _file(name) and (shapes := _torchvisions(name, store)[1]):
        # What else lies beside a file that is named belongs to something else.
        return torchvision.config_of(shapes, where) if file == "config.json" else default or {}
    try:
        text = _from_hub(name, file, where).read_bytes() if store is None else store.get(file)
        content = json.loads(text)
    except (NotFound, SpecError) as e:
        if file != open_clip.CONFIG and (saved := pretrained_config(name, open_clip.CONFIG, default={})):
            told = open_clip.config_of(saved, where) if file == "config.json" else open_clip.preprocessor_of(saved)
            return told if file in ("config.json", "preprocessor_config.json") else default or {}
        if file == "config.json" and store is not None and (shapes := _torchvisions(name, store)[1]):
            return torchvision.config_of(shapes, where)
        if default is not None:
            return default
        if isinstance(e, SpecError):
            raise
        there = _names(store) if store is not None else []
        pickled = [each for each in there if each.endswith(_PICKLED)]
        if pickled and not any(each.endswith(_WEIGHTS) for each in there):
            raise _pickled(pickled[0], where) from e
        lacking = f"no {file} there" if store is None else f"the folder holds no {file}"
        if store is not None and _file(name):
            lacking = f"no {file} lies beside it, and its tensors aren't those of torchvision's ResNet"
        raise SpecError(lacking, where=where, hint="save the weights with save_pretrained") from e
    except (ValueError, RecursionError) as e:
        raise SpecError(f"{file} is not JSON", where=where, hint="save the weights with save_pretrained") from e
    if not isinstance(content, dict):
        raise SpecError(f"{file} is not a JSON object", where=where, hint="save the weights with save_pretrained")
    return content


def _from_hub(name: str, file: str, where: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    hint = "give a folder with config.json and model.safetensors, or a hub name that can be reached"
    name = name.removeprefix(_HUB)
    try:
        return Path(hf_hub_download(name, file, local_files_only=not _hub_answers(name, file)))
    except (HFValidationError, LocalEntryNotFoundError) as e:
        lacking = f"there is no folder {name} here"
        if isinstance(e, LocalEntryNotFoundError):
            lacking += f", and {urlsplit(constants.ENDPOINT).netloc} can't be reached"
        raise SpecError(lacking, where=where, hint=hint) from e
    except EntryNotFoundError as e:
        raise NotFound(f"no {file} there", where=where, hint=hint) from e
    except (OSError, HfHubHTTPError) as e:
        raise SpecError(f"no {file} there ({type(e).__name__})", where=where, hint=hint) from e


def _hub_answers(name: str, file: str) -> bool:
    """Ask for a file once: hf_hub_download alone would try for half a minute, with two lines for each try."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, file))
    except HfHubHTTPError:
        return True
    except Exception:
        # Whatever its library for HTTP says: what was fetched before may be here.
        return False
    return True
