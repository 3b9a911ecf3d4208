"""`wmtp train`: from a recipe to a trained run directory."""

import errno
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from wmtp.model.build import count_parameters, load_reference, model_fingerprint
from wmtp.storage import write_json, write_text
from wmtp.tracking.store import check_tracking
from wmtp.tracking.tracker import Tracker
from wmtp.train import checkpoint
from wmtp.train.assemble import module_on_devices, reference_scores
from wmtp.train.distributed import World, processes
from wmtp.train.heartbeat import Heartbeat
from wmtp.train.lock import RunLock
from wmtp.train.signals import StopRequest
from wmtp.train.trainer import Trainer
from wmtp.train.worker import restarts
from wmtp.weighting.refscores import Header, write_scores

RESUMABLE = (
    "name",
    "evaluate.",
    "compare.",
    "train.log_every",
    "train.validate_every",
    "train.save_every",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.async_save",
    "train.max_bad_steps",
)
"""Keys that may differ between a checkpoint and the run that resumes it: they do not touch what is learnt."""


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
    loader = _loader(recipe, data, None, World(torch.device("cpu")))
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

    Every process of a group that torchrun started calls this.

    Args:
        resume: "never" starts a new run, "auto" continues the newest good checkpoint if there is one, anything else
            is the checkpoint to continue from.
        data: what `load_data(recipe, …)` gives, when it is at hand.
    """
    configure_torch(config.devices)
    if config.mlflow.enabled:
        check_tracking(config)
    with ExitStack() as stack:
        stack.enter_context(_full_disk_explained(run))
        world = stack.enter_context(processes(config.devices))
        stack.enter_context(_own_directory(run, world))
        start = _checkpoint_to_resume(run, resume, world)
        state = checkpoint.load_state(start) if start is not None else None
        if state is not None:
            _refuse_other_recipe(recipe, state, start)
        if data is None:
            with world.first_one_first():
                data = load_data(recipe, Path(config.paths.cache))
        torch.manual_seed(recipe.seed + world.rank)
        module, parallel = module_on_devices(recipe, config, data, start, world)
        own_state = state if start is not None and start.resolve().is_relative_to(run.resolve()) else None
        run_id = own_state["mlflow_run_id"] if own_state is not None else None
        tracker = Tracker(run, config, run_id, fresh=own_state is None)
        trainer = Trainer(
            module,
            parallel,
            _loader(recipe, data, reference_scores(recipe, data), world),
            data.validation,
            data.tokenizer,
            run,
            world,
            stack.enter_context(
                Heartbeat(world.store, world.rank, world.size, run, config.devices.collective_timeout)
            ),
            stack.enter_context(StopRequest(config.devices.stop_timeout, lambda: _last_saved(run))),
            tracker,
        )
        if start is not None and state is not None:
            trainer.restore(start, state)
        else:
            trainer.start_metrics()
        if world.is_first:
            write_text(run / "recipe.yaml", to_yaml(recipe))
            write_text(run / "config.yaml", to_yaml(config))
            write_json(run / "environment.json", describe(config.devices) | {"processes": world.size})
            stack.enter_context(tracker)
        trainer.fit(recipe.name)
    return checkpoint.checkpoints(run)[-1]


@contextmanager
def _full_disk_explained(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WMTPError(f"{run}: {error.strerror}; make room, and go on with --resume auto") from error


@contextmanager
def _own_directory(run: Path, world: World) -> Iterator[None]:
    """The run directory, locked by rank 0 and cleared of what a killed process left; never left behind empty."""
    if not world.is_first:
        world.barrier()
        yield
        return
    is_new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    try:
        with RunLock(run):
            checkpoint.recover(run)
            world.barrier()
            yield
    finally:
        if is_new and not (run / "recipe.yaml").exists():
            shutil.rmtree(run)


def _last_saved(run: Path) -> str:
    saved = checkpoint.checkpoints(run)
    return f"the last checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"


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


def _loader(recipe: Recipe, data: Data, scores: NDArray[np.float16] | None, world: World) -> Loader:
    return Loader(
        data.train,
        sequence_length=recipe.data.sequence_length,
        batch_size=recipe.train.batch_size,
        micro_batch_size=recipe.train.rows_at_once,
        seed=recipe.seed,
        rank=world.rank,
        world_size=world.size,
        reference_ce=scores,
    )


def _checkpoint_to_resume(run: Path, resume: str, world: World) -> Path | None:
    if resume == "never" and restarts() > 0:
        resume = "auto"  # what is there was written by the processes before
    if resume == "never":
        found = checkpoint.checkpoints(run)
        if found:
            raise WMTPError(
                f"{run}: has a checkpoint of step {checkpoint.step_of(found[-1])} already; "
                f"continue it with --resume auto, or choose another name (name=…)"
            )
        return None
    if resume == "auto":
        return checkpoint.newest_good(run, lambda line: print(line, file=sys.stderr), world.group)
    if not Path(resume).is_dir():
        raise WMTPError(f"--resume {resume}: should be auto, never or a checkpoint folder")
    checkpoint.verify(Path(resume), world.group)
    return Path(resume)


def _refuse_other_recipe(recipe: Recipe, state: dict[str, Any], start: Path | None) -> None:
    saved = Recipe.model_validate(state["recipe"])
    differing = [key for key in changed_keys(saved, recipe) if not key.startswith(RESUMABLE)]
    if differing:
        raise WMTPError(
            f"{start}: was trained with another recipe ({', '.join(differing)} differ); "
            f"resume with the same one, or start a new run (name=…)"
        )
