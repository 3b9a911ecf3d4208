"""Where a stage of training starts or goes on, and its batches."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.checkpoint import store as checkpoint
from wmtp.config import Config, Recipe, changed_keys, recipe_from
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import BatchShape, Columns, Loader
from wmtp.distributed.world import World
from wmtp.environment import choose_device, choose_dtype, dtype_name
from wmtp.errors import WMTPError
from wmtp.progress import note
from wmtp.rank import restarts
from wmtp.train.optim import check_schedule, learning_rate
from wmtp.weighting.scorers import with_settings

RESUMABLE = (
    "name",
    "evaluate.",
    "compare.",
    "data.source",
    "train.micro_batch_size",
    "train.gradient_checkpointing",
    "train.log_every",
    "train.validate_every",
    "train.save_every",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.async_save",
    "train.max_bad_steps",
)
"""Keys that may differ between a checkpoint and the run that resumes it: they do not touch what is learnt.

What `data.source` holds is compared by its fingerprint, wherever it is.
"""


_PRECISIONS: dict[str, str] = {"bfloat16": "bf16", "float32": "fp32"}
"""The dtype in a checkpoint, as `devices.precision` calls it."""


@dataclass(frozen=True)
class Start:
    """A checkpoint to go on from: where it is, and its state (see `checkpoint.load_state`)."""

    path: Path
    state: dict[str, Any]


@dataclass(frozen=True)
class Resume:
    """Whether and how to go on.

    Attributes:
        where: "never" starts a new run, "auto" continues the newest good checkpoint if there is one, anything else is
            the checkpoint to continue from.
        extend: whether a checkpoint of fewer `train.steps` goes on by the schedule of more; else it is refused.
    """

    where: str = "never"
    extend: bool = False


def starting_point(recipe: Recipe, run: Path, resume: Resume, world: World) -> Start | None:
    """Where training goes on; None to start.

    Raises:
        WMTPError: a new run where one is already or whose schedule does not fit, no such checkpoint, a damaged one,
            or one of another recipe.
    """
    path = _checkpoint_to_resume(run, resume.where, world)
    if path is None:
        check_schedule(recipe.train)
        return None
    start = Start(path, checkpoint.load_state(path))
    refuse_other_recipe(recipe, start.state, path, extend=resume.extend)
    return start


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


def refuse_other_recipe(
    recipe: Recipe, state: dict[str, Any], start: Path | None, *, extend: bool = False
) -> None:
    """What is learnt, and from what, may not change on resuming.

    Args:
        extend: as of `Resume`.
    Raises:
        WMTPError: it did; says which keys. Or the schedule over more steps does not fit.
    """
    saved = with_settings(recipe_from(state["recipe"], str(start)), str(start))
    same = RESUMABLE if saved.train.warmup != recipe.train.warmup else (*RESUMABLE, "train.warmup_")
    if extend and recipe.train.steps > saved.train.steps:
        check_schedule(recipe.train)
        same = (*same, "train.steps")
    differing = [key for key in changed_keys(saved, recipe) if not key.startswith(same)]
    if differing:
        raise WMTPError(
            f"{start}: was trained with another recipe ({', '.join(differing)} differ); "
            f"resume with the same one, or start a new run (name=…)"
        )


def note_extension(recipe: Recipe, start: Start | None) -> None:
    """Say what the learning rate will do where the recipe has more steps than the checkpoint's."""
    if start is None:
        return
    before, now = recipe_from(start.state["recipe"], str(start.path)).train, recipe.train
    if now.steps == before.steps:
        return
    step = int(start.state["counters"]["step"])
    last, following = learning_rate(step - 1, before), learning_rate(step, now)
    note(
        f"train.steps {now.steps} instead of {before.steps}: the learning rate goes from {last:.3g} at step {step} "
        f"to {following:.3g} at step {step + 1}, and ends at {learning_rate(now.steps - 1, now):.3g} "
        f"(train.schedule {now.schedule})"
    )


def keep_precision(config: Config, start: Start | None, recipe: Recipe) -> Config:
    """The environment in the precision that the checkpoint's run computes in, whatever `auto` is on this machine.

    Checkpoints of before that was written down leave it to the environment.

    Raises:
        WMTPError: `devices.precision` names another.
    """
    saved = None if start is None else start.state.get("precision")
    if start is None or saved is None:
        return config
    precision = _PRECISIONS[saved]
    here = choose_dtype(config.devices, choose_device(config.devices))
    if config.devices.precision not in ("auto", precision):
        raise WMTPError(
            f"{start.path}: was trained in {precision}, and devices.precision is {config.devices.precision}; go on "
            f"with auto or {precision}, or start a new run from its weights (name=… model.base_id={start.path})"
        )
    if dtype_name(here) != saved and start.state["counters"]["step"] < recipe.train.steps:
        note(
            f"{start.path}: going on in {precision} as before; devices.precision auto starts new runs in "
            f"{_PRECISIONS[dtype_name(here)]} here"
        )
    devices = config.devices.model_copy(update={"precision": precision})
    return config.model_copy(update={"devices": devices})


def make_loader(
    recipe: Recipe,
    dataset: TokenDataset,
    world: World,
    columns: Columns | None = None,
    units: Sequence[Sequence[int]] | None = None,
) -> Loader:
    """This rank's loader of the recipe's batches."""
    return Loader(
        dataset,
        BatchShape(recipe.data.sequence_length, recipe.train.batch_size, recipe.train.rows_at_once),
        seed=recipe.seed,
        rank=world.rank,
        world_size=world.size,
        columns=columns,
        units=units,
    )
