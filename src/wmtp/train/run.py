"""`wmtp train`: from a recipe to a trained run directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wmtp.config import Config, Recipe, changed_keys, to_yaml
from wmtp.data.corpus import Data, load_data
from wmtp.data.loader import Loader
from wmtp.environment import choose_device, choose_dtype, configure_torch, describe
from wmtp.errors import WMTPError
from wmtp.model.build import build_model, count_parameters, load_causal_lm, load_reference, model_fingerprint
from wmtp.model.modeling import MTPForCausalLM
from wmtp.storage import write_json, write_text
from wmtp.train import checkpoint
from wmtp.train.module import WeightedMTP
from wmtp.train.trainer import Trainer
from wmtp.weighting.refscores import Header, load_scores, write_scores
from wmtp.weighting.scorers import SCORERS

RESUMABLE = (
    "name",
    "evaluate.",
    "compare.",
    "train.log_every",
    "train.validate_every",
    "train.save_every",
    "train.keep_checkpoints",
    "train.max_bad_steps",
)
"""Keys that may differ between a checkpoint and the run that resumes it: they do not touch what is learnt."""


EAGER_ROWS = 512
"""Up to this row length plain attention trains faster in bf16 on a CPU than the fused one (docs/decisions.md)."""


@dataclass(frozen=True)
class Plan:
    """What `wmtp train --dry-run` shows."""

    parameters: int
    next_token_parameters: int
    steps: int
    rows_per_epoch: int
    epochs: float
    training_documents: int
    training_tokens: int
    longest_document: int


def plan(recipe: Recipe, config: Config) -> Plan:
    """Read the data and count, without building a model."""
    data = load_data(recipe, Path(config.paths.cache))
    parameters, next_token = count_parameters(recipe, data.tokenizer)
    loader = _loader(recipe, data, None)
    return Plan(
        parameters=parameters,
        next_token_parameters=next_token,
        steps=recipe.train.steps,
        rows_per_epoch=loader.rows_per_epoch,
        epochs=recipe.train.steps * recipe.train.batch_size / loader.rows_per_epoch,
        training_documents=len(data.train),
        training_tokens=len(data.train.tokens),
        longest_document=int(data.train.lengths.max()),
    )


def train(
    recipe: Recipe,
    config: Config,
    run: Path,
    resume: str = "never",
    data: Data | None = None,
) -> Path:
    """Train, or go on training, in the directory `run`; returns its last checkpoint.

    Args:
        resume: "never" starts a new run, "auto" continues the newest checkpoint if there is one, anything else is
            the checkpoint to continue from.
        data: what `load_data(recipe, …)` gives, when it is at hand.
    """
    configure_torch(config.devices)
    device = choose_device(config.devices)
    start = _checkpoint_to_resume(run, resume)
    state = checkpoint.load_state(start) if start is not None else None
    if state is not None:
        _refuse_other_recipe(recipe, state, start)
    data = data or load_data(recipe, Path(config.paths.cache))
    torch.manual_seed(recipe.seed)
    module = build_module(recipe, config, data, model_from=start)
    trainer = Trainer(
        module,
        _loader(recipe, data, reference_scores(recipe, data)),
        data.validation,
        data.tokenizer,
        run,
        device,
    )
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "recipe.yaml", to_yaml(recipe))
    write_text(run / "config.yaml", to_yaml(config))
    write_json(run / "environment.json", describe(config.devices))
    if state is not None:
        trainer.restore(state)
    else:
        trainer.metrics.rewind(-1)
    trainer.fit(recipe.name)
    return checkpoint.checkpoints(run)[-1]


def build_module(recipe: Recipe, config: Config, data: Data, model_from: Path | None = None) -> WeightedMTP:
    """Model, scorer and, where the scorer needs one that is not on disk as scores, the reference."""
    model = load_learner(model_from) if model_from is not None else build_model(recipe, data.tokenizer)
    needs_reference = SCORERS.create(recipe.train.scorer_name, recipe).needs_reference
    reference = None
    if needs_reference and recipe.data.reference_scores is None:
        if recipe.model.ref_id is None:
            raise WMTPError(
                f"scorer {recipe.train.scorer_name!r} needs a reference model: set model.ref_id, or "
                f"data.reference_scores to a file that `wmtp score` wrote"
            )
        location = checkpoint.resolve_model(recipe.model.ref_id, "model.ref_id")
        reference = load_reference(str(location), data.tokenizer)
    device = choose_device(config.devices)
    dtype = choose_dtype(config.devices, device)
    if (device.type, dtype) == ("cpu", torch.bfloat16) and recipe.data.sequence_length <= EAGER_ROWS:
        model.set_attn_implementation("eager")
    return WeightedMTP(model, recipe, compute_dtype=dtype, reference=reference)


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


def score_training_data(recipe: Recipe, config: Config, location: str, output: Path) -> Header:
    """`wmtp score`: write a reference model's cross-entropies of the recipe's training data."""
    configure_torch(config.devices)
    data = load_data(recipe, Path(config.paths.cache))
    return write_reference_scores(recipe, config, data, location, output)


def write_reference_scores(recipe: Recipe, config: Config, data: Data, location: str, output: Path) -> Header:
    """Score the training data with the model at `location`: a run, a model folder or a hub name."""
    device = choose_device(config.devices)
    model = str(checkpoint.resolve_model(location, "model.ref_id"))
    return write_scores(
        output,
        data.train,
        load_reference(model, data.tokenizer),
        model_fingerprint=model_fingerprint(model),
        sequence_length=recipe.data.sequence_length,
        batch_size=recipe.train.rows_at_once,
        device=device,
        dtype=choose_dtype(config.devices, device),
    )


def _loader(recipe: Recipe, data: Data, scores: NDArray[np.float16] | None) -> Loader:
    return Loader(
        data.train,
        sequence_length=recipe.data.sequence_length,
        batch_size=recipe.train.batch_size,
        micro_batch_size=recipe.train.rows_at_once,
        seed=recipe.seed,
        reference_ce=scores,
    )


def _checkpoint_to_resume(run: Path, resume: str) -> Path | None:
    found = checkpoint.checkpoints(run)
    if resume == "never":
        if found:
            raise WMTPError(
                f"{run}: has a checkpoint of step {checkpoint.step_of(found[-1])} already; "
                f"continue it with --resume auto, or choose another name (name=…)"
            )
        return None
    if resume == "auto":
        return found[-1] if found else None
    if not Path(resume).is_dir():
        raise WMTPError(f"--resume {resume}: should be auto, never or a checkpoint folder")
    return Path(resume)


def _refuse_other_recipe(recipe: Recipe, state: dict[str, Any], start: Path | None) -> None:
    saved = Recipe.model_validate(state["recipe"])
    differing = [key for key in changed_keys(saved, recipe) if not key.startswith(RESUMABLE)]
    if differing:
        raise WMTPError(
            f"{start}: was trained with another recipe ({', '.join(differing)} differ); "
            f"resume with the same one, or start a new run (name=…)"
        )
