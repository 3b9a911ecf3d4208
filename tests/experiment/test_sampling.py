"""`wmtp sample`: completions in groups, from training prompts, that training reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wmtp.config import Config, Recipe
from wmtp.data.corpus import load_rows
from wmtp.data.documents import documents_from
from wmtp.data.tokenizer import encode
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.errors import WMTPError
from wmtp.evaluate.runner import trained_model
from wmtp.evaluate.samples import Key, SampleFile
from wmtp.experiment.sampling import sample_answers
from wmtp.train.run import train

TINYCODE: dict[str, Any] = {
    "data.source": "tinycode",
    "data.sequence_length": 256,
    "data.overlong": "drop",
    "data.tinycode": {
        "train": 40,
        "answers": 2,
        "validation": 4,
        "test": 4,
        "curated": 0,
        "max_operations": 2,
    },
    "evaluate.max_new_tokens": 12,
    "train.steps": 2,
}


def sampled(run: Path, recipe: Recipe, config: Config, output: Path, **options: Any) -> list[dict[str, Any]]:
    wanted = {"per_prompt": 3, "temperature": 1.0, "limit": 4} | options
    count = sample_answers(run, recipe, config, output, **wanted)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) == count
    return lines


def test_groups_of_completions_with_the_tests_of_their_prompt(
    make_recipe: Callable[..., Recipe], config: Config, tmp_path: Path
) -> None:
    recipe, run = make_recipe(**TINYCODE), tmp_path / "run"
    train(recipe, config, run)
    lines = sampled(run, recipe, config, tmp_path / "one.jsonl")
    assert lines == sampled(run, recipe, config, tmp_path / "again.jsonl")
    rows = load_rows(recipe)
    documents = documents_from(rows.train, rows.fields)
    prompts = list(dict.fromkeys(d.prompt for d in documents))
    assert [line["prompt"] for line in lines] == [p for p in prompts[:4] for _ in range(3)]
    tests = {d.prompt: row["test_list"] for d, row in zip(documents, rows.train, strict=True)}
    assert all(line["test_list"] == tests[line["prompt"]] for line in lines)
    assert "is_correct" not in lines[0]
    assert len({line["completion"] for line in lines[:3]}) > 1
    _, model, tokenizer = trained_model(run, config)
    alone = generate(
        model,
        encode(tokenizer, [prompts[0]] * 3),
        DecodeOptions(12, {int(tokenizer.eos_token_id)}, temperature=1.0, seed=recipe.seed),
    )
    assert [line["completion"] for line in lines[:3]] == [tokenizer.decode(t) for t in alone.tokens]
    learner = make_recipe(
        **{
            "data.source": str(tmp_path / "one.jsonl"),
            "data.validation": 0.3,
            "data.sequence_length": 256,
            "train.scorer": "grpo-v1",
            "critic.reward": "verifier",
            "evaluate.allow_code_execution": True,
        }
    )
    with pytest.raises(
        WMTPError, match="every"
    ):  # an untrained model solves nothing, and so all rewards are 0
        train(learner, config, tmp_path / "grpo")


def test_stopped_and_repeated(
    make_recipe: Callable[..., Recipe],
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, run = make_recipe(**TINYCODE, **{"evaluate.batch_size": 5}), tmp_path / "run"
    train(recipe, config, run)
    whole = sampled(run, recipe, config, tmp_path / "whole.jsonl")
    add, added = SampleFile.add, 0

    def stopping(self: SampleFile, key: Key, completion: str, stop: Any = None) -> None:
        nonlocal added
        add(self, key, completion, stop)
        added += 1
        if added == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(SampleFile, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        sampled(run, recipe, config, tmp_path / "one.jsonl")
    partial = tmp_path / "one.partial.jsonl"
    assert f"{partial}: holds 7 of 12 samples; repeat the command to go on" in capsys.readouterr().err
    assert len(partial.read_text().splitlines()) == 7
    assert not (tmp_path / "one.jsonl").exists()
    assert sampled(run, recipe, config, tmp_path / "one.jsonl") == whole
    assert not list(tmp_path.glob("*.partial*"))


def test_what_cannot_be_sampled(
    make_recipe: Callable[..., Recipe], config: Config, tmp_path: Path, sums: Path
) -> None:
    (tmp_path / "there.jsonl").touch()
    with pytest.raises(WMTPError, match="there is something already"):
        sampled(tmp_path / "run", make_recipe(), config, tmp_path / "there.jsonl")
    texts = make_recipe(**{"data.fields": {"text": "completion", "prompt": None, "completion": None}})
    with pytest.raises(WMTPError, match="plain texts have no prompts to answer"):
        sampled(tmp_path / "run", texts, config, tmp_path / "new.jsonl")
    with pytest.raises(WMTPError, match="run"):
        sampled(tmp_path / "nowhere" / "run", make_recipe(), config, tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()
    run = tmp_path / "trained"
    train(make_recipe(), config, run)
    with pytest.raises(WMTPError, match=r"cannot be written"):
        sampled(run, make_recipe(), config, Path("/proc/x.jsonl"))
