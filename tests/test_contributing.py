"""The table in CONTRIBUTING.md that says which files a new part touches, held to the tree."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from wmtp.evaluate.tasks import TASKS
from wmtp.weighting.scorers import SCORERS
from wmtp.weighting.scorers.base import Scorer

ROOT = Path(__file__).parents[1]


def table() -> dict[str, tuple[list[str], list[str]]]:
    """By part: the files to touch, and those to follow, each as `path` or `path:Name`."""
    rows = re.findall(
        r"^\| ([a-z ]+) \| (.*?) \| (.*?)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    return {
        part: (re.findall(r"`(.+?)`", touch), re.findall(r"`(.+?)`", model)) for part, touch, model in rows
    }


MAP = table()
del MAP["to add a"]


def defined_in(path: Path) -> set[str]:
    """Names that a module defines at its top level; what it imports is not among them."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def module_name(path: str) -> str:
    return path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_kind_of_part_has_a_row_of_at_most_three_files() -> None:
    assert set(MAP) == {
        "scorer", "task", "storage backend", "head kind", "kernel", "exporter", "report figure"
    }  # fmt: skip
    for part, (touched, _) in MAP.items():
        assert 1 <= len(touched) <= 3, part


def lacking(entry: str) -> str:
    """What of `path` or `path:Name` is not there; empty if all is."""
    path, _, name = entry.partition(":")
    if not (ROOT / path).exists():
        return f"{path}: no such file"
    return f"{path} does not define {name}" if name and name not in defined_in(ROOT / path) else ""


@pytest.mark.parametrize("part", MAP)
def test_what_the_map_names_is_there(part: str) -> None:
    touched, models = MAP[part]
    for entry in [*touched, *models]:
        assert not lacking(entry), lacking(entry)
        path, _, name = entry.partition(":")
        if name:
            assert hasattr(importlib.import_module(module_name(path)), name)


def test_every_scorer_has_a_file_of_its_own_in_the_folder_that_the_map_names() -> None:
    folder = module_name(MAP["scorer"][0][0]).rstrip(".")
    classes = [
        scorer for name in SCORERS.names() if (scorer := SCORERS.get(name)).__module__.startswith("wmtp.")
    ]
    assert len(classes) >= 9
    for scorer in classes:
        assert isinstance(scorer, type)
        assert issubclass(scorer, Scorer)
        assert scorer.__module__.rpartition(".")[0] == folder
    assert len({scorer.__module__ for scorer in classes}) == len(classes)


def test_every_task_has_a_file_in_the_folder_that_the_map_names() -> None:
    folder = module_name(MAP["task"][0][0]).rstrip(".")
    modules = [TASKS.get(name).__module__ for name in TASKS.names()]
    own = [module for module in modules if module.startswith("wmtp.")]
    assert len(own) >= 7
    for module in own:
        assert module.rpartition(".")[0] == folder


def test_every_figure_is_drawn_where_the_map_says_and_shown_on_a_page() -> None:
    figures = {name for name in defined_in(ROOT / MAP["report figure"][0][0]) if name.endswith("_figure")}
    pages = [ROOT / "src/wmtp/report" / page for page in ("run_page.py", "comparison_page.py")]
    shown = set(re.findall(r"figures\.(\w+_figure)\(", "".join(page.read_text() for page in pages)))
    assert figures == shown
