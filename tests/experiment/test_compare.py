"""Whole comparisons, tiny: the machinery, not the result."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wmtp.cli.results import report
from wmtp.config import Config, Recipe, load, override
from wmtp.data.corpus import load_data
from wmtp.errors import WMTPError
from wmtp.evaluate.runner import evaluation_conditions, evaluation_path, is_evaluated
from wmtp.experiment.compare import _Shared, choose_arms, compare
from wmtp.experiment.results import Comparison, read_comparison, read_heatmap, write_comparison
from wmtp.metrics import MetricsLog
from wmtp.run import Run

TINY = """
name: tiny
model: {hidden_size: 32, layers: 2, attention_heads: 2, heads: 3}
data:
  source: tinycode
  vocab_size: 300
  sequence_length: 256
  overlong: drop
  tinycode: {train: 120, validation: 10, test: 6, curated: 30, max_operations: 2, families: [list, arithmetic]}
train: {steps: 4, batch_size: 4, warmup_steps: 1, log_every: 1, validate_every: 2, save_every: 4, lr: 0.003}
evaluate: {max_new_tokens: 24, allow_code_execution: true}
compare:
  baseline: uniform
  seeds: [0, 1]
  reference: {model.heads: 1, data.where: {curated: true}, train.steps: 3}
  arms:
    next-token: {model.heads: 1}
    uniform: {}
    rho1: {train.algo: rho1-wmtp}
    shuffled: {train.algo: rho1-wmtp, train.control: shuffled}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recipe, Config, Comparison, Path]]:
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "tiny.yaml").write_text(TINY)
    recipe, config = load(
        folder / "tiny.yaml",
        None,
        [f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", "devices.precision=fp32"],
    )
    arms = choose_arms(recipe, None)
    comparison, directory = compare(recipe, config, arms, recipe.compare.seeds, lambda _: None)
    return recipe, config, comparison, directory


Finished = tuple[Recipe, Config, Comparison, Path]


def test_results_are_complete_and_agree_with_the_runs(finished: Finished) -> None:
    _, _, comparison, directory = finished
    assert [arm.name for arm in comparison.arms] == ["next-token", "uniform", "rho1", "shuffled"]
    assert read_comparison(directory) == comparison
    assert comparison.problems == 6
    for arm in comparison.arms:
        passed = []
        for found in arm.by_seed:
            run = directory / found.run
            evaluation = json.loads((run / "evaluation-tinycode.json").read_text())
            assert found.pass_at_1 == pytest.approx(evaluation["pass_at"]["1"]["value"])
            last = [r for r in MetricsLog(run) if r["kind"] == "validation"][-1]
            assert found.validation_ce == last["ce"][0]
            passed.append(found.pass_at_1)
        assert arm.pass_at_1.value == pytest.approx(sum(passed) / 2)
        assert sum(arm.verdicts.values()) == 12
        assert (arm.tokens_per_forward is None) == (arm.name == "next-token")
    assert comparison.reference is not None


def test_arms_start_alike_and_read_the_same_rows(finished: Finished) -> None:
    _, _, comparison, directory = finished
    first_losses: dict[tuple[str, int], float] = {}
    tokens: dict[int, set[int]] = {0: set(), 1: set()}
    for arm in comparison.arms:
        for found in arm.by_seed:
            records = [r for r in MetricsLog(directory / found.run) if r["kind"] == "train"]
            first_losses[arm.name, found.seed] = records[0]["ce"][0]
            tokens[found.seed].add(records[-1]["tokens"])
    for seed in (0, 1):
        values = {round(first_losses[arm.name, seed], 6) for arm in comparison.arms}
        assert len(values) == 1
        assert len(tokens[seed]) == 1
    assert first_losses["uniform", 0] != first_losses["uniform", 1]


def test_the_control_has_the_weights_of_its_scorer_in_other_places(finished: Finished) -> None:
    *_, directory = finished
    samples = read_heatmap(directory)
    assert any(any(sample.planted) for sample in samples)
    moved = False
    for sample in samples:
        for weights in sample.weights.values():
            assert [w is not None for w in weights] == sample.supervised
        assert {w for w in sample.weights["uniform"] if w is not None} <= {1.0}
        moved |= sample.weights["rho1"] != sample.weights["shuffled"]
    assert moved


def test_the_reference_s_settings_are_refused_before_it_is_trained(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    changes = [
        "compare.reference={model.heads: 1, evaluate.split: test}",
        f"paths.runs={tmp_path}/runs",
        f"paths.cache={tmp_path}/cache",
    ]
    recipe, config = load(tmp_path / "tiny.yaml", None, changes)
    with pytest.raises(WMTPError, match=r"evaluate\.split test: task tinycode is not divided"):
        compare(recipe, config, choose_arms(recipe, ["rho1"]), [0], lambda _: None)
    assert not (tmp_path / "runs/tiny/reference").exists()


def test_a_finished_comparison_is_only_read_again(finished: Finished) -> None:
    recipe, config, comparison, directory = finished
    patterns = ("arms/*/*/checkpoints/*/*", "**/evaluation-*.json")
    files = {p: p.stat().st_mtime_ns for pattern in patterns for p in directory.glob(pattern)}
    again, _ = compare(recipe, config, choose_arms(recipe, None), recipe.compare.seeds, lambda _: None)
    assert again == comparison
    assert files == {p: p.stat().st_mtime_ns for pattern in patterns for p in directory.glob(pattern)}


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate.limit": 3},
        {"evaluate.max_new_tokens": 2},
        {"evaluate.samples": 2, "evaluate.temperature": [0.8]},
        {"evaluate.cpu_seconds": 1.0},
        {"data.tinycode.seed": 1},
        {"seed": 1},
    ],
)
def test_an_evaluation_under_other_conditions_is_not_taken(
    changes: dict[str, Any], finished: Finished
) -> None:
    recipe, config, _, directory = finished
    place = directory / "arms" / "uniform" / "seed-0"
    own, other = recipe, override(recipe, changes, "test")
    assert is_evaluated(Run(place, own, config), evaluation_conditions(own, config.devices))
    assert not is_evaluated(Run(place, other, config), evaluation_conditions(other, config.devices))


def test_an_evaluation_of_another_checkpoint_is_not_taken(finished: Finished, tmp_path: Path) -> None:
    recipe, config, _, directory = finished
    conditions = evaluation_conditions(recipe, config.devices)
    arms = directory / "arms"
    run = Run(tmp_path / "run", recipe, config)
    shutil.copytree(arms / "uniform" / "seed-0", run.directory)
    assert is_evaluated(run, conditions)
    shutil.rmtree(run.directory / "checkpoints")
    shutil.copytree(arms / "rho1" / "seed-0" / "checkpoints", run.directory / "checkpoints")
    assert not is_evaluated(run, conditions)


def test_a_comparison_with_other_settings_evaluates_again(finished: Finished) -> None:
    recipe, config, comparison, directory = finished
    limited = override(recipe, {"evaluate.limit": 3}, "test")
    fewer, _ = compare(limited, config, choose_arms(limited, ["uniform"]), [0], lambda _: None)
    assert fewer.problems == 3
    assert sum(fewer.baseline_arm.verdicts.values()) == 3
    again, _ = compare(recipe, config, choose_arms(recipe, ["uniform"]), [0], lambda _: None)
    assert again.problems == 6
    assert again.baseline_arm.by_seed == comparison.baseline_arm.by_seed[:1]
    write_comparison(comparison, directory)


def test_arms_that_are_evaluated_otherwise_are_refused_before_they_are_trained(finished: Finished) -> None:
    recipe, config, *_ = finished
    mixed = override(
        recipe, {"name": "mixed", "compare.arms.next-token": {"evaluate.max_new_tokens": 2}}, "test"
    )
    with pytest.raises(WMTPError) as caught:
        compare(mixed, config, choose_arms(mixed, None), [0], lambda _: None)
    assert str(caught.value).startswith(
        "compare.arms: next-token and uniform are not evaluated alike (max_new_tokens: 2 and 24) and cannot be paired"
    )
    assert "\n" not in str(caught.value)
    assert not list((Path(config.paths.runs) / "mixed").glob("arms/*"))


def test_results_that_changed_meanwhile_are_not_paired(finished: Finished) -> None:
    """Somebody evaluates a run of an arm that is done, elsewhere, while the others are worked on."""
    recipe, config, _, directory = finished
    path = evaluation_path(Run(directory / "arms" / "uniform" / "seed-0", recipe, config))
    content = path.read_text()

    def meddle(line: str) -> None:
        if line.startswith("next-token, seed 0"):
            found = json.loads(content)
            found["conditions"]["python"] = "3.9.1"
            path.write_text(json.dumps(found))

    try:
        with pytest.raises(
            WMTPError, match=r"next-token, seed 0 and uniform, seed 0 are not evaluated alike \(python\)"
        ):
            compare(recipe, config, choose_arms(recipe, ["next-token"]), [0], meddle)
    finally:
        path.write_text(content)


def test_the_report_is_written(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    *_, comparison, directory = finished
    report(directory)
    path, following = capsys.readouterr().out.splitlines()
    last = directory / comparison.arms[-1].by_seed[0].run
    assert following == f"next: wmtp generate {last} --problem 0"
    page = Path(path).read_text()
    assert "shuffled" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_changed_recipe_does_not_mix_with_finished_runs(finished: Finished) -> None:
    recipe, config, *_ = finished
    changed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": 0.1})})
    with pytest.raises(WMTPError, match=r"trained with another recipe \(train\.lr differ\)"):
        compare(changed, config, choose_arms(changed, None), [0], lambda _: None)


def test_arms_on_other_bases_read_with_their_tokenizers(
    make_recipe: Callable[..., Recipe], config: Config
) -> None:
    load_data(make_recipe(**{"data.vocab_size": 280}), Path(config.paths.cache)).tokenizer.save_pretrained(
        "base"
    )
    Path("base/config.json").write_text("{}")
    shared = _Shared(config)
    fresh, based = (shared.data(make_recipe(**changes)) for changes in ({}, {"model.base_id": "base"}))
    assert [len(data.tokenizer) for data in (fresh, based)] == [300, 280]
    assert shared.data(make_recipe(**{"model.heads": 2, "data.reference_scores": "x"})) is fresh


def test_choosing_arms(finished: Finished) -> None:
    recipe = finished[0]
    assert [arm.name for arm in choose_arms(recipe, ["rho1"])] == ["uniform", "rho1"]
    with pytest.raises(WMTPError, match="unknown arm 'rho'; did you mean 'rho1'"):
        choose_arms(recipe, ["rho"])
    with pytest.raises(WMTPError, match=r"compare\.arms: the recipe names no arms"):
        choose_arms(Recipe(), None)
