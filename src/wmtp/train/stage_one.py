"""Stage 1 as a run of its own, inside that of stage 2: from a recipe to a trained value head."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from wmtp.checkpoint import store as checkpoint
from wmtp.config import Config, Recipe, load, override, to_dict, to_yaml
from wmtp.critic.labels import labelled_documents
from wmtp.critic.learner import Labelled, ValueLearner
from wmtp.critic.model import critic_folder, save_critic
from wmtp.data.corpus import Data
from wmtp.distributed.parallel import full
from wmtp.distributed.world import World
from wmtp.errors import WMTPError
from wmtp.layout import BEST, CRITIC, CRITIC_FILE, RECIPE_FILE
from wmtp.metrics import MetricsLog
from wmtp.storage import mend, read_json, write_json, write_text
from wmtp.train.assemble import critic_on_devices
from wmtp.train.context import training_in
from wmtp.train.follower import Follow
from wmtp.train.resume import Resume, keep_precision, make_loader, refuse_other_recipe, starting_point
from wmtp.train.trainer import Trainer


def critic_recipe(recipe: Recipe) -> Recipe:
    """The recipe of stage 1: the run's, without weighting and with `critic.overrides`."""
    plain = {"name": CRITIC, "scorer": "uniform", "train.control": None}
    return override(recipe, plain | recipe.critic.overrides, "critic.overrides")


def learn_values(
    recipe: Recipe,
    config: Config,
    data: Data,
    run: Path,
    resume: Resume,
    world: World,
    begin: Callable[[], None],
    follow: Follow,
) -> Path:
    """Train a critic in the directory `run`, or go on training, unless that is done; returns its folder.

    Every process of the group calls this. The best head by held-out AUC is kept, whatever comes after it.

    Args:
        recipe: of stage 2.
        data: of stage 2, whose tokenizer the critic reads with.
        resume: of stage 2; stage 1 itself goes on wherever it was, unless stage 2 is a new run.
        begin: called on every rank when nothing can be refused any more.
        follow: who follows stage 1.
    Raises:
        WMTPError: rewards that cannot be learnt from, or training that came to nothing.
    """
    own = critic_recipe(recipe)
    done = world.any(world.is_first and resume.where != "never" and (run / CRITIC_FILE).exists())
    if done:
        saved = to_dict(load(run / RECIPE_FILE)[0])
        refuse_other_recipe(own, {"recipe": saved}, run, extend=resume.extend)
        _refuse_other_data(data, run)
        return critic_folder(run)
    if world.is_first:
        run.mkdir(exist_ok=True)
        mend(run)
        checkpoint.recover(run)
    world.barrier()
    start = starting_point(own, run, Resume("never" if resume.where == "never" else "auto"), world)
    config = keep_precision(config, start, own)
    with world.first_one_first():
        learnt, held_out = labelled_documents(own, config, data.tokenizer)
    torch.manual_seed(own.seed + world.rank)
    module, parallel = critic_on_devices(own, config, data.tokenizer, start.path if start else None, world)
    follower = follow(run, start.state["mlflow_run_id"] if start else None, fresh=start is None)
    with training_in(run, config.devices, world, data.tokenizer, follower) as context:
        trainer = Trainer(
            module,
            parallel,
            make_loader(own, learnt.documents, world, learnt.columns, learnt.pairs),
            held_out,
            context,
            write_configuration=_backbone_configuration(module),
            on_best=lambda: save_critic(
                module.model, run / BEST, own, data.tokenizer, whole=full, is_first=world.is_first
            ),
            patience=own.critic.patience,
        )
        trainer.begin_at(start)
        if world.is_first:
            write_text(run / RECIPE_FILE, to_yaml(own))
        begin()
        with follower if world.is_first else nullcontext():
            _fit(trainer, run)
    if world.is_first:
        result = _result(run, own, learnt, held_out)
        write_json(run / CRITIC_FILE, {"data": data.train.fingerprint, **result})
    world.barrier()
    return critic_folder(run)


def _refuse_other_data(data: Data, run: Path) -> None:
    """Refuse training data other than those that a finished stage 1, where it wrote that down, learnt from."""
    saved = read_json(run / CRITIC_FILE).get("data")
    if saved not in (None, data.train.fingerprint):
        raise WMTPError(
            f"data.source: the training data changed since the critic in {run} was trained: fingerprint "
            f"{data.train.fingerprint[:16]} now, {saved[:16]} then; start a new run (name=…)"
        )


def with_own_critic(recipe: Recipe, run: Path) -> Recipe:
    """The recipe with the critic that the run's stage 1 trained, where it names none."""
    if recipe.critic.path is not None or not (run / CRITIC).is_dir():
        return recipe
    return override(recipe, {"critic.path": str(critic_folder(run / CRITIC))}, "critic")


def _fit(trainer: Trainer, run: Path) -> None:
    """Train to the end.

    Raises:
        WMTPError: the values exploded, and what is left; or no validation gave an AUC.
    """
    try:
        trainer.fit("critic")
    except WMTPError as error:
        if trainer.counters.best_step is None:
            raise
        raise WMTPError(
            f"critic: {error}; the best head until then, of step {trainer.counters.best_step}, is in {run / BEST}: "
            f"use it with critic.path={run / BEST}"
        ) from error
    if trainer.counters.best_step is None:
        raise WMTPError(
            f"{run}: no validation could tell good from bad documents; the held-out rewards may all be the same: "
            f"raise critic.held_out"
        )


def _backbone_configuration(module: ValueLearner) -> Any:
    assert module.model.backbone is not None
    return module.model.backbone.config.save_pretrained


def _result(run: Path, recipe: Recipe, learnt: Labelled, held_out: Labelled) -> dict[str, Any]:
    validations = [record for record in MetricsLog(run) if record["kind"] == "validation"]
    best = max(validations, key=lambda record: -1.0 if record["auc"] is None else record["auc"])
    return {
        "objective": recipe.critic.objective,
        "backbone": recipe.critic.backbone,
        "trunk": recipe.critic.trunk,
        "documents": len(learnt.documents),
        "held_out": len(held_out.documents),
        "pairs": None if learnt.pairs is None else len(learnt.pairs),
        "steps": validations[-1]["step"],
        "seconds": validations[-1]["seconds"],
        "best_step": best["step"],
        **{name: best[name] for name in ("auc", "auc_last", "explained_variance", "calibration")},
    }
