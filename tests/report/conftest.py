from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_comparison import build

from wmtp.experiment.results import Comparison
from wmtp.report.html import write_comparison_report


@pytest.fixture(scope="session")
def written(shared: Callable[..., Any]) -> tuple[Path, Comparison, str]:
    """A comparison of two seeds with its report, for tests that only read: directory, numbers, page."""

    def write(directory: Path) -> tuple[Path, Comparison, str]:
        comparison = build(directory, seeds=2, steps=60)
        return directory, comparison, write_comparison_report(directory).read_text(encoding="utf-8")

    return shared("comparison", write)


@pytest.fixture
def make_comparison(tmp_path: Path) -> Callable[..., tuple[Path, Comparison]]:
    """Writes a comparison of so many seeds and steps; returns its directory and what was written."""

    def make(seeds: int = 3, steps: int = 40) -> tuple[Path, Comparison]:
        directory = tmp_path / "demo"
        directory.mkdir()
        return directory, build(directory, seeds=seeds, steps=steps)

    return make
