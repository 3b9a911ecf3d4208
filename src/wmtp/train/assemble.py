"""From a recipe to the module that trains: models, scorer, and where they lie."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.distributed import ProcessGroup
from transformers import PreTrainedModel

from wmtp.config import Config, Recipe
from wmtp.data.corpus import Data
from wmtp.environment import choose_device, choose_dtype
from wmtp.errors import WMTPError
from wmtp.model.build import (
    build_model,
    count_parameters,
    empty_model,
    learner_config,
    load_causal_lm,
    load_config,
    load_reference,
    model_fingerprint,
)
from wmtp.model.modeling import MTPForCausalLM
from wmtp.train import checkpoint
from wmtp.train.distributed import World
from wmtp.train.module import WeightedMTP
from wmtp.train.parallel import is_sharded, replicate, shard
from wmtp.weighting.refscores import load_scores
from wmtp.weighting.scorers import SCORERS

EAGER_ROWS = 512
"""Up to this row length plain attention trains faster in bf16 on a CPU than the fused one (docs/decisions.md)."""


def module_on_devices(
    recipe: Recipe, config: Config, data: Data, start: Path | None, world: World
) -> tuple[WeightedMTP, nn.Module]:
    """The module with the weights to start from, and what to call for a step."""
    group = world.group
    if group is not None and is_sharded(config.devices, count_parameters(recipe, data.tokenizer)[0], world):
        model, reference = _models_to_shard(recipe, data, start, world)
        module = _module(recipe, config, model, reference, group)
        shard(module, config.devices, world)
        if start is not None:
            parameters = {name: p.detach() for name, p in model.named_parameters()}
            checkpoint.load_tensors(start, "model", parameters, world.saving_group)
        return module, module
    module = build_module(recipe, config, data, model_from=start, group=group)
    return module, replicate(module, world)


def _models_to_shard(
    recipe: Recipe, data: Data, start: Path | None, world: World
) -> tuple[MTPForCausalLM, PreTrainedModel | None]:
    """Learner and reference: real on rank 0, which hands out the weights, unless they come from a checkpoint."""
    if start is not None:
        model = empty_model(load_config(str(start), "checkpoint"))
    elif world.is_first:
        model = build_model(recipe, data.tokenizer)
    else:
        model = empty_model(learner_config(recipe, data.tokenizer))
    assert isinstance(model, MTPForCausalLM)
    location = _live_reference(recipe)
    if location is None:
        return model, None
    if world.is_first:
        return model, load_reference(location, data.tokenizer)
    return model, empty_model(load_config(location, "model.ref_id")).eval().requires_grad_(False)


def build_module(
    recipe: Recipe,
    config: Config,
    data: Data,
    model_from: Path | None = None,
    group: ProcessGroup | None = None,
) -> WeightedMTP:
    """Model, scorer and, where the scorer needs one that is not on disk as scores, the reference."""
    model = load_learner(model_from) if model_from is not None else build_model(recipe, data.tokenizer)
    location = _live_reference(recipe)
    reference = None if location is None else load_reference(location, data.tokenizer)
    return _module(recipe, config, model, reference, group)


def _live_reference(recipe: Recipe) -> str | None:
    """Where the reference model is that has to run beside the learner, if one has to."""
    needs_reference = SCORERS.create(recipe.train.scorer_name, recipe).needs_reference
    if not needs_reference or recipe.data.reference_scores is not None:
        return None
    if recipe.model.ref_id is None:
        raise WMTPError(
            f"scorer {recipe.train.scorer_name!r} needs a reference model: set model.ref_id, or "
            f"data.reference_scores to a file that `wmtp score` wrote"
        )
    return str(checkpoint.resolve_model(recipe.model.ref_id, "model.ref_id"))


def _module(
    recipe: Recipe,
    config: Config,
    model: MTPForCausalLM,
    reference: PreTrainedModel | None,
    group: ProcessGroup | None,
) -> WeightedMTP:
    device = choose_device(config.devices)
    dtype = choose_dtype(config.devices, device)
    if (device.type, dtype) == ("cpu", torch.bfloat16) and recipe.data.sequence_length <= EAGER_ROWS:
        model.set_attn_implementation("eager")
    return WeightedMTP(model, recipe, compute_dtype=dtype, reference=reference, group=group)


def load_learner(location: Path) -> MTPForCausalLM:
    """The model of a checkpoint, in float32."""
    model = load_causal_lm(str(location), "checkpoint")
    if not isinstance(model, MTPForCausalLM):
        raise WMTPError(f"{location}: not a multi-token prediction model")
    return model


def reference_scores(recipe: Recipe, data: Data) -> NDArray[np.float16] | None:
    """The reference's cross-entropies of the training tokens, memory-mapped, where the recipe names a file."""
    path = recipe.data.reference_scores
    if path is None or not SCORERS.create(recipe.train.scorer_name, recipe).needs_reference:
        return None
    expected = None
    if recipe.model.ref_id is not None:
        expected = model_fingerprint(str(checkpoint.resolve_model(recipe.model.ref_id, "model.ref_id")))
    return load_scores(Path(path), data.train, model=expected)
