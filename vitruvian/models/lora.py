"""LoRA (Hu et al., 2022), as peft implements it: low-rank changes learn, what they change stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from vitruvian.errors import SpecError
from vitruvian.spec import Lora


def attach(tower: nn.Module, layers: Sequence[nn.Module], lora: Lora) -> None:
    """Freeze a tower and give its targets in some of its layers changes that learn; raises `SpecError`."""
    from peft import LoraConfig, inject_adapter_in_model

    tower.requires_grad_(False)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
    )
    for layer in layers:
        there = [name for name, part in layer.named_modules() if isinstance(part, nn.Linear)]
        for target in lora.targets:
            if not any(f".{name}".endswith(f".{target}") for name in there):
                what = f"a layer has no '{target}'"
                short = [name.removeprefix("self_attn.").removeprefix("attention.") for name in there]
                raise SpecError(what, where="model.lora.targets", hint=f"choose of {', '.join(short)}")
        inject_adapter_in_model(config, layer)


def merged(module: nn.Module) -> nn.Module:
    """Return a module without changes: the same where it has none, else a copy in main memory with them in it."""
    if not any(".lora_A." in name for name, _ in module.named_parameters()):
        return module
    from peft.tuners.tuners_utils import BaseTunerLayer

    # Copied value by value to where there is room: beside what trains there may be none.
    values = [*module.parameters(), *module.buffers()]
    plain = copy.deepcopy(module, {id(value): _on_cpu(value) for value in values})
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    return plain


def _on_cpu(value: torch.Tensor) -> torch.Tensor:
    # What has no values, as in the shell that shared out weights are put into, keeps having none.
    whole = value.detach().clone() if value.is_meta else value.detach().to("cpu", copy=True)
    return nn.Parameter(whole, value.requires_grad) if isinstance(value, nn.Parameter) else whole
