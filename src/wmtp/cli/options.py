"""Arguments and options that several commands share, and how they become a recipe and an environment."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wmtp.errors import WMTPError
from wmtp.layout import RECIPE_FILE

if TYPE_CHECKING:
    from wmtp.config import Config, Recipe
    from wmtp.experiment.results import Comparison
    from wmtp.run import Run

RecipeFile = Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped recipe.")]
RunFolder = Annotated[Path, typer.Argument(help="Run directory.")]
RunOrComparison = Annotated[Path, typer.Argument(help="Directory of a run or a comparison.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change: key.sub=value …")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Environment file (paths, devices).")]
Consent = Annotated[
    bool, typer.Option("--allow-code-execution", help="Consent to running code that the model writes.")
]


def load_recipe(
    recipe: str, overrides: list[str] | None, config: Path | None, consent: bool = False
) -> "tuple[Recipe, Config]":
    from wmtp.cli.catalogue import find_recipe
    from wmtp.config import load
    from wmtp.evaluate.tasks import settings_of
    from wmtp.weighting.scorers import with_settings

    path, given = find_recipe(recipe), [*(overrides or []), *consent_overrides(consent)]
    found, environment = load(path, config, given)
    settings_of(found.evaluate)  # before any work
    return with_settings(found, str(path), given), environment


def open_run(
    directory: Path, overrides: list[str] | None, config: Path | None, consent: bool = False
) -> "Run":
    from wmtp.config import concerns_scorer
    from wmtp.run import Run
    from wmtp.weighting.scorers import with_settings

    given = [*(overrides or []), *consent_overrides(consent)]
    run = Run.open(directory, given, config)
    if not any(concerns_scorer(override.partition("=")[0]) for override in given):
        return run  # whose scorer may not be here any more, and need not
    return replace(run, recipe=with_settings(run.recipe, str(directory / RECIPE_FILE), given))


def consent_overrides(given: bool) -> list[str]:
    return ["evaluate.allow_code_execution=true"] if given else []


def track(directory: Path, config: "Config") -> None:
    """Deliver to MLflow what a command has just added, if MLflow is enabled."""
    if not config.mlflow.enabled:
        return
    from wmtp.progress import working
    from wmtp.tracking.deliver import deliver_all

    try:
        with working("deliver to MLflow"):
            deliver_all(directory, config)
    except WMTPError as error:
        print(f"{error}; deliver with: wmtp mlflow {directory}", file=sys.stderr)


def show_next(*commands: str) -> None:
    print("next: " + "\n      ".join(commands))


def show_next_of_comparison(directory: Path, comparison: "Comparison") -> None:
    show_next(f"wmtp generate {directory / comparison.arms[-1].by_seed[0].run} --problem 0")
