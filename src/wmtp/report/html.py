"""Self-contained pages: one file each, without scripts or network access."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from wmtp import __version__
from wmtp.experiment.results import TokenSample
from wmtp.layout import REPORT_FILE
from wmtp.report import format as formats
from wmtp.report.comparison_page import comparison_context
from wmtp.report.heatmap import SATURATION, heatmap, strength
from wmtp.report.run_page import run_context
from wmtp.run import Run
from wmtp.storage import write_text


def write_comparison_report(directory: Path) -> Path:
    """Write `report.html` of a comparison from the JSON beside it and the arms' run directories.

    Parts whose files are absent are left out, and the page says so.

    Raises:
        WMTPError: `comparison.json` is absent, or one of the files cannot be read.
    """
    return _write(directory / REPORT_FILE, "comparison.html.j2", comparison_context(directory))


def write_run_report(run: Run) -> Path:
    """Write `report.html` of one training run.

    Raises:
        WMTPError: `metrics.jsonl` is absent or has no training step, or one of the files cannot be read.
    """
    return _write(run.directory / REPORT_FILE, "run.html.j2", run_context(run))


def write_inspect_html(samples: Sequence[TokenSample], path: Path) -> Path:
    """Write the token weights of the samples as a page."""
    return _write(path, "inspect.html.j2", {"heatmap": heatmap(samples), "series": {}})


def _write(path: Path, template: str, context: dict[str, Any]) -> Path:
    page = _environment().get_template(template).render(context)
    write_text(path, page)
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("wmtp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(version=__version__, saturation=SATURATION, strength=strength)
    for name in (
        "percent", "percent_range", "points", "points_range", "p_value", "number", "number_range", "visible",
    ):  # fmt: skip
        environment.filters[name] = getattr(formats, name)
    return environment
