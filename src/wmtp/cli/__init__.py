"""The `wmtp` command. Commands import what is heavy when they run, so that help is instant."""

import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from wmtp import __version__
from wmtp.cli.evaluation import evaluate, generate
from wmtp.cli.results import env, export, inspect, list_names, mlflow, register, report
from wmtp.cli.training import compare, sample, score, train
from wmtp.errors import WMTPError
from wmtp.rank import RankLost, end_with_launcher, is_first_process, leave, started_by_torchrun
from wmtp.rank import report as report_end
from wmtp.train.signals import Stopped

app = typer.Typer(
    help="Weighted multi-token prediction: train, evaluate and compare language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = (train, score, evaluate, generate, sample, compare, export, mlflow, register, report, inspect)


class _Interrupted(Exception):
    """Ctrl-C, which typer would turn into an exit status without a message."""


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def call(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            raise _Interrupted from None

    return call


for _command in _COMMANDS:
    app.command()(_interruptible(_command))
app.command("ls")(_interruptible(list_names))
app.command()(_interruptible(env))


def _wait_without_spinning() -> None:
    """Let OpenMP threads sleep while they wait, unless the user has chosen; torch reads this when it is imported.

    Spinning threads are a little faster on a quiet machine, but many times slower beside any busy process.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _escape_what_cannot_be_printed() -> None:
    """Write characters outside the terminal's encoding (`LC_ALL=C`, Latin-1) as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and status 2.

    Status 1: another process was lost. 75: a scheduler's signal came and the run is saved. Both resume with
    --resume auto.
    """
    end_with_launcher()
    _wait_without_spinning()
    _escape_what_cannot_be_printed()
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
    except (KeyboardInterrupt, _Interrupted):
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
        raise WMTPError(f"{command}: runs in one process; only train can be started by torchrun")
