"""From a recipe to the module that trains: models, scorer, and where they lie."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.distributed import ProcessGroup
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from wmtp.checkpoint import store as checkpoint
from wmtp.config import Config, Recipe, override, recipe_from
from wmtp.critic.labels import training_columns
from wmtp.critic.learner import ValueLearner
from wmtp.critic.model import load_critic, untrained_critic
from wmtp.data.corpus import Data
from wmtp.data.loader import Batch, Columns, collate, pack
from wmtp.data.rows import keep_where
from wmtp.distributed.parallel import is_sharded, replicate, shard
from wmtp.distributed.world import World
from wmtp.environment import choose_device, choose_dtype
from wmtp.errors import WMTPError
from wmtp.model.build import build_model, count_parameters, empty_model, learner_config, load_reference
from wmtp.model.loading import load_config, load_mtp, model_fingerprint
from wmtp.model.modeling import MTPForCausalLM
from wmtp.train.module import WeightedMTP
from wmtp.train.state import memory_tensors, trained_parameters
from wmtp.weighting.needs import sources_of
from wmtp.weighting.refscores import load_scores
from wmtp.weighting.scorers import scorer_of
from wmtp.weighting.scorers.base import CleanRowsConfig

EAGER_ROWS = 512
"""Up to this row length plain attention trains faster in bf16 on a CPU than the fused one (docs/decisions.md)."""


def assemble(
    recipe: Recipe, config: Config, data: Data, start: Path | None, world: World, critic: Path | None = None
) -> tuple[WeightedMTP, nn.Module]:
    """Model, scorer and what the scorer needs, on their devices: the module, and what to call for a step.

    Args:
        start: the checkpoint that the model's weights come from; else they are those that training begins with.
        critic: where the run's own critic is, if the recipe names none.
    """
    sharded = world.group is not None and is_sharded(
        config.devices, count_parameters(recipe, data.tokenizer)[0], world
    )
    model = _learner(recipe, data, start, world, sharded=sharded)
    with_weights = world.is_first or not sharded
    module = _module(recipe, config, data, model, world.group, critic, with_weights=with_weights)
    if not sharded:
        return module, replicate(module, world)
    shard(
        module,
        config.devices,
        world,
        compute_dtype=module.compute_dtype,
        methods=("scores", "unweighted_ce", "clean_gradient"),
    )
    if start is not None:
        values = {name: p.detach() for name, p in model.named_parameters()}
        checkpoint.load_tensors(start, "model", values, world.saving_group)
    return module, module


def assemble_trained(recipe: Recipe, config: Config, data: Data, location: Path) -> WeightedMTP:
    """A checkpoint's model with the recipe's scorer, which remembers its training if it was trained with."""
    module, _ = assemble(recipe, config, data, location, World(choose_device(config.devices)))
    memory = memory_tensors(module)
    trained = recipe_from(checkpoint.load_state(location)["recipe"], str(location))
    is_own = trained.scorer.name == recipe.scorer.name
    if is_own and memory.keys() <= checkpoint.tensor_names(location, "training").keys():
        checkpoint.load_tensors(location, "training", memory)
    return module


def critic_on_devices(
    recipe: Recipe, config: Config, tokenizer: PreTrainedTokenizerFast, start: Path | None, world: World
) -> tuple[ValueLearner, nn.Module]:
    """What stage 1 trains, with the weights to start from, and what to call for a step."""
    shapes = untrained_critic(recipe, tokenizer, with_weights=False)
    parameters = sum(p.numel() for p in shapes.parameters())
    sharded = is_sharded(config.devices, parameters, world)
    critic = untrained_critic(recipe, tokenizer, with_weights=world.is_first or not sharded)
    module = ValueLearner(critic, recipe, compute_dtype=_compute_dtype(config), group=world.group)
    if sharded:
        shard(module, config.devices, world, compute_dtype=module.compute_dtype, methods=("values",))
        parallel: nn.Module = module
    else:
        parallel = replicate(module, world)
    if start is not None:
        values = {name: p.detach() for name, p in trained_parameters(critic).items()}
        checkpoint.load_tensors(start, "model", values, world.saving_group)
    return module, parallel


def scorer_needs(recipe: Recipe) -> frozenset[str]:
    """The sources (`weighting.needs`) of what the recipe's scorer asks for."""
    return sources_of(scorer_of(recipe).needs)


def _learner(
    recipe: Recipe, data: Data, start: Path | None, world: World, *, sharded: bool
) -> MTPForCausalLM:
    """One to be sharded is real on rank 0, which hands out the weights, unless they come from a checkpoint."""
    if start is not None and not sharded:
        return load_mtp(str(start), "checkpoint")
    if start is not None:
        model = empty_model(load_config(str(start), "checkpoint"))
    elif world.is_first or not sharded:
        model = build_model(recipe, data.tokenizer)
    else:
        model = empty_model(learner_config(recipe, data.tokenizer))
    assert isinstance(model, MTPForCausalLM)
    return model


def _module(
    recipe: Recipe,
    config: Config,
    data: Data,
    model: MTPForCausalLM,
    group: ProcessGroup | None,
    critic_path: Path | None,
    *,
    with_weights: bool,
) -> WeightedMTP:
    """The module around a learner.

    Args:
        with_weights: whether reference and critic get theirs; else their parameters have shapes only.
    """
    dtype, needs = _compute_dtype(config), scorer_needs(recipe)
    is_cpu_bf16 = (choose_device(config.devices).type, dtype) == ("cpu", torch.bfloat16)
    if is_cpu_bf16 and recipe.data.sequence_length <= EAGER_ROWS:
        model.set_attn_implementation("eager")
    if recipe.train.gradient_checkpointing:
        model.enable_checkpointing()
    critic = None
    path = critic_path or recipe.critic.path
    if "values" in needs and path is not None:
        judged = override(recipe, {"critic.path": str(path)}, "critic")
        critic = load_critic(judged, data.tokenizer, with_weights=with_weights)
    return WeightedMTP(
        model,
        recipe,
        compute_dtype=dtype,
        reference=_reference(recipe, data, needs, with_weights=with_weights),
        critic=critic,
        clean=CleanRows(recipe, data, scorer_of(recipe).clean_rows) if "alignment" in needs else None,
        group=group,
    )


def _reference(
    recipe: Recipe, data: Data, needs: frozenset[str], *, with_weights: bool
) -> PreTrainedModel | None:
    """The reference model, if one has to run beside the learner."""
    if "reference_ce" not in needs or recipe.data.reference_scores is not None:
        return None
    if recipe.model.ref_id is None:
        raise WMTPError(
            f"scorer {recipe.scorer.name!r} needs a reference model: set model.ref_id, or "
            f"data.reference_scores to a file that `wmtp score` wrote"
        )
    location = str(checkpoint.resolve_model(recipe.model.ref_id, "model.ref_id"))
    if with_weights:
        return load_reference(location, data.tokenizer, recipe.data.sequence_length)
    return empty_model(load_config(location, "model.ref_id")).eval().requires_grad_(False)


def _compute_dtype(config: Config) -> torch.dtype:
    return choose_dtype(config.devices, choose_device(config.devices))


class CleanRows:
    """Training rows of known quality, a few for every step: `clean` says which, the seed in what order.

    Raises:
        WMTPError: a row lacks one of the fields, or none is left.
    """

    def __init__(self, recipe: Recipe, data: Data, settings: CleanRowsConfig) -> None:
        rows = data.rows.train
        keep_where(rows, settings.clean, f"data.source {recipe.data.source}", "scorer.clean")
        is_clean = np.array([all(row[k] == v for k, v in settings.clean.items()) for row in rows])
        self._rows = settings.rows
        self._dataset = data.train
        self._documents = np.flatnonzero(is_clean[data.train.sources])
        self._recipe = recipe

    def __call__(self, step: int) -> Batch:
        """`rows` packed rows."""
        recipe, length = self._recipe, self._recipe.data.sequence_length
        count = min(len(self._documents), 64 * self._rows)
        order = np.random.default_rng([recipe.seed, step]).choice(self._documents, count, replace=False)
        rows = pack(self._dataset.lengths.tolist(), order.tolist(), length)
        return collate(self._dataset, rows[: self._rows], length)


def reference_scores(recipe: Recipe, data: Data) -> NDArray[np.float16] | None:
    """The reference's cross-entropies of the training tokens, memory-mapped, where the recipe names a file."""
    path = recipe.data.reference_scores
    if path is None or "reference_ce" not in scorer_needs(recipe):
        return None
    expected = None
    if recipe.model.ref_id is not None:
        expected = model_fingerprint(str(checkpoint.resolve_model(recipe.model.ref_id, "model.ref_id")))
    return load_scores(Path(path), data.train, model=expected)


def known_columns(recipe: Recipe, config: Config, data: Data) -> Columns:
    """What is known of every training token beforehand and the scorer needs."""
    columns: dict[str, NDArray[np.floating[Any]]] = {
        **training_columns(recipe, config, data, scorer_needs(recipe))
    }
    scores = reference_scores(recipe, data)
    return columns if scores is None else columns | {"reference_ce": scores}
