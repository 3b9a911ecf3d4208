"""Commands that decode, execute and measure."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wmtp.cli.options import (
    ConfigFile,
    Consent,
    Overrides,
    RunFolder,
    consent_overrides,
    open_run,
    show_next,
    track,
)
from wmtp.errors import WMTPError

if TYPE_CHECKING:
    from wmtp.run import Run


def evaluate(
    run: Annotated[str | None, typer.Argument(help="Run directory; none with --samples.")] = None,
    overrides: Overrides = None,
    task: Annotated[
        str | None, typer.Option(help="Evaluate this task, not the recipe's, under its own protocol.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Score completions from a JSONL file of task_id and completion.")
    ] = None,
    k: Annotated[
        str | None,
        typer.Option(help="With --samples: k of pass@k, like 1,5; by default 1,10,100 as far as they fit."),
    ] = None,
    allow_code_execution: Consent = False,
    heads: Annotated[
        bool, typer.Option("--heads", help="Measure accuracy and perplexity of every head instead.")
    ] = False,
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Measure the time drafting saves instead, by heads and batch size."),
    ] = False,
    batch_sizes: Annotated[
        str | None, typer.Option(help="With --speed: batch sizes, like 1,8; by default evaluate.batch_size.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="With --speed: timed runs of each (3).")] = None,
    lm_eval: Annotated[
        str | None, typer.Option("--lm-eval", help="Run tasks of lm-evaluation-harness instead, like a,b.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Generate solutions, execute them in the sandbox, and report pass@k; or score completions made elsewhere."""
    from wmtp.cli.console import console, evaluation_table

    measures = heads or speed or lm_eval is not None
    if not speed and (batch_sizes is not None or repeats is not None):
        raise WMTPError("--batch-sizes and --repeats: only valid with --speed")
    if samples is not None and measures:
        raise WMTPError("--samples: cannot be combined with --heads, --speed or --lm-eval")
    if samples is not None:
        words = [*([run] if run is not None else []), *(overrides or [])]
        _evaluate_samples(samples, task, words, k, config, allow_code_execution)
        return
    if k is not None:
        raise WMTPError("--k: only valid with --samples; otherwise set evaluate.k")
    if run is None:
        raise WMTPError("evaluate: name a run, or a file of completions with --samples")
    changes = [*_other_task(task), *(overrides or [])]
    opened = open_run(Path(run), changes, config, allow_code_execution)
    if measures:
        if heads:
            _measure_heads(opened)
        if speed:
            _measure_speed(opened, batch_sizes, repeats or 3)
        if lm_eval is not None:
            _run_lm_eval(opened, lm_eval)
        track(opened.directory, opened.config)
        show_next(f"wmtp report {run}")
        return
    from wmtp.evaluate.runner import evaluate_run

    console().print(evaluation_table(evaluate_run(opened)))
    track(opened.directory, opened.config)
    is_own_task = not any(change.startswith("evaluate.task=") for change in changes)
    show_next(f"wmtp report {run}", *([f"wmtp generate {run} --problem 0"] if is_own_task else []))


def generate(
    run: RunFolder,
    prompt: Annotated[str | None, typer.Option(help="Text to continue; - reads standard input.")] = None,
    problem: Annotated[
        int | None, typer.Option(help="Number of a problem of the run's task, instead of --prompt.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set of tokens this probable.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed for sampling.")] = 0,
    config: ConfigFile = None,
) -> None:
    """Continue a prompt live, with accepted drafts of the extra heads coloured and refused ones struck out."""
    from wmtp.cli.console import console

    opened = open_run(run, None, config)
    from wmtp.cli.generation import show_generation
    from wmtp.decode.options import DecodeOptions

    options = DecodeOptions(max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, heads=None)
    show_generation(console(), opened, prompt, problem, options)


def _other_task(task: str | None) -> list[str]:
    """Overrides for another task, which clear the settings for the protocol and data of the recipe's own."""
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
    from wmtp.cli.console import console, evaluation_table
    from wmtp.config import load

    if overrides and "=" not in overrides[0]:
        raise WMTPError(f"--samples: takes no run ({overrides[0]}); name the task with --task")
    if task is None:
        raise WMTPError("--samples: name the task of the completions with --task")
    found, environment = load(None, config, [*_other_task(task), *overrides, *consent_overrides(consent)])
    from wmtp.evaluate.foreign import evaluate_samples

    wanted = None if k is None else _whole_numbers("--k", k)
    console().print(evaluation_table(evaluate_samples(samples, found, Path(environment.paths.cache), wanted)))
    print(f"results: {samples}_results.jsonl, {samples}_evaluation.json")
    show_next(shlex.join(["wmtp", "evaluate", "RUN", "--task", task, *overrides, "--allow-code-execution"]))


def _whole_numbers(option: str, text: str) -> list[int]:
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if 0 in numbers:
        raise WMTPError(f"{option} {text}: should be whole numbers from 1, separated by commas")
    return numbers


def _measure_heads(run: "Run") -> None:
    from wmtp.cli.console import console
    from wmtp.evaluate.heads import evaluate_heads
    from wmtp.report.measures import for_terminal, heads_table

    console().print(for_terminal(heads_table(evaluate_heads(run))))


def _measure_speed(run: "Run", batch_sizes: str | None, repeats: int) -> None:
    from wmtp.cli.console import console
    from wmtp.evaluate.speed import evaluate_speed
    from wmtp.report.measures import for_terminal, speed_table

    own = run.recipe.evaluate.batch_size
    sizes = [own] if batch_sizes is None else _whole_numbers("--batch-sizes", batch_sizes)
    console().print(for_terminal(speed_table(evaluate_speed(run, sizes, repeats))))


def _run_lm_eval(run: "Run", tasks: str) -> None:
    from importlib.util import find_spec

    from wmtp.cli.console import console
    from wmtp.report.measures import for_terminal, lm_eval_table

    if find_spec("lm_eval") is None:
        raise WMTPError("--lm-eval: lm_eval is not installed; pip install 'wmtp[lm-eval]'")
    from wmtp.evaluate.harness import evaluate_lm_eval

    console().print(for_terminal(lm_eval_table(evaluate_lm_eval(run, tasks.split(",")))))
