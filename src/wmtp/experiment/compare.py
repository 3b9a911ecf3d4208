"""Trains and evaluates arms × seeds on the same data order and initialisation, and compares them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmtp.config import Config, Recipe, override, to_yaml
from wmtp.data.corpus import Data, load_data
from wmtp.environment import configure_torch, describe
from wmtp.errors import WMTPError
from wmtp.evaluate.runner import evaluate_run, evaluation_conditions, evaluation_path, is_evaluated
from wmtp.experiment.results import (
    ArmResult,
    Comparison,
    ReferenceResult,
    SeedResult,
    write_comparison,
    write_heatmap,
)
from wmtp.experiment.statistics import interval, mean_interval, paired_difference
from wmtp.experiment.weighted_documents import weighted_samples
from wmtp.layout import CONFIG_FILE, ENVIRONMENT_FILE, RECIPE_FILE
from wmtp.records import Evaluation, MetricsRecord, read_evaluation
from wmtp.registry import did_you_mean
from wmtp.run import Run
from wmtp.storage import write_json, write_text
from wmtp.tracking.tracker import Tracker, mlflow_follower
from wmtp.train.assemble import scorer_needs
from wmtp.train.optim import check_schedule
from wmtp.train.run import train, train_critic, write_reference_scores
from wmtp.weighting.scorers import with_settings

Say = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """An arm's recipe, and where its runs are."""

    name: str
    changes: dict[str, Any]
    recipe: Recipe

    def run(self, directory: Path, seed: int, config: Config) -> Run:
        """The run of a seed, whether or not it was trained yet."""
        recipe = override(self.recipe, {"seed": seed, "name": f"{self.name}-{seed}"}, self.name)
        return Run(directory / "arms" / self.name / f"seed-{seed}", recipe, config)

    @property
    def needs_reference(self) -> bool:
        """Whether its scorer reads a reference model, or its critic starts from one."""
        needs, critic = scorer_needs(self.recipe), self.recipe.critic
        starts_from_it = critic.backbone == "separate" and critic.base_id is None and critic.trunk != "full"
        return "reference_ce" in needs or ("values" in needs and critic.path is None and starts_from_it)

    @property
    def shared_critic(self) -> str | None:
        """What its critic is trained from, if arms and seeds can share one: a separate model does not start afresh
        with every seed, as the learner does."""
        critic = self.recipe.critic
        if (
            "values" not in scorer_needs(self.recipe)
            or critic.path is not None
            or critic.backbone == "learner"
        ):
            return None
        return "\n".join(
            [
                critic.model_dump_json(exclude={"beta"}),
                self.recipe.model.model_dump_json(exclude={"heads", "placement", "head_init"}),
                self.recipe.data.model_dump_json(exclude={"reference_scores"}),
                self.recipe.evaluate.model_dump_json(),
            ]
        )


def choose_arms(recipe: Recipe, names: Sequence[str] | None) -> list[Arm]:
    """The recipe's arms, or the named ones; always with the baseline.

    Raises:
        WMTPError: an arm is unknown, there are none, or an arm's overrides or schedule do not fit.
    """
    arms = recipe.compare.arms
    if not arms:
        raise WMTPError("compare.arms: the recipe names no arms to compare")
    wanted = list(names or arms)
    for name in [*wanted, recipe.compare.baseline]:
        if name not in arms:
            raise WMTPError(f"compare: unknown arm {name!r}; {did_you_mean(name, list(arms))}")
    if recipe.compare.baseline not in wanted:
        wanted.insert(0, recipe.compare.baseline)
    chosen = []
    for name in wanted:
        where = f"compare.arms.{name}"
        chosen.append(Arm(name, arms[name], with_settings(override(recipe, arms[name], where), where)))
    for arm in chosen:
        check_schedule(arm.recipe.train)
    return chosen


def compare(
    recipe: Recipe, config: Config, arms: Sequence[Arm], seeds: Sequence[int], say: Say
) -> tuple[Comparison, Path]:
    """Train and evaluate what is not finished yet, and put the results together.

    Every arm of a seed starts from the same initial weights (extra heads aside) and reads the same rows in the same
    order. The reference model is trained once, with the recipe's own seed.

    Args:
        say: called with a line before each part of the work.
    Returns:
        The comparison and its directory, which holds `comparison.json`, `heatmap.json` and the runs.
    Raises:
        WMTPError: the arms are not evaluated under the same conditions.
    """
    configure_torch(config.devices)
    directory = Path(config.paths.runs) / recipe.name
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / RECIPE_FILE, to_yaml(recipe))
    write_text(directory / CONFIG_FILE, to_yaml(config))
    write_json(directory / ENVIRONMENT_FILE, describe(config.devices))
    with Tracker(directory, config):
        return _compare(recipe, config, arms, seeds, say, directory), directory


def _compare(
    recipe: Recipe,
    config: Config,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    say: Say,
    directory: Path,
) -> Comparison:
    shared = _Shared(config)
    _refuse_mixed({arm.name: shared.conditions(arm.recipe) for arm in arms}, recipe.compare.baseline)
    reference = None
    if recipe.compare.reference is not None and any(arm.needs_reference for arm in arms):
        say("reference")
        reference = _train_reference(recipe, config, shared, directory)
        arms = [_with_reference(arm, directory) for arm in arms]
    arms = _with_critics(arms, config, shared, directory, say)
    runs: dict[str, list[Run]] = {arm.name: [] for arm in arms}
    for number, (seed, arm) in enumerate(product(seeds, arms), start=1):
        say(f"{arm.name}, seed {seed} ({number} of {len(arms) * len(seeds)})")
        run = arm.run(directory, seed, config)
        _train_and_evaluate(run, shared)
        runs[arm.name].append(run)
    comparison = _collect(recipe, config, arms, runs, reference, directory)
    write_comparison(comparison, directory)
    first = {name: own[0] for name, own in runs.items()}
    write_heatmap(weighted_samples(first, shared.data(recipe)), directory)
    return comparison


class _Shared:
    """Data sets and conditions of evaluation; arms share them where the settings behind them agree."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._data: dict[str, Data] = {}
        self._conditions: dict[str, dict[str, Any]] = {}

    def data(self, recipe: Recipe) -> Data:
        """The data of a recipe."""
        choice = recipe.model_dump_json(
            include={"data": True, "model": {"base_id", "architecture"}},  # which decide the tokenizer
            exclude={"data": {"reference_scores"}},
        )
        if choice not in self._data:
            self._data[choice] = load_data(recipe, Path(self._config.paths.cache))
        return self._data[choice]

    def conditions(self, recipe: Recipe) -> dict[str, Any]:
        """Conditions under which a recipe's runs are evaluated (`evaluation_conditions`)."""
        choice = recipe.model_dump_json(include={"data", "evaluate"}, exclude={"data": {"reference_scores"}})
        if choice not in self._conditions:
            self._conditions[choice] = evaluation_conditions(recipe, self._config.devices)
        return self._conditions[choice]


def _refuse_mixed(conditions: Mapping[str, dict[str, Any]], baseline: str) -> None:
    """Refuse arms that are not evaluated under the baseline's conditions: they cannot be paired.

    Args:
        conditions: by arm, or by run.
        baseline: one of them.
    """
    expected = conditions[baseline]
    for name, found in conditions.items():
        if found != expected:
            raise WMTPError(
                f"compare.arms: {name} and {baseline} are not evaluated alike ({_differences(found, expected)}) "
                f"and cannot be paired; give all arms the same problems and evaluate settings, and repeat the command"
            )


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The settings that differ, or else the other conditions that do."""
    ours, theirs = found["settings"], expected["settings"]
    settings = [f"{k}: {ours[k]} and {theirs[k]}" for k in ours if k != "changed" and ours[k] != theirs[k]]
    return ", ".join(settings or sorted(k for k in found | expected if found.get(k) != expected.get(k)))


def _train_and_evaluate(run: Run, shared: _Shared) -> None:
    conditions = shared.conditions(run.recipe)  # so that settings are refused before training
    follow, data = mlflow_follower(run.config), shared.data(run.recipe)
    train(run.recipe, run.config, run.directory, resume="auto", data=data, follow=follow)
    if not is_evaluated(run, conditions):
        evaluate_run(replace(run))  # so that the model goes with the copy


def _train_reference(recipe: Recipe, config: Config, shared: _Shared, directory: Path) -> ReferenceResult:
    """Train the reference and score the arms' training data with it, unless that is done."""
    changes = recipe.compare.reference or {}
    learner = override(recipe, {"name": "reference", **changes}, "compare.reference")
    run = Run(directory / "reference", learner, config)
    _train_and_evaluate(run, shared)
    if not (directory / "scores").exists():
        write_reference_scores(recipe, config, shared.data(recipe), str(run.directory), directory / "scores")
    return ReferenceResult(
        pass_at_1=read_evaluation(evaluation_path(run)).pass_at_1,
        validation_ce=_validation_ce(run),
        seconds=_last_step(run).seconds,
        run=run.directory.name,
    )


def _with_reference(arm: Arm, directory: Path) -> Arm:
    if not arm.needs_reference:
        return arm
    places = {
        "model.ref_id": str(directory / "reference"),
        "data.reference_scores": str(directory / "scores"),
    }
    return replace(arm, recipe=override(arm.recipe, places, arm.name))


def _with_critics(
    arms: Sequence[Arm], config: Config, shared: _Shared, directory: Path, say: Say
) -> list[Arm]:
    """Train every critic that arms share once, with the recipe's own seed, unless that is done."""
    found: dict[str, Path] = {}
    ready = []
    for arm in arms:
        kind = arm.shared_critic
        if kind is not None and kind not in found:
            say(f"critic of {arm.name}")
            run = directory / "critics" / arm.name
            found[kind] = train_critic(
                arm.recipe, config, shared.data(arm.recipe), run, mlflow_follower(config)
            )
        place = {} if kind is None else {"critic.path": str(found[kind])}
        ready.append(replace(arm, recipe=override(arm.recipe, place, arm.name)))
    return ready


def _collect(
    recipe: Recipe,
    config: Config,
    arms: Sequence[Arm],
    runs: Mapping[str, Sequence[Run]],
    reference: ReferenceResult | None,
    directory: Path,
) -> Comparison:
    baseline = recipe.compare.baseline
    seeds = [run.recipe.seed for run in runs[baseline]]
    evaluations = {name: [read_evaluation(evaluation_path(run)) for run in own] for name, own in runs.items()}
    conditions = {
        f"{name}, seed {seed}": evaluation.conditions
        for name, own in evaluations.items()
        for seed, evaluation in zip(seeds, own, strict=True)
    }
    _refuse_mixed(conditions, f"{baseline}, seed {seeds[0]}")
    passes = {
        name: np.asarray([[p.passed / p.samples for p in e.by_problem] for e in own])
        for name, own in evaluations.items()
    }
    first = evaluations[baseline][0]
    problems = {tuple(p.task_id for p in e.by_problem) for own in evaluations.values() for e in own}
    if len(problems) > 1:
        raise WMTPError("compare.arms: the arms were evaluated on different problems and cannot be paired")
    return Comparison(
        name=recipe.name,
        task=first.task,
        protocol=first.protocol,
        baseline=baseline,
        seeds=seeds,
        steps=recipe.train.steps,
        problems=first.problems,
        arms=[
            _arm_result(arm, runs[arm.name], evaluations[arm.name], passes, baseline, directory)
            for arm in arms
        ],
        reference=reference,
        conditions=_conditions(recipe, config),
    )


def _arm_result(
    arm: Arm,
    runs: Sequence[Run],
    evaluations: Sequence[Evaluation],
    passes: Mapping[str, NDArray[np.float64]],
    baseline: str,
    directory: Path,
) -> ArmResult:
    trained = [_last_step(run) for run in runs]
    ce = [_validation_ce(run) for run in runs]
    decoding = [e.decoding for e in evaluations if e.decoding is not None]
    verdicts = Counter[str]()
    for evaluation in evaluations:
        verdicts.update(evaluation.verdicts)
    return ArmResult(
        name=arm.name,
        description=arm.changes,
        pass_at_1=interval(passes[arm.name]),
        difference=None if arm.name == baseline else paired_difference(passes[arm.name], passes[baseline]),
        validation_ce=mean_interval(ce),
        tokens_per_forward=_mean([d.tokens_per_forward for d in decoding]) if decoding else None,
        acceptance=[_mean(shares) for shares in zip(*(d.acceptance for d in decoding), strict=False)]
        if decoding
        else None,
        training_tokens_per_second=_mean([t.tokens / t.seconds for t in trained]),
        training_seconds=_mean([t.seconds for t in trained]),
        training_tokens=round(_mean([t.tokens for t in trained])),
        by_seed=[
            SeedResult(run.recipe.seed, e.pass_at_1, c, str(run.directory.relative_to(directory)))
            for run, e, c in zip(runs, evaluations, ce, strict=True)
        ],
        verdicts=dict(verdicts),
    )


def _conditions(recipe: Recipe, config: Config) -> dict[str, Any]:
    found = describe(config.devices)
    kept = ("wmtp", "torch", "processor", "cores", "threads", "device", "precision")
    conditions = {"date": date.today().isoformat(), **{key: found[key] for key in kept}}
    if recipe.data.source == "tinycode":
        conditions["noise"] = recipe.data.tinycode.noise
    return conditions


def _validation_ce(run: Run) -> float:
    """Of head 0, at the last validation."""
    ce = _last(run, "validation", run.metrics.validation).ce[0]
    if ce is None:
        raise WMTPError(
            f"{run.directory}: its last validation loss is not finite, so the arms cannot be compared; lower train.lr"
        )
    return ce


def _last_step(run: Run) -> MetricsRecord:
    return _last(run, "train", run.metrics.train)


def _last(run: Run, kind: str, records: Sequence[MetricsRecord]) -> MetricsRecord:
    if not records:
        raise WMTPError(
            f"{run.directory}/metrics.jsonl: holds no {kind} record; delete the run and repeat the comparison"
        )
    return records[-1]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
