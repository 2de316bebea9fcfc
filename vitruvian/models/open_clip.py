"""CLIP weights as open_clip saves them, made into those that transformers reads; torch isn't needed for it.

What open_clip calls `open_clip_config.json` and `open_clip_model.safetensors` (Ilharco et al., 2021) holds the same two
transformers as CLIP's own release, under other names.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitruvian.errors import SpecError
from vitruvian.models.rewriting import rewrite

CONFIG: Final = "open_clip_config.json"
WEIGHTS: Final = "open_clip_model.safetensors"
TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
# CLIP's own vocabulary ends with them.
_TOKENS: Final = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
_PARTS: Final = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "transformer.resblocks.": "text_model.encoder.layers.",
    "logit_scale": "logit_scale",
}
_WITHIN: Final = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_KNOWN: Final = {
    "model": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"},
    "vision": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
    "text": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}


def config_of(saved: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return transformers' config.json of an `open_clip_config.json`; raises `SpecError` for towers unlike CLIP's."""
    try:
        model = dict(saved["model_cfg"])
        vision, text = dict(model["vision_cfg"]), dict(model["text_cfg"])
        odd = {
            *(set(model) - _KNOWN["model"]),
            *(f"vision_cfg.{name}" for name in set(vision) - _KNOWN["vision"]),
            *(f"text_cfg.{name}" for name in set(text) - _KNOWN["text"]),
        }
        if odd:
            hint = "choose a CLIP with a ViT and CLIP's own text tower"
            raise SpecError(f"open_clip's {sorted(odd)[0]} isn't known here", where=where, hint=hint)
        activation = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu", "layer_norm_eps": 1e-5}
        both = activation | {"projection_dim": int(model["embed_dim"])}
        wide, deep = int(vision["width"]), int(text["width"])
        return {
            "model_type": "clip",
            "architectures": ["CLIPModel"],
            "projection_dim": int(model["embed_dim"]),
            "vision_config": both
            | {
                "model_type": "clip_vision_model",
                "hidden_size": wide,
                "intermediate_size": int(wide * float(vision.get("mlp_ratio", 4))),
                "num_hidden_layers": int(vision["layers"]),
                "num_attention_heads": wide // int(vision.get("head_width", 64)),
                "image_size": int(vision["image_size"]),
                "patch_size": int(vision["patch_size"]),
            },
            "text_config": both
            | _TOKENS
            | {
                "model_type": "clip_text_model",
                "hidden_size": deep,
                "intermediate_size": int(deep * float(text.get("mlp_ratio", 4))),
                "num_hidden_layers": int(text["layers"]),
                "num_attention_heads": int(text["heads"]),
                "max_position_embeddings": int(text.get("context_length", 77)),
                "vocab_size": int(text.get("vocab_size", 49408)),
            },
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as e:
        what = f"{CONFIG} makes no sense ({type(e).__name__}: {e})"
        raise SpecError(what, where=where, hint="save the weights again with open_clip.push_to_hf_hub") from e


def preprocessor_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers' preprocessor_config.json would hold of mean and deviation."""
    how = saved.get("preprocess_cfg")
    how = how if isinstance(how, dict) else {}
    return {f"image_{part}": how[part] for part in ("mean", "std") if part in how}


def converted(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return open_clip's tensors under transformers' names; raises `KeyError` naming one that has none."""
    made: dict[str, NDArray[Any]] = {}
    for name, value in weights.items():
        if name in ("visual.proj", "text_projection"):
            # Here a matrix to multiply with, there the weight of a layer.
            made[f"{'visual' if name == 'visual.proj' else 'text'}_projection.weight"] = np.ascontiguousarray(value.T)
            continue
        start = next((part for part in _PARTS if name == part or (part[-1] == "." and name.startswith(part))), "")
        if not start:
            raise KeyError(name)
        rest = name.removeprefix(start)
        block = re.fullmatch(r"(\d+)\.(.+)", rest) if start.endswith("resblocks.") else None
        if block is None:
            made[_PARTS[start] + rest] = value
        elif found := re.fullmatch(r"attn\.in_proj_(weight|bias)", block[2]):
            for part, each in zip("qkv", np.split(value, 3), strict=True):
                made[f"{_PARTS[start]}{block[1]}.self_attn.{part}_proj.{found[1]}"] = np.ascontiguousarray(each)
        else:
            within = next((within for within in _WITHIN if block[2].startswith(within)), None)
            if within is None:
                raise KeyError(name)
            made[f"{_PARTS[start]}{block[1]}.{_WITHIN[within]}{block[2].removeprefix(within)}"] = value
    return made


def convert(folder: Path, into: Path, where: str) -> None:
    """Write the weights of a folder as transformers' `from_pretrained` reads them; raises `SpecError`."""
    saved = json.loads((folder / CONFIG).read_text())
    try:
        rewrite(folder / WEIGHTS, converted, into, where, "weights must be safetensors; pickled ones are refused")
    except (KeyError, ValueError) as e:
        hint = "choose a CLIP with a ViT and CLIP's own text tower"
        raise SpecError(f"open_clip's tensor {e} isn't known here", where=where, hint=hint) from e
    (into / "config.json").write_text(json.dumps(config_of(saved, where), indent=1))
    (into / "preprocessor_config.json").write_text(json.dumps(preprocessor_of(saved), indent=1))
    for name in TOKENIZER:
        if (folder / name).exists():
            shutil.copyfile(folder / name, into / name)
