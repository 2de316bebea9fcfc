"""CLIP (Radford et al., 2021), as transformers implements it: by its prompts, or by a linear layer on its features."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModel

from vitruvian.errors import SpecError
from vitruvian.models.inputs import place
from vitruvian.models.layers import refuse_more, types_of
from vitruvian.models.lora import attach, merged
from vitruvian.models.pretrained import pretrained
from vitruvian.models.registry import Featured, Towers
from vitruvian.spec import Clip, Dimensions, Lora, Model

_TOKENS_OF_A_PROMPT = 77
# Class by class the sentences it is known by; beside the weights, so that they are read as they were learnt.
_PROMPTS = "prompts.json"


class LinearClip(Featured):
    """Images (n, 3, size, size) to logits (n, classes): a linear layer on the visual tower's features."""

    def __init__(self, vision_model: Any, classes: int) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.head = nn.Linear(vision_model.config.hidden_size, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(images))

    def front(self) -> Sequence[nn.Module]:
        """Return the visual tower."""
        return [self.vision_model]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the visual tower's features (n, width)."""
        features: torch.Tensor = self.vision_model(pixel_values=images).pooler_output
        return features

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of features (n, width)."""
        logits: torch.Tensor = self.head(features)
        return logits


class PromptedClip(Featured):
    """Images (n, 3, size, size) to logits (n, classes): the cosine to the features of each class' prompts, scaled."""

    tokens: torch.Tensor
    classes: torch.Tensor

    def __init__(self, inner: Any, tokenizer: Any, prompts: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        # FSDP shares out no scalar.
        scale = inner.logit_scale
        inner.logit_scale = nn.Parameter(scale.detach().reshape(1), requires_grad=scale.requires_grad)
        self.inner = inner
        self.tokenizer = tokenizer
        self.prompts = prompts
        # Both follow from the weights and the prompts: neither is saved.
        self.register_buffer("tokens", _tokens(tokenizer, prompts, inner.config.text_config), persistent=False)
        self._text_learns = any(p.requires_grad for p in inner.text_model.parameters())
        self._stale = False
        with torch.no_grad():
            self.register_buffer("classes", self._classes(), persistent=False)

    def _classes(self) -> torch.Tensor:
        """Return each class' features, of length 1: the mean over its prompts, each of length 1."""
        many, each = len(self.prompts), len(self.tokens) // len(self.prompts)
        text = self.inner.text_projection(self.inner.text_model(input_ids=self.tokens).pooler_output)
        return F.normalize(F.normalize(text).view(many, each, -1).mean(1))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what the prompts have become is computed once for all answers that follow."""
        super().train(mode)
        self._stale = self._text_learns
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(images))

    def front(self) -> Sequence[nn.Module]:
        """Return the visual tower without its projection."""
        return [self.inner.vision_model]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the visual tower's features (n, width)."""
        features: torch.Tensor = self.inner.vision_model(pixel_values=images).pooler_output
        return features

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of features (n, width)."""
        if self._stale and not self.training:
            # Here and not before: FSDP puts weights together only while it computes.
            with torch.no_grad():
                self.classes.copy_(self._classes())
            self._stale = False
        classes = self._classes() if self._stale else self.classes
        projected = F.normalize(self.inner.visual_projection(features))
        logits: torch.Tensor = self.inner.logit_scale.exp() * projected @ classes.T
        return logits


class _ImageTower(nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = inner.vision_model, inner.visual_projection

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.visual_projection(self.vision_model(pixel_values=images).pooler_output))


class _TextTower(nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.text_model, self.text_projection = inner.text_model, inner.text_projection

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.text_projection(self.text_model(input_ids=tokens).pooler_output))


def towers(module: nn.Module) -> Towers | None:
    """Return the towers of a CLIP with prompts; None of one with a linear head."""
    if not isinstance(module, PromptedClip):
        return None
    scale = module.inner.logit_scale.detach().exp()
    return Towers(
        image=_ImageTower(module.inner).eval(),
        text=_TextTower(module.inner).eval(),
        weight=(scale * module.classes).detach(),
        scale=float(scale),
        tokenizer=module.tokenizer.backend_tokenizer,
        context=module.inner.config.text_config.max_position_embeddings,
        pad=module.tokenizer.pad_token_id,
    )


def build(model: Model, classes: Sequence[str]) -> nn.Module:
    """Return a CLIP that tells classes apart by their prompts or by a new linear head."""
    clip = model.clip or Clip()
    if clip.head == "linear":
        if model.pretrained:
            vision = pretrained(CLIPVisionModel, model.pretrained, "clip", types_of(model))
        else:
            vision = CLIPVisionModel(_tower(CLIPVisionConfig, model))
        _freeze(vision, _visual(clip, model), "clip.unfreezeVisual", model.lora)
        return LinearClip(vision, len(classes))
    if model.pretrained:
        inner = pretrained(CLIPModel, model.pretrained, "clip", types_of(model))
        tokenizer = _tokenizer_of(model.pretrained)
        # The scale that the weights were learnt with stays, as in WiSE-FT (Wortsman et al., 2022).
        inner.logit_scale.requires_grad_(False)
    else:
        inner, tokenizer = _scratch(model)
    text = 0 if clip.unfreeze_text is None and model.pretrained else clip.unfreeze_text
    _freeze(inner.vision_model, _visual(clip, model), "clip.unfreezeVisual", model.lora)
    _freeze(inner.text_model, text, "clip.unfreezeText", model.lora)
    # With both towers frozen the visual projection is what learns, as in ProLIP (Fahes et al., 2024); with LoRA the
    # towers' changes are, as in CLIP-LoRA (Zanella & Ben Ayed, 2024).
    inner.visual_projection.requires_grad_(not model.lora)
    inner.text_projection.requires_grad_(text != 0 and not model.lora)
    return PromptedClip(inner, tokenizer, prompts_of(classes, clip.templates))


def prompts_of(classes: Sequence[str], templates: Sequence[str]) -> dict[str, list[str]]:
    """Return each class' prompts: its name as words, in each of the templates; raises `SpecError` where two agree."""
    words = {name: " ".join(re.split(r"[\s_-]+", name)).strip() for name in classes}
    known: dict[str, str] = {}
    for name, said in words.items():
        if (other := known.setdefault(said.lower(), name)) != name:
            what = f"the classes '{other}' and '{name}' are the same words, '{said}'"
            raise SpecError(what, where="model.clip", hint="rename one, or set head: linear")
    return {name: [template.replace("{}", said) for template in templates] for name, said in words.items()}


def _visual(clip: Clip, model: Model) -> int | None:
    """Return how many of the visual tower's last layers learn; None for all of it."""
    if clip.unfreeze_visual is None and model.pretrained and not model.lora:
        return 0
    return clip.unfreeze_visual


def _freeze(tower: Any, learning: int | None, field: str, lora: Lora | None) -> None:
    """Let only the last layers of a tower, and what follows them, learn; with all layers what precedes them, too."""
    layers = tower.encoder.layers
    if learning is None:
        learning = len(layers)
    refuse_more(learning, len(layers), "layers", field)
    last = layers[len(layers) - learning :]
    if lora:
        attach(tower, last, lora)
        return
    if learning == len(layers):
        return
    tower.requires_grad_(False)
    if learning:
        after = tower.post_layernorm if hasattr(tower, "post_layernorm") else tower.final_layer_norm
        for part in [*last, after]:
            part.requires_grad_(True)


def _tokenizer_of(name: str) -> Any:
    try:
        return CLIPTokenizer.from_pretrained(place(name))
    except (OSError, ValueError) as e:
        hint = "it needs tokenizer.json, or vocab.json and merges.txt"
        raise SpecError(f"no tokenizer ({str(e).splitlines()[0]})", where=f"model.pretrained: {name}", hint=hint) from e


def _tokens(tokenizer: Any, prompts: Mapping[str, Sequence[str]], text: Any) -> torch.Tensor:
    """Return the tokens of all prompts, (prompts, length), class by class; raises `SpecError` for one that can't be."""
    rows: list[list[int]] = []
    for prompt in (prompt for each in prompts.values() for prompt in each):
        row = tokenizer(prompt)["input_ids"]
        # Without its files transformers makes a tokenizer that knows no word, and says nothing.
        if tokenizer.unk_token_id in row[1:-1] or max(row) >= text.vocab_size:
            hint = "tokenizer.json, or vocab.json and merges.txt, must lie beside the weights and belong to them"
            raise SpecError(f"the tokenizer can't read the prompt '{prompt}'", where="model.pretrained", hint=hint)
        if len(row) > text.max_position_embeddings:
            what = f"the prompt '{prompt}' has {len(row)} tokens, more than {text.max_position_embeddings}"
            raise SpecError(what, where="model.clip.templates", hint="shorten it, or the class' name")
        rows.append(row)
    longest = max(map(len, rows))
    # What follows a prompt's last token doesn't count: a token sees only those before it.
    return torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])


def _scratch(model: Model) -> tuple[Any, Any]:
    """Return a CLIP with a new tokenizer that reads byte by byte."""
    # CLIP's own vocabulary begins with these: every byte, within a word and at its end.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=_TOKENS_OF_A_PROMPT)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = _sizes(model) | special | {"vocab_size": len(words), "max_position_embeddings": _TOKENS_OF_A_PROMPT}
    width = (model.dimensions or Dimensions()).hidden_size
    vision = _tower(CLIPVisionConfig, model).to_dict()
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)), tokenizer


def _tower(config: Any, model: Model) -> Any:
    size = model.dimensions or Dimensions()
    return config(image_size=size.image_size, patch_size=size.patch_size, **_sizes(model))


def _sizes(model: Model) -> dict[str, int]:
    """Return what both towers have in common."""
    size = model.dimensions or Dimensions()
    return {
        "hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size or 4 * size.hidden_size,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "projection_dim": size.hidden_size,
    }


def between(start: PromptedClip, learnt: PromptedClip, coefficient: float) -> PromptedClip:
    """Return a module between two of the same prompts: 0 is the start to the bit, 1 what was learnt."""
    inner = copy.deepcopy(learnt.inner)
    with torch.no_grad():
        for value, first in zip(inner.parameters(), start.inner.parameters(), strict=True):
            value.copy_(torch.lerp(first, value, coefficient))
    return PromptedClip(inner, learnt.tokenizer, learnt.prompts)


def adapt(module: nn.Module, examples: Callable[[int], torch.Tensor]) -> None:
    """Do nothing: preprocessing has normalised the images."""


def save(module: nn.Module, folder: Path) -> None:
    """Write the weights; with prompts as transformers' `from_pretrained` reads them, tokenizer included."""
    module = merged(module)
    if isinstance(module, PromptedClip):
        state = module.inner.state_dict()
        module.inner.save_pretrained(folder, state_dict=state | {"logit_scale": state["logit_scale"].reshape(())})
        module.tokenizer.save_pretrained(folder)
        (folder / _PROMPTS).write_text(json.dumps(module.prompts, indent=1))
        return
    assert isinstance(module, LinearClip)
    config = module.vision_model.config.to_dict() | {"num_labels": module.head.out_features}
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "model.safetensors")


def load(folder: Path) -> nn.Module:
    """Return the module that `save` wrote; one with prompts answers by their features and can't learn them further."""
    if (folder / _PROMPTS).exists():
        inner = CLIPModel.from_pretrained(folder, use_safetensors=True)
        inner.text_model.requires_grad_(False)
        return PromptedClip(inner, CLIPTokenizer.from_pretrained(folder), json.loads((folder / _PROMPTS).read_text()))
    config = json.loads((folder / "config.json").read_text())
    module = LinearClip(CLIPVisionModel(CLIPVisionConfig.from_dict(config)), config["num_labels"])
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return module
