"""`requirements/` pins all that is installed, so that pip has nothing to resolve and nothing is missing."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parents[1] / "requirements"


def pins(name: str) -> dict[str, str]:
    lines = (line for line in (FOLDER / name).read_text().splitlines() if not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in (line.split("==") for line in lines)}


def closure(root: str) -> set[str]:
    """Everything that an installed distribution needs, and what that needs, on this machine."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(root)]
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        for text in distribution(wanted.name).requires or []:
            further = Requirement(text)
            extras = wanted.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(further)
    return {name for name, _ in seen} - {"wmtp"}


def installed(name: str) -> str | None:
    try:
        return re.sub(r"\+.*", "", distribution(name).version)
    except PackageNotFoundError:
        return None


@pytest.fixture(autouse=True)
def _pinned_environment() -> None:
    others = [
        name for file in ("run.txt", "test.txt") for name, v in pins(file).items() if installed(name) != v
    ]
    if others:
        pytest.skip(f"another environment than the pinned one: {', '.join(others)}")


def test_what_runs_is_pinned() -> None:
    assert set(pins("run.txt")) == closure("wmtp")


def test_what_tests_need_beside_it_is_pinned() -> None:
    assert set(pins("test.txt")) == closure("wmtp[dev,mlflow]") - set(pins("run.txt"))
