"""Commands that show results and hand them on."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from wmtp.cli.options import (
    ConfigFile,
    Overrides,
    RunFolder,
    RunOrComparison,
    open_run,
    show_next,
    show_next_of_comparison,
    track,
)
from wmtp.errors import WMTPError
from wmtp.layout import COMPARISON_FILE


def inspect(
    run: RunFolder,
    overrides: Overrides = None,
    text: Annotated[str | None, typer.Option(help="Show the weights of this text.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Number of a training document, without --text.")] = 0,
    scorer: Annotated[str | None, typer.Option(help="Use this scorer instead of the run's.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page to this file.")] = None,
    config: ConfigFile = None,
) -> None:
    """Show the weight of every token of a text or a training document."""
    from wmtp.cli.console import console
    from wmtp.report.terminal import render_token_weights, weight_legend

    changes = [*(overrides or []), *([f"scorer={scorer}"] if scorer else [])]
    opened = open_run(run, changes, config)
    from wmtp.experiment.weighted_documents import inspect_document

    shown = inspect_document(opened, text, sample)
    arm = next(iter(shown.weights))
    console().print(render_token_weights(shown, arm), weight_legend(), sep="\n\n")
    if html is not None:
        from wmtp.report.html import write_inspect_html

        print(write_inspect_html([shown], html))


def report(directory: RunOrComparison) -> None:
    """Write report.html, one self-contained page about a run or comparison."""
    from wmtp.experiment.results import read_comparison
    from wmtp.report.html import write_comparison_report, write_run_report

    if not directory.is_dir():
        raise WMTPError(f"{directory}: no such run directory")
    opened = open_run(directory, None, None)
    is_comparison = (directory / COMPARISON_FILE).exists()
    print(write_comparison_report(directory) if is_comparison else write_run_report(opened))
    track(directory, opened.config)
    if is_comparison:
        show_next_of_comparison(directory, read_comparison(directory))
    else:
        show_next(f"wmtp inspect {directory} --html weights.html")


def export(
    run: Annotated[Path, typer.Argument(help="A run, or one of its checkpoints.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("model"),
    next_token_only: Annotated[
        bool,
        typer.Option(
            "--next-token-only", help="Leave out the extra heads: a plain model that any tool loads."
        ),
    ] = False,
) -> None:
    """Write a model as a transformers folder with one set of safetensors."""
    from wmtp.model.export import export_run

    print(f"exported {export_run(run, output, next_token_only=next_token_only)}: {output}")


def mlflow(directory: RunOrComparison, config: ConfigFile = None) -> None:
    """Deliver to MLflow what a run or a comparison has recorded and MLflow does not have yet."""
    opened = open_run(directory, None, config)
    from wmtp.tracking.deliver import deliver_all

    print(*deliver_all(directory, opened.config), sep="\n")


def register(
    directory: Annotated[Path, typer.Argument(help="A run, or a comparison whose best arm to register.")],
    name: Annotated[str, typer.Option(help="Name of the registered model in MLflow.")],
    force: Annotated[
        bool, typer.Option("--force", help="Make it the champion even if it is no better.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Register a model in MLflow; a comparison's best arm becomes champion if it beats the present one."""
    opened = open_run(directory, None, config)
    from wmtp.experiment.model_registry import register as register_model
    from wmtp.model.export import export_run

    export = partial(export_run, next_token_only=True)
    print(register_model(directory, name, opened.config, export, force=force))


def list_names(
    what: Annotated[str, typer.Argument(help="scorers, tasks, protocols, sources, recipes, or all.")] = "all",
) -> None:
    """List the names that a recipe can use."""
    from wmtp.cli.catalogue import catalogue
    from wmtp.registry import did_you_mean

    known = catalogue()
    if what != "all" and what not in known:
        raise WMTPError(f"ls: nothing is called {what!r}; {did_you_mean(what, [*known, 'all'])}")
    for kind, names in known.items():
        if what in ("all", kind):
            print(f"{kind}:")
            for name, about in names.items():
                print(f"  {name:<18} {about}")


def env(config: ConfigFile = None) -> None:
    """Print versions, hardware and sandbox isolation for a bug report."""
    from wmtp.config import load
    from wmtp.environment import describe
    from wmtp.sandbox import describe as describe_sandbox

    _, environment = load(None, config)
    for name, value in describe(environment.devices).items():
        print(f"{name}: {value}")
    sandbox = describe_sandbox()
    unavailable = sandbox.pop("unavailable")
    for name, value in sandbox.items():
        print(f"sandbox {name}: {value}")
    for level, reason in unavailable.items():
        print(f"sandbox without {level}: {reason}")
