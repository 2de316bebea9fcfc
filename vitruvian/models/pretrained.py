"""Weights to begin with: safetensors in transformers' layout, from a folder, a store or the hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging

from vitruvian.errors import SpecError
from vitruvian.models.inputs import SAFE, place, pretrained_config
from vitruvian.models.layers import refuse_unfit

# Its bars for files of a few megabytes would tear those of the stages.
logging.disable_progress_bar()
logging.set_verbosity_error()
# It would tell of every try where the hub can't be reached; the error that follows does.
getLogger("huggingface_hub").setLevel(ERROR)

_AGAIN = "save the weights again with save_pretrained"


def pretrained(kind: Any, name: str, what: str, types: tuple[str, ...], new: str | None = None, **settings: Any) -> Any:
    """Return transformers' model `kind` with the weights of a folder or hub name; raises `SpecError`.

    `what` names in an error what was wanted, `types` are the `model_type`s that have it. Only tensors whose name begins
    with `new` may be lacking: they are drawn anew.
    """
    where = f"model.pretrained: {name}"
    refuse_unfit(name, pretrained_config(name, "config.json"), what, types)
    here = place(name)
    try:
        _check_size(kind, here, where, settings)
        # What it thinks of odd values would stand in front of the error that follows.
        with warnings.catch_warnings(action="ignore"):
            inner, loaded = _loaded(kind, here, new, settings)
    except (OSError, SafetensorError) as e:
        raise SpecError(_first(e), where=where, hint=SAFE) from e
    except SpecError:
        raise
    except Exception as e:
        # What transformers makes of a value in config.json that is none: anything.
        what = f"can't be read with its {_beside(here)} ({type(e).__name__}: {_first(e)})"
        raise SpecError(what, where=where, hint=_AGAIN) from e
    _check_tensors(inner, loaded, new, where)
    return inner


def _loaded(kind: Any, here: str, new: str | None, settings: dict[str, Any]) -> Any:
    return kind.from_pretrained(
        here,
        ignore_mismatched_sizes=new is not None,
        use_safetensors=True,
        output_loading_info=True,
        # Many are kept in half precision, which isn't enough to learn in.
        dtype=torch.float32,
        # A config may say otherwise, and what reads the answers by name doesn't.
        return_dict=True,
        **settings,
    )


def _check_size(kind: Any, here: str, where: str, settings: dict[str, Any]) -> None:
    """Raise `SpecError` where config.json describes more numbers than there can be in the files: memory has an end."""
    if not Path(here).is_dir():
        return
    there = sum(path.stat().st_size for path in Path(here).glob("*.safetensors"))
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        described = kind(kind.config_class.from_pretrained(here, **settings))
    values = sum(tensor.numel() for tensor in described.parameters())
    if there and values > there:
        what = f"config.json describes a model of {values:,} weights, which files of {there:,} bytes can't hold"
        raise SpecError(what, where=where, hint=_AGAIN)


def _check_tensors(inner: nn.Module, loaded: Any, new: str | None, where: str) -> None:
    """Raise `SpecError` where the tensors of the files aren't those of the model, or are no numbers."""

    def matter(names: Iterable[str]) -> list[str]:
        return sorted(name for name in names if new is None or not name.startswith(new))

    other = matter(name for name, *_ in loaded["mismatched_keys"])
    if other:
        what = f"{len(other)} of the weights' tensors have other sizes than config.json says, such as {other[0]}"
        raise SpecError(what, where=where, hint=_AGAIN)
    lacking = matter(loaded["missing_keys"])
    if lacking:
        what = f"the weights lack {len(lacking)} of the model's tensors, such as {lacking[0]}"
        raise SpecError(what, where=where, hint="choose weights of a whole model")
    # Heads and poolers of another use are left out on purpose, layers never.
    kinds = {_unnumbered(name) for name in inner.state_dict()}
    beyond = sorted(name for name in loaded["unexpected_keys"] if _unnumbered(name) in kinds)
    if beyond:
        what = f"the weights have {len(beyond)} tensors more than config.json says, such as {beyond[0]}"
        raise SpecError(what, where=where, hint=_AGAIN)
    learnt = matter(name for name, tensor in inner.state_dict().items() if not tensor.isfinite().all())
    if learnt:
        what = f"{len(learnt)} of the weights' tensors hold what is no number, such as {learnt[0]}"
        raise SpecError(what, where=where, hint="choose weights of a training that went well")


def _unnumbered(name: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", name)


def _beside(here: str) -> str:
    """Return the names of the files by which weights are read."""
    names = ["config.json", "model.safetensors.index.json"]
    return " or ".join(name for name in names if name == names[0] or (Path(here) / name).exists())


def _first(error: Exception) -> str:
    """Return an error's first line, and where that only announces it the next one, too."""
    first, *others = [*filter(str.strip, str(error).splitlines()), ""]
    return f"{first} {others[0].strip()}".strip() if first.endswith(":") and others else first
