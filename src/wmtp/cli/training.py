"""Commands that train, or prepare data for training."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wmtp.cli.options import (
    ConfigFile,
    Consent,
    Overrides,
    RecipeFile,
    RunFolder,
    load_recipe,
    open_run,
    show_next,
    show_next_of_comparison,
    track,
)
from wmtp.errors import WMTPError
from wmtp.rank import is_first_process

if TYPE_CHECKING:
    from wmtp.config import Config, Recipe


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    config: ConfigFile = None,
    resume: Annotated[
        str,
        typer.Option(
            help="Resume from the newest good checkpoint (auto), from a checkpoint folder, or never."
        ),
    ] = "never",
    nproc: Annotated[
        int | None, typer.Option("--nproc", min=1, help="Processes on this machine; one per GPU.")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="With --nproc: restart after this many crashes at most.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan; do not train.")
    ] = False,
) -> None:
    """Train a model as a recipe says."""
    from wmtp.cli.console import console
    from wmtp.report.terminal import run_summary

    found, environment = load_recipe(recipe, overrides, config)
    if dry_run:
        _dry_run(found, environment)
        return
    if max_restarts and nproc is None:
        raise WMTPError("--max-restarts: only valid with --nproc; torchrun has an option of that name itself")
    if max_restarts and resume not in ("auto", "never"):
        raise WMTPError(
            f"--max-restarts: goes with --resume auto; with {resume} every restart would begin there again"
        )
    if nproc is not None:
        from wmtp.train.launch import launch

        again = ["train", recipe, *(overrides or []), "--resume", resume]
        again += ["--config", str(config)] if config is not None else []
        sys.exit(
            launch(nproc, again, max_restarts=max_restarts, stop_timeout=environment.devices.stop_timeout)
        )
    from wmtp.run import Run
    from wmtp.tracking.tracker import mlflow_follower
    from wmtp.train.run import train as run_training

    run = Path(environment.paths.runs) / found.name
    last = run_training(found, environment, run, resume, follow=mlflow_follower(environment), extend=True)
    if not is_first_process():
        return
    console().print(run_summary(Run(run, found, environment)))
    print(f"saved {last}")
    show_next(
        f"wmtp evaluate {run} --allow-code-execution",
        f"wmtp report {run}",
        f"wmtp export {run} --output {found.name}-model",
    )


def score(
    recipe: Annotated[str, typer.Argument(help="Recipe, or with --diagnose a run.")],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="Folder to write the scores to.")] = Path("scores"),
    model: Annotated[
        str | None, typer.Option(help="Reference model; by default the recipe's model.ref_id.")
    ] = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Show how well scorers find tinycode's planted errors instead.")
    ] = False,
    scorers: Annotated[
        str | None, typer.Option(help="With --diagnose: only these scorers, like a,b.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Write the reference model's cross-entropy of every training token; or diagnose scorers."""
    if diagnose:
        _diagnose(Path(recipe), overrides, scorers, config)
        return
    if scorers is not None:
        raise WMTPError("--scorers: only valid with --diagnose")
    found, environment = load_recipe(recipe, overrides, config)
    from wmtp.train.run import score_training_data

    location = model or found.model.ref_id
    if location is None:
        raise WMTPError("score: name the reference with --model, or set model.ref_id in the recipe")
    tokens = score_training_data(found, environment, location, output)
    print(f"scored {tokens:,} tokens with {location}: {output}")
    show_next(f"wmtp train {recipe} scorer=rho1-excess-v1 data.reference_scores={output}")


def sample(
    run: RunFolder,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="JSONL file to write.")] = Path("answers.jsonl"),
    per_prompt: Annotated[int, typer.Option(min=2, help="Completions of each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.01, help="Sampling temperature.")] = 0.8,
    limit: Annotated[int, typer.Option(min=1, help="Number of prompts at most.")] = 1000,
    config: ConfigFile = None,
) -> None:
    """Write several completions of each training prompt, for scorers and critics that compare answers."""
    opened = open_run(run, overrides, config)
    from wmtp.experiment.sampling import sample_answers

    count = sample_answers(opened, output, per_prompt=per_prompt, temperature=temperature, limit=limit)
    print(f"sampled {count:,} completions: {output}")
    show_next(
        f"wmtp train {run / 'recipe.yaml'} name=grpo scorer=grpo-v1 data.source={output} data.validation=0.05 "
        "'data.fields={prompt: prompt, completion: completion}' critic.reward=verifier "
        "evaluate.allow_code_execution=true"
    )


def compare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    arms: Annotated[str | None, typer.Option(help="Only these arms of the recipe, like a,b.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Number of seeds, or the seeds: 5 or 0,1,7.")] = None,
    allow_code_execution: Consent = False,
    config: ConfigFile = None,
) -> None:
    """Train several arms over several seeds, evaluate each, and show who won and by how much."""
    from wmtp.cli.console import console
    from wmtp.report.terminal import comparison_table

    found, environment = load_recipe(recipe, overrides, config, allow_code_execution)
    from wmtp.evaluate.judging import require_consent
    from wmtp.experiment.compare import choose_arms
    from wmtp.experiment.compare import compare as run_comparison
    from wmtp.report.html import write_comparison_report

    require_consent(found.evaluate)
    chosen = choose_arms(found, arms.split(",") if arms else None)
    output = console()
    comparison, directory = run_comparison(
        found, environment, chosen, _seeds(seeds, found.compare.seeds), lambda line: output.print(f"· {line}")
    )
    report_path = write_comparison_report(directory)
    track(directory, environment)
    output.print(comparison_table(comparison))
    print(f"report: {report_path}")
    show_next_of_comparison(directory, comparison)


def _dry_run(recipe: "Recipe", config: "Config") -> None:
    from wmtp.cli.console import console, plan_table
    from wmtp.config import to_yaml
    from wmtp.train.run import plan

    print(f"# recipe.yaml\n{to_yaml(recipe)}\n# config.yaml\n{to_yaml(config)}")
    console().print(plan_table(plan(recipe, config)))


def _diagnose(run: Path, overrides: list[str] | None, scorers: str | None, config: Path | None) -> None:
    from wmtp.cli.console import console, diagnosis_table

    opened = open_run(run, overrides, config)
    from wmtp.experiment.diagnose import diagnose

    diagnoses, reasons = diagnose(opened, scorers.split(",") if scorers else None)
    console().print(diagnosis_table(diagnoses))
    for name, reason in reasons.items():
        print(f"could not run: {name}: {reason}")
    show_next(f"wmtp inspect {run} --scorer {diagnoses[0].scorer} --html weights.html")


def _seeds(text: str | None, default: list[int]) -> list[int]:
    if text is None:
        return default
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal()]
    is_count = len(parts) == 1
    if len(set(numbers)) < len(parts) or (is_count and numbers == [0]):
        raise WMTPError(f"--seeds {text}: should be a number of seeds from 1, or seeds like 0,1,7")
    return list(range(numbers[0])) if is_count else numbers
