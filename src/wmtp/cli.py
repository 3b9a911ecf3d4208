"""The `wmtp` command. Heavy imports stand inside the commands, so that help is instant."""

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wmtp import __version__
from wmtp.errors import WMTPError
from wmtp.train.signals import Stopped
from wmtp.train.worker import (
    RankLost,
    end_with_launcher,
    is_first_process,
    leave,
    started_by_torchrun,
)
from wmtp.train.worker import (
    report as report_end,
)

if TYPE_CHECKING:
    from wmtp.config import Config, Recipe

app = typer.Typer(
    help="Weighted multi-token prediction: train, decode, execute and compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeFile = Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped recipe.")]
RunFolder = Annotated[Path, typer.Argument(help="Run directory.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change: key.sub=value …")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Environment file (paths, devices).")]
Consent = Annotated[bool, typer.Option("--allow-code-execution", help="Run what the model writes.")]


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and status 2.

    Status 1: another process was lost, repeat with --resume auto. 75: a scheduler's signal came and the run is saved.
    """
    end_with_launcher()
    try:
        app()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except WMTPError as error:
        is_lost = isinstance(error, RankLost)
        report_end(f"wmtp: {error}", is_consequence=is_lost)
        _leave(1 if is_lost else 2)
    except Stopped as stop:
        if is_first_process():
            print(
                f"stopped; saved {stop.where}; repeat the command to go on (train: --resume auto)",
                file=sys.stderr,
            )
        _leave(stop.exit_status)
    except KeyboardInterrupt:
        if is_first_process():
            print("stopped", file=sys.stderr)
        _leave(130)
    except Exception:
        if not started_by_torchrun():
            raise
        report_end(traceback.format_exc())
        leave(1)


def _leave(status: int) -> NoReturn:
    if started_by_torchrun():
        leave(status)
    sys.exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"wmtp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    command = context.invoked_subcommand
    if started_by_torchrun() and command != "train":
        raise WMTPError(f"{command}: runs in one process; of all commands only train goes with torchrun")


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    config: ConfigFile = None,
    resume: Annotated[str, typer.Option(help="auto, never, or a checkpoint folder.")] = "never",
    nproc: Annotated[
        int | None, typer.Option("--nproc", min=1, help="Processes on this machine; one per GPU.")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="With --nproc: go on after this many crashes.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved files and the plan.")
    ] = False,
) -> None:
    """Train a model."""
    from wmtp.console import console
    from wmtp.report.terminal import run_summary

    found, environment = _load(recipe, overrides, config)
    if dry_run:
        _dry_run(found, environment)
        return
    if max_restarts and nproc is None:
        raise WMTPError("--max-restarts: goes with --nproc; torchrun has an option of that name itself")
    if nproc is not None:
        from wmtp.train.launch import launch

        again = ["train", recipe, *(overrides or []), "--resume", resume]
        again += ["--config", str(config)] if config is not None else []
        sys.exit(
            launch(nproc, again, max_restarts=max_restarts, stop_timeout=environment.devices.stop_timeout)
        )
    from wmtp.train.run import train as run_training

    run = Path(environment.paths.runs) / found.name
    last = run_training(found, environment, run, resume)
    if not is_first_process():
        return
    console().print(run_summary(run))
    print(f"saved {last}")
    _next(
        f"wmtp evaluate {run} --allow-code-execution",
        f"wmtp report {run}",
        f"wmtp export {run} --output {found.name}-model",
    )


@app.command()
def score(
    recipe: Annotated[str, typer.Argument(help="Recipe; with --diagnose, a run.")],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="Folder to write the scores to.")] = Path("scores"),
    model: Annotated[
        str | None, typer.Option(help="Reference model; else the recipe's model.ref_id.")
    ] = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Show how well scorers find the planted errors of tinycode.")
    ] = False,
    scorers: Annotated[
        str | None, typer.Option(help="With --diagnose: some scorers, separated by commas.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Write a reference model's cross-entropy of every training token; or diagnose scorers."""
    if diagnose:
        _diagnose(Path(recipe), overrides, scorers, config)
        return
    if scorers is not None:
        raise WMTPError("--scorers: goes with --diagnose")
    found, environment = _load(recipe, overrides, config)
    from wmtp.train.run import score_training_data

    location = model or found.model.ref_id
    if location is None:
        raise WMTPError("score: name the reference with --model, or set model.ref_id in the recipe")
    header = score_training_data(found, environment, location, output)
    print(f"scored {header.tokens:,} tokens with {location}: {output}")
    _next(f"wmtp train {recipe} train.algo=rho1-wmtp data.reference_scores={output}")


@app.command()
def evaluate(
    run: Annotated[str | None, typer.Argument(help="Run directory; none with --samples.")] = None,
    overrides: Overrides = None,
    task: Annotated[
        str | None, typer.Option(help="Another task than the recipe's, under a protocol of its own.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Score the completions in a file: JSONL of task_id and completion.")
    ] = None,
    k: Annotated[
        str | None, typer.Option(help="With --samples: of pass@k, like 1,5; else those of 1,10,100 that fit.")
    ] = None,
    allow_code_execution: Consent = False,
    heads: Annotated[
        bool, typer.Option("--heads", help="Instead: accuracy and perplexity of every head.")
    ] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Instead: what drafting saves, by heads and batch size.")
    ] = False,
    batch_sizes: Annotated[
        str | None, typer.Option(help="With --speed: prompts at once, like 1,8; else evaluate.batch_size.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="With --speed: timed repetitions (3).")] = None,
    lm_eval: Annotated[
        str | None, typer.Option("--lm-eval", help="Instead: tasks of lm-evaluation-harness, like a,b.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Generate solutions, execute them in the sandbox, and report pass@k; or score completions made elsewhere."""
    from wmtp.console import console, evaluation_table

    measures = heads or speed or lm_eval is not None
    if not speed and (batch_sizes is not None or repeats is not None):
        raise WMTPError("--batch-sizes and --repeats: go with --speed")
    if samples is not None and measures:
        raise WMTPError("--samples: goes without --heads, --speed and --lm-eval")
    if samples is not None:
        words = [*([run] if run is not None else []), *(overrides or [])]
        _evaluate_samples(samples, task, words, k, config, allow_code_execution)
        return
    if k is not None:
        raise WMTPError("--k: goes with --samples; else set evaluate.k")
    if run is None:
        raise WMTPError("evaluate: name a run, or a file of completions with --samples")
    directory = Path(run)
    changes = [*_other_task(task), *(overrides or [])]
    found, environment = _load_run(directory, changes, config, allow_code_execution)
    if measures:
        if heads:
            _measure_heads(directory, found, environment)
        if speed:
            _measure_speed(directory, found, environment, batch_sizes, repeats or 3)
        if lm_eval is not None:
            _run_lm_eval(directory, found, environment, lm_eval)
        _track(directory, environment)
        return
    from wmtp.evaluate.runner import evaluate_run

    console().print(evaluation_table(evaluate_run(directory, found, environment)))
    _track(directory, environment)
    _next(f"wmtp report {run}", f"wmtp generate {run} --problem 0")


@app.command()
def generate(
    run: RunFolder,
    prompt: Annotated[str | None, typer.Option(help="Text to continue.")] = None,
    problem: Annotated[int | None, typer.Option(help="Or the number of a problem of the run's task.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most probable tokens.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the fewest tokens that are this probable.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    config: ConfigFile = None,
) -> None:
    """Continue a prompt, live: accepted drafts of the extra heads in colour, refused ones struck out."""
    from wmtp.console import console

    found, environment = _load_run(run, None, config)
    from wmtp.decode.sampling import Sampling
    from wmtp.decode.show import show_generation

    sampling = Sampling(temperature, top_p, seed)
    show_generation(console(), run, found, environment, prompt, problem, max_new_tokens, sampling)


@app.command()
def sample(
    run: RunFolder,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="JSONL file to write.")] = Path("answers.jsonl"),
    per_prompt: Annotated[int, typer.Option(min=2, help="Completions of each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.01)] = 0.8,
    limit: Annotated[int, typer.Option(min=1, help="Prompts at most.")] = 1000,
    config: ConfigFile = None,
) -> None:
    """Write several completions of each training prompt, for scorers and critics that compare answers."""
    found, environment = _load_run(run, overrides, config)
    from wmtp.experiment.sampling import sample_answers

    count = sample_answers(
        run, found, environment, output, per_prompt=per_prompt, temperature=temperature, limit=limit
    )
    print(f"sampled {count:,} completions: {output}")
    _next(
        f"wmtp train {run / 'recipe.yaml'} name=grpo train.scorer=grpo-v1 data.source={output} data.validation=0.05 "
        "'data.fields={prompt: prompt, completion: completion}' critic.reward=verifier "
        "evaluate.allow_code_execution=true"
    )


@app.command()
def compare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    arms: Annotated[str | None, typer.Option(help="Some of the recipe's arms, separated by commas.")] = None,
    seeds: Annotated[str | None, typer.Option(help="How many seeds, or their numbers: 5 or 0,1,7.")] = None,
    allow_code_execution: Consent = False,
    config: ConfigFile = None,
) -> None:
    """Train several arms over several seeds, evaluate each, and show who won and by how much."""
    from wmtp.console import console
    from wmtp.report.terminal import comparison_table

    found, environment = _load(recipe, overrides, config, allow_code_execution)
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
    _track(directory, environment)
    output.print(comparison_table(comparison))
    print(f"report: {report_path}")
    _next(f"wmtp generate {directory / comparison.arms[-1].by_seed[0].run} --problem 0")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run, or one of its checkpoints.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("model"),
    next_token_only: Annotated[
        bool,
        typer.Option("--next-token-only", help="Without extra heads: a plain model that any tool loads."),
    ] = False,
) -> None:
    """Write a model as a folder of transformers, with consolidated safetensors."""
    from wmtp.model.export import export_run

    print(f"exported {export_run(run, output, next_token_only)}: {output}")


@app.command()
def mlflow(
    directory: Annotated[Path, typer.Argument(help="A run or a comparison.")], config: ConfigFile = None
) -> None:
    """Deliver to MLflow what a run or a comparison has recorded and MLflow does not have yet."""
    _, environment = _load_run(directory, None, config)
    from wmtp.tracking.deliver import deliver_all

    print(deliver_all(directory, environment, print))


@app.command()
def register(
    directory: Annotated[Path, typer.Argument(help="A run, or a comparison whose best arm to register.")],
    name: Annotated[str, typer.Option(help="Registered model in MLflow.")],
    force: Annotated[bool, typer.Option("--force", help="Make it the champion in any case.")] = False,
    config: ConfigFile = None,
) -> None:
    """Register a model in MLflow; a comparison's best arm becomes champion if it beats the present one."""
    _, environment = _load_run(directory, None, config)
    from wmtp.model.export import export_run
    from wmtp.tracking.models import register as register_model

    print(register_model(directory, name, environment, export_run, force=force))


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="A run or a comparison.")]) -> None:
    """Write report.html: one self-contained page."""
    from wmtp.experiment.results import COMPARISON_FILE
    from wmtp.report.html import write_comparison_report, write_run_report

    if not directory.is_dir():
        raise WMTPError(f"{directory}: no such run directory")
    is_comparison = (directory / COMPARISON_FILE).exists()
    print(write_comparison_report(directory) if is_comparison else write_run_report(directory))
    if (directory / "recipe.yaml").exists():
        _track(directory, _load_run(directory, None, None)[1])


@app.command()
def inspect(
    run: RunFolder,
    overrides: Overrides = None,
    text: Annotated[str | None, typer.Option(help="Text whose tokens to weigh.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Or the number of a training document.")] = 0,
    scorer: Annotated[str | None, typer.Option(help="Another scorer than the run's.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
    config: ConfigFile = None,
) -> None:
    """Show the weight of every token of a text or of a training document."""
    from wmtp.console import console
    from wmtp.report.terminal import render_token_weights, weight_legend

    changes = [*(overrides or []), *([f"train.scorer={scorer}"] if scorer else [])]
    found, environment = _load_run(run, changes, config)
    from wmtp.experiment.samples import inspect_document

    shown = inspect_document(run, found, environment, text, sample)
    arm = next(iter(shown.weights))
    console().print(render_token_weights(shown, arm), weight_legend(), sep="\n\n")
    if html is not None:
        from wmtp.report.html import write_inspect_html

        print(write_inspect_html([shown], html))


@app.command("ls")
def list_names(
    what: Annotated[str, typer.Argument(help="scorers, tasks, protocols, sources, recipes, or all.")] = "all",
) -> None:
    """List what can be named in a recipe."""
    from wmtp.catalogue import catalogue
    from wmtp.registry import did_you_mean

    known = catalogue()
    if what != "all" and what not in known:
        raise WMTPError(f"ls: nothing is called {what!r}; {did_you_mean(what, [*known, 'all'])}")
    for kind, names in known.items():
        if what in ("all", kind):
            print(f"{kind}:")
            for name, about in names.items():
                print(f"  {name:<18} {about}")


@app.command()
def env(config: ConfigFile = None) -> None:
    """Print versions, hardware and isolation, ready to paste into a bug report."""
    from wmtp.config import load
    from wmtp.environment import describe
    from wmtp.evaluate.sandbox import describe as describe_sandbox

    _, environment = load(None, config)
    for name, value in describe(environment.devices).items():
        print(f"{name}: {value}")
    sandbox = describe_sandbox()
    unavailable = sandbox.pop("unavailable")
    for name, value in sandbox.items():
        print(f"sandbox {name}: {value}")
    for level, reason in unavailable.items():
        print(f"sandbox without {level}: {reason}")


def _load(
    recipe: str, overrides: list[str] | None, config: Path | None, consent: bool = False
) -> "tuple[Recipe, Config]":
    from wmtp.catalogue import find_recipe
    from wmtp.config import load

    return load(find_recipe(recipe), config, [*(overrides or []), *_consent(consent)])


def _load_run(
    run: Path, overrides: list[str] | None, config: Path | None, consent: bool = False
) -> "tuple[Recipe, Config]":
    from wmtp.config import load

    if not (run / "recipe.yaml").exists():
        raise WMTPError(f"{run}: not a run directory (no recipe.yaml)")
    saved = run / "config.yaml"
    return load(run / "recipe.yaml", config or saved, [*(overrides or []), *_consent(consent)])


def _track(directory: Path, config: "Config") -> None:
    """Deliver to MLflow what a command has just added, if MLflow is enabled."""
    from wmtp.tracking.tracker import Tracker

    with Tracker(directory, config, live=False):
        pass


def _consent(given: bool) -> list[str]:
    return ["evaluate.allow_code_execution=true"] if given else []


def _other_task(task: str | None) -> list[str]:
    """Overrides for another task: what the recipe says of its own task's protocol and data does not count."""
    from wmtp.config import PROTOCOL_KEYS

    if task is None:
        return []
    forgotten = [f"evaluate.{key}=null" for key in ("protocol", "data", *PROTOCOL_KEYS)]
    return [*forgotten, f"evaluate.task={task}"]


def _evaluate_samples(
    samples: Path,
    task: str | None,
    overrides: list[str],
    k: str | None,
    config: Path | None,
    consent: bool,
) -> None:
    from wmtp.config import load
    from wmtp.console import console, evaluation_table

    if overrides and "=" not in overrides[0]:
        raise WMTPError(f"--samples: goes without a run ({overrides[0]}); name the task with --task")
    if task is None:
        raise WMTPError("--samples: say with --task which task the completions are for")
    found, _ = load(None, config, [*_other_task(task), *overrides, *_consent(consent)])
    from wmtp.evaluate.foreign import evaluate_samples

    wanted = None if k is None else _whole_numbers("--k", k)
    console().print(evaluation_table(evaluate_samples(samples, found, wanted)))
    print(f"results: {samples}_results.jsonl")


def _whole_numbers(option: str, text: str) -> list[int]:
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if 0 in numbers:
        raise WMTPError(f"{option} {text}: should be whole numbers from 1, separated by commas")
    return numbers


def _diagnose(run: Path, overrides: list[str] | None, scorers: str | None, config: Path | None) -> None:
    from wmtp.console import console, diagnosis_table

    found, environment = _load_run(run, overrides, config)
    from wmtp.experiment.diagnose import diagnose

    diagnoses, reasons = diagnose(found, environment, run, scorers.split(",") if scorers else None)
    console().print(diagnosis_table(diagnoses))
    for name, reason in reasons.items():
        print(f"not asked: {name}: {reason}")
    _next(f"wmtp inspect {run} --scorer {diagnoses[0].scorer} --html weights.html")


def _measure_heads(run: Path, recipe: "Recipe", config: "Config") -> None:
    from wmtp.console import console
    from wmtp.evaluate.heads import evaluate_heads
    from wmtp.report.measures import for_terminal, heads_table

    console().print(for_terminal(heads_table(evaluate_heads(run, recipe, config))))


def _measure_speed(
    run: Path, recipe: "Recipe", config: "Config", batch_sizes: str | None, repeats: int
) -> None:
    from wmtp.console import console
    from wmtp.evaluate.speed import evaluate_speed
    from wmtp.report.measures import for_terminal, speed_table

    sizes = [recipe.evaluate.batch_size]
    if batch_sizes is not None:
        try:
            sizes = [int(part) for part in batch_sizes.split(",")]
        except ValueError:
            sizes = [0]
        if min(sizes) < 1:
            raise WMTPError(f"--batch-sizes {batch_sizes}: should be numbers above 0, like 1,8,64")
    console().print(for_terminal(speed_table(evaluate_speed(run, recipe, config, sizes, repeats))))


def _run_lm_eval(run: Path, recipe: "Recipe", config: "Config", tasks: str) -> None:
    from importlib.util import find_spec

    from wmtp.console import console
    from wmtp.report.measures import for_terminal, lm_eval_table

    if find_spec("lm_eval") is None:
        raise WMTPError("--lm-eval: lm_eval is not installed; pip install 'wmtp[lm-eval]'")
    from wmtp.evaluate.lm_eval import evaluate_lm_eval

    console().print(for_terminal(lm_eval_table(evaluate_lm_eval(run, recipe, config, tasks.split(",")))))


def _dry_run(recipe: "Recipe", config: "Config") -> None:
    from wmtp.config import to_yaml
    from wmtp.console import console, plan_table
    from wmtp.train.run import plan

    print(f"# recipe.yaml\n{to_yaml(recipe)}\n# config.yaml\n{to_yaml(config)}")
    console().print(plan_table(plan(recipe, config)))


def _seeds(text: str | None, default: list[int]) -> list[int]:
    if text is None:
        return default
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise WMTPError(f"--seeds {text}: should be a number of seeds, or seeds like 0,1,7") from None
    return numbers if "," in text else list(range(numbers[0]))


def _next(*commands: str) -> None:
    print("next: " + "\n      ".join(commands))


if __name__ == "__main__":
    main()
