"""A scorer with settings, from outside: by what docs/scorers.md says, and the command line."""

import sys
from pathlib import Path

import pytest
import yaml

from wmtp.cli import main

SCORER = """
from wmtp.config import Section
from wmtp.weighting.scorers.base import Scorer

class Late(Scorer):
    class Config(Section):
        power: float = 1.0
    def __call__(self, inputs):
        return inputs.batch.position_ids.float() ** self.config.power
"""
RECIPE = """
data: {tinycode: {train: 60, validation: 4, test: 4, curated: 9, families: [list]}, vocab_size: 300, overlong: drop}
model: {hidden_size: 32, layers: 2, attention_heads: 2, heads: 2}
train: {steps: 2, batch_size: 2, log_every: 1}
scorer: late_tokens:Late
"""


def test_a_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "late_tokens.py").write_text(SCORER)
    (tmp_path / "late.yaml").write_text(RECIPE)
    for override, status in (("scorer.power=2", 0), ("scorer.power=high", 2), ("scorer.powr=1", 2)):
        monkeypatch.setattr(sys, "argv", ["wmtp", "train", "late.yaml", override])
        with pytest.raises(SystemExit, match=str(status)):
            main()
    first, second = [line for line in capfd.readouterr().err.splitlines() if line.startswith("wmtp: ")]
    assert first.startswith("wmtp: override scorer.power=high: scorer.power: input should be a valid number")
    assert second == "wmtp: override scorer.powr=1: unknown key 'scorer.powr'; did you mean 'power'?"
    recipe = yaml.safe_load(Path("runs/run/recipe.yaml").read_text())
    assert recipe["scorer"] == {"name": "late_tokens:Late", "power": 2.0}
