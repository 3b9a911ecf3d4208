"""Low-rank adapters on a model's layers (Hu et al. 2021)."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SCALE = 2


def add_lora(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Freeze a model but for low-rank adapters on every matrix of its layers: W + 2 B A.

    B starts at 0, so that nothing changes yet; A is drawn from a stream of its own.
    """
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=TARGETS, lora_dropout=0.0)
        inject_adapter_in_model(config, model)


def merged(model: PreTrainedModel, values: Mapping[str, Tensor]) -> PreTrainedModel:
    """A plain model like `model` with these whole parameters, adapters merged into their matrices."""
    plain = {}
    for name, value in values.items():
        if ".lora_" in name:
            continue
        plain_name = name.replace(".base_layer.", ".")
        stem = plain_name.removesuffix(".weight")
        down, up = (values.get(f"{stem}.lora_{part}.default.weight") for part in "AB")
        plain[plain_name] = value if down is None or up is None else value + SCALE * (up @ down)
    found = type(model)(copy.deepcopy(model.config))
    _, unexpected = found.load_state_dict(plain, strict=False)
    assert not unexpected
    found.tie_weights()
    return found.eval()
