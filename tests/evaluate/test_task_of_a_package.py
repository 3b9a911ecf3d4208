"""A task with splits that comes with another package, through what docs/evaluation.md says and nothing else."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wmtp.cli import main
from wmtp.train.run import train

ROOT = Path(__file__).parents[2]


def test_a_task_with_splits_of_its_own(
    make_recipe: Callable[..., Any],
    config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?def riddles.*?)```", page, re.DOTALL)
    (tmp_path / "riddle_package.py").write_text(code)
    about = tmp_path / "riddle_package-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: riddle-package\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[wmtp.tasks]\nriddles = riddle_package:riddles\n")
    monkeypatch.syspath_prepend(tmp_path)

    def wmtp(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["wmtp", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert (left.value.code or 0) == status, err
        return str(out if status == 0 else err)

    assert "Functions that return a number." in wmtp("ls", "tasks")
    assert "one greedy completion of 32 tokens (riddles)" in " ".join(wmtp("ls", "protocols").split())
    train(make_recipe(**{"train.steps": 2}), config, Path("run"), "never")
    evaluated = ("evaluate", "run", "--task", "riddles", "--allow-code-execution")
    for split, names in {"easy": ["n1", "n2"], "hard": ["n1729"]}.items():
        wmtp(*evaluated, f"evaluate.split={split}")
        result = json.loads(Path("run/evaluation-riddles.json").read_text())
        assert result["settings"]["split"] == split
        assert [problem["task_id"] for problem in result["by_problem"]] == names
    for command in (evaluated, ("train", "demo", "--dry-run", "evaluate.task=riddles")):
        expected = "evaluate.split 'hrad': not one of task 'riddles'; did you mean 'hard'?\n"
        assert wmtp(*command, "evaluate.split=hrad", status=2).endswith(expected)
