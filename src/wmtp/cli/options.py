"""Arguments and options that several commands share, and how they become a recipe and an environment."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wmtp.errors import WMTPError
from wmtp.layout import CONFIG_FILE, RECIPE_FILE

if TYPE_CHECKING:
    from wmtp.config import Config, Recipe
    from wmtp.experiment.results import Comparison

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

    return load(find_recipe(recipe), config, [*(overrides or []), *consent_overrides(consent)])


def load_run(
    run: Path, overrides: list[str] | None, config: Path | None, consent: bool = False
) -> "tuple[Recipe, Config]":
    from wmtp.config import load

    if not (run / RECIPE_FILE).exists():
        raise WMTPError(f"{run}: not a run directory (no recipe.yaml)")
    saved = run / CONFIG_FILE
    return load(run / RECIPE_FILE, config or saved, [*(overrides or []), *consent_overrides(consent)])


def consent_overrides(given: bool) -> list[str]:
    return ["evaluate.allow_code_execution=true"] if given else []


def track(directory: Path, config: "Config") -> None:
    """Deliver to MLflow what a command has just added, if MLflow is enabled."""
    from wmtp.tracking.tracker import Tracker

    with Tracker(directory, config, live=False):
        pass


def show_next(*commands: str) -> None:
    print("next: " + "\n      ".join(commands))


def show_next_of_comparison(directory: Path, comparison: "Comparison") -> None:
    show_next(f"wmtp generate {directory / comparison.arms[-1].by_seed[0].run} --problem 0")
