"""Weights to begin with: safetensors in transformers' layout, from a folder, a store or the hub."""

from __future__ import annotations

from logging import ERROR, getLogger
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from vitruvian.errors import SpecError
from vitruvian.models.inputs import SAFE, place, pretrained_config
from vitruvian.models.layers import refuse_other

# Its bars for files of a few megabytes would tear those of the stages.
logging.disable_progress_bar()
logging.set_verbosity_error()
# It would tell of every try where the hub can't be reached; the error that follows does.
getLogger("huggingface_hub").setLevel(ERROR)


def pretrained(kind: Any, name: str, what: str, types: tuple[str, ...], new: str | None = None, **settings: Any) -> Any:
    """Return transformers' model `kind` with the weights of a folder or hub name; raises `SpecError`.

    `what` names in an error what was wanted, `types` are the `model_type`s that have it. Only tensors whose name begins
    with `new` may be lacking: they are drawn anew.
    """
    where = f"model.pretrained: {name}"
    refuse_other(name, pretrained_config(name, "config.json"), what, types)
    try:
        inner, loaded = kind.from_pretrained(
            place(name),
            ignore_mismatched_sizes=new is not None,
            use_safetensors=True,
            output_loading_info=True,
            # Many are kept in half precision, which isn't enough to learn in.
            dtype=torch.float32,
            **settings,
        )
    except (OSError, SafetensorError) as e:
        raise SpecError(_first(e), where=where, hint=SAFE) from e
    except Exception as e:
        # What transformers makes of a value in config.json that is none: anything.
        what = f"can't be read with its config.json ({type(e).__name__}: {_first(e)})"
        raise SpecError(what, where=where, hint="save the weights again with save_pretrained") from e
    other = sorted(key for key, *_ in loaded["mismatched_keys"] if new is None or not key.startswith(new))
    if other:
        what = f"{len(other)} of the weights' tensors have other sizes than config.json says, such as {other[0]}"
        raise SpecError(what, where=where, hint="save the weights again with save_pretrained")
    lacking = sorted(key for key in loaded["missing_keys"] if new is None or not key.startswith(new))
    if lacking:
        what = f"the weights lack {len(lacking)} of the model's tensors, such as {lacking[0]}"
        raise SpecError(what, where=where, hint="choose weights of a whole model")
    return inner


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
