"""`wmtp train`: from a recipe to a trained run directory."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from wmtp.checkpoint import store as checkpoint
from wmtp.config import Config, DevicesConfig, Recipe, to_yaml
from wmtp.critic.labels import labelled_documents, training_columns
from wmtp.data.corpus import Data, load_data
from wmtp.data.tokenizer_checks import check_as_exported
from wmtp.distributed.world import World, processes
from wmtp.environment import choose_device, choose_dtype, configure_torch, describe
from wmtp.errors import WMTPError
from wmtp.layout import CONFIG_FILE, CRITIC, DATA_FILE, ENVIRONMENT_FILE, RECIPE_FILE
from wmtp.lock import run_lock
from wmtp.model.build import count_parameters, learner_config, load_reference
from wmtp.model.loading import model_fingerprint
from wmtp.storage import write_json, write_text
from wmtp.train.assemble import assemble, known_columns, scorer_needs
from wmtp.train.context import training_in
from wmtp.train.follower import Follow, Follower, nobody
from wmtp.train.optim import check_schedule
from wmtp.train.resume import Resume, keep_precision, make_loader, note_extension, starting_point
from wmtp.train.stage_one import critic_recipe, learn_values
from wmtp.train.trainer import Trainer
from wmtp.weighting.refscores import write_scores
from wmtp.weighting.scorers import with_settings


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
    check_schedule(recipe.train)
    data = load_data(recipe, Path(config.paths.cache))
    _check_tokenizer(recipe, data)
    if recipe.critic.reward == "field":  # other rewards cost a model's or the sandbox's time
        _check_rewards(recipe, config, data)
    parameters, next_token = count_parameters(recipe, data.tokenizer)
    loader = make_loader(recipe, data.train, World(torch.device("cpu")))
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


def _check_tokenizer(recipe: Recipe, data: Data) -> None:
    """Refuse a tokenizer that others would read otherwise beside the exported model; a base's own is no question."""
    if recipe.model.base_id is None or recipe.data.tokenizer is not None:
        check_as_exported(data.tokenizer, learner_config(recipe, data.tokenizer).backbone)


def _check_rewards(recipe: Recipe, config: Config, data: Data) -> None:
    needs = scorer_needs(recipe)
    if "values" in needs and recipe.critic.path is None:
        labelled_documents(critic_recipe(recipe), config, data.tokenizer)
    training_columns(recipe, config, data, needs)


def train(
    recipe: Recipe,
    config: Config,
    run: Path,
    resume: str = "never",
    data: Data | None = None,
    follow: Follow = nobody,
    *,
    extend: bool = False,
) -> Path:
    """Train, or go on training, in the directory `run`; returns its last checkpoint.

    Every process of a group that torchrun started calls this.

    Args:
        resume, extend: as `Resume`.
        data: what `load_data(recipe, …)` gives, when it is at hand.
        follow: who follows the run, and its stage 1.
    """
    configure_torch(config.devices)
    recipe = with_settings(recipe, "recipe")
    with ExitStack() as stack:
        stack.enter_context(_full_disk_as_one_line(run))
        world = stack.enter_context(processes(config.devices))
        stack.enter_context(_own_directory(run, world))
        start = starting_point(recipe, run, Resume(resume, extend), world)
        kept = keep_precision(config, start, recipe)
        if data is None:
            with world.first_one_first():
                data = load_data(recipe, Path(config.paths.cache))
        _check_tokenizer(recipe, data)
        is_own = start is not None and start.path.resolve().is_relative_to(run.resolve())
        follower = follow(run, start.state["mlflow_run_id"] if start and is_own else None, fresh=not is_own)
        begin = cache(lambda: _begin(recipe, config, kept.devices, data, run, world, stack, follower))
        critic = None
        if "values" in scorer_needs(recipe) and recipe.critic.path is None:
            # More steps are of stage 2; where it has not begun, stage 1 would have had more, too.
            of_stage_1 = Resume(resume, extend and start is not None)
            critic = learn_values(recipe, config, data, run / CRITIC, of_stage_1, world, begin, follow)
        torch.manual_seed(recipe.seed + world.rank)
        with world.first_one_first():
            columns = known_columns(recipe, kept, data)
        module, parallel = assemble(recipe, kept, data, start.path if start else None, world, critic)
        trainer = Trainer(
            module,
            parallel,
            make_loader(recipe, data.train, world, columns),
            data.validation,
            stack.enter_context(training_in(run, config.devices, world, data.tokenizer, follower)),
            write_configuration=module.model.config.save_pretrained,
        )
        trainer.begin_at(start)
        begin()
        note_extension(recipe, start)
        trainer.fit(recipe.name)
    return checkpoint.checkpoints(run)[-1]


def train_critic(recipe: Recipe, config: Config, data: Data, run: Path, follow: Follow = nobody) -> Path:
    """Stage 1 alone, in the directory `run`, or what is left of it; returns the critic's folder."""
    configure_torch(config.devices)
    with ExitStack() as stack:
        stack.enter_context(_full_disk_as_one_line(run))
        world = stack.enter_context(processes(config.devices))
        stack.enter_context(_own_directory(run, world))
        return learn_values(recipe, config, data, run, Resume("auto"), world, lambda: None, follow)


def _begin(
    recipe: Recipe,
    config: Config,
    devices: DevicesConfig,
    data: Data,
    run: Path,
    world: World,
    stack: ExitStack,
    follower: Follower,
) -> None:
    """Nothing can be refused any more: write down what runs, and have it followed until the stack unwinds."""
    if world.is_first:
        write_text(run / RECIPE_FILE, to_yaml(recipe))
        write_text(run / CONFIG_FILE, to_yaml(config))
        write_json(run / ENVIRONMENT_FILE, describe(devices) | {"processes": world.size})
        write_json(run / DATA_FILE, data.summary())
        stack.enter_context(follower)


@contextmanager
def _full_disk_as_one_line(run: Path) -> Iterator[None]:
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
        with run_lock(run):
            checkpoint.recover(run)
            world.barrier()
            yield
    finally:
        if is_new and not (run / RECIPE_FILE).exists():
            shutil.rmtree(run)


def score_training_data(recipe: Recipe, config: Config, location: str, output: Path) -> int:
    """`wmtp score`: write a reference model's cross-entropies of the training data; returns its tokens."""
    configure_torch(config.devices)
    data = load_data(recipe, Path(config.paths.cache))
    write_reference_scores(recipe, config, data, location, output)
    return len(data.train.tokens)


def write_reference_scores(recipe: Recipe, config: Config, data: Data, location: str, output: Path) -> None:
    """Score the training data with the model at `location`: a run, a model folder or a hub name."""
    device = choose_device(config.devices)
    model = str(checkpoint.resolve_model(location, "model.ref_id"))
    write_scores(
        output,
        data.train,
        load_reference(model, data.tokenizer, recipe.data.sequence_length),
        recipe,
        model_fingerprint=model_fingerprint(model),
        device=device,
        dtype=choose_dtype(config.devices, device),
    )
