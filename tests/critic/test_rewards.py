import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wmtp.config import EvaluateConfig, TinycodeConfig
from wmtp.critic.rewards import (
    check_rewards,
    field_rewards,
    group_advantages,
    pair_up,
    verifier_rewards,
)
from wmtp.data import tinycode
from wmtp.data.rows import Row
from wmtp.data.splits import group_numbers
from wmtp.errors import WMTPError
from wmtp.evaluate import verdicts as module
from wmtp.evaluate.verdicts import VERDICTS
from wmtp.sandbox import Execution, Program, Verdict, describe

ALLOWED = EvaluateConfig(allow_code_execution=True)
RIGHT, WRONG = "def f(x): return x + 1", "def f(x): return x"
TESTED = {"task_id": 1, "test_list": ["assert f(1) == 2"]}


def placed(*rows: Mapping[str, Any]) -> list[Row]:
    return [Row(row, f"rows.jsonl, line {number}") for number, row in enumerate(rows, start=1)]


def array(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def numbers(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


# --- a field -----------------------------------------------------------------------------------------------


def test_bools_and_numbers_are_rewards() -> None:
    rewards = field_rewards(placed({"r": True}, {"r": False}, {"r": 3}, {"r": -0.25}), "r", "rows.jsonl")
    assert rewards.dtype == np.float64
    assert rewards.tolist() == [1.0, 0.0, 3.0, -0.25]


def test_a_row_without_the_field_is_named() -> None:
    with pytest.raises(WMTPError) as error:
        field_rewards(placed({"r": 1}, {"a": 2, "b": 3}), "r", "rows.jsonl")
    assert str(error.value) == "rows.jsonl, line 2: no field 'r' (critic.field); it has a, b"


@pytest.mark.parametrize(("value", "kind"), [("1", "str"), (None, "NoneType"), ([1.0], "list")])
def test_what_is_no_number_is_refused(value: Any, kind: str) -> None:
    expected = rf"line 2: field 'r' \(critic\.field\) should be a number or a bool, not {kind}"
    with pytest.raises(WMTPError, match=expected):
        field_rewards(placed({"r": 1}, {"r": value}), "r", "rows.jsonl")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_reward_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(WMTPError, match=r"line 2: field 'r' \(critic\.field\) should be finite, not"):
        field_rewards(placed({"r": 1}, {"r": value}), "r", "rows.jsonl")


def test_constant_rewards_are_refused() -> None:
    with pytest.raises(WMTPError) as error:
        field_rewards(placed({"r": True}, {"r": 1.0}), "r", "rows.jsonl")
    assert str(error.value) == (
        "rows.jsonl: field 'r' (critic.field): constant: a critic has nothing to learn from; "
        "every row's reward is 1.0"
    )
    check_rewards(array(1, 1, 0), "here")


# --- tests in the sandbox ----------------------------------------------------------------------------------


class Sandbox:
    """In place of `execute_all`: remembers what it was asked to execute; may be interrupted or break down."""

    def __init__(self, stop_after: int | None = None, breaks_on: Iterable[str] = ()) -> None:
        self.executed: list[str] = []
        self.stop_after, self.breaks_on = stop_after, set(breaks_on)

    def __call__(self, programs: Iterable[Program], *_: Any) -> Iterator[tuple[int, Execution]]:
        for index, program in reversed(list(enumerate(programs))):
            if len(self.executed) == self.stop_after:
                raise KeyboardInterrupt
            self.executed.append(program.code)
            if program.code in self.breaks_on:
                yield index, Execution(Verdict.ERROR, "no temporary directory", 0.0)
            else:
                verdict = Verdict.PASSED if "pass" in program.code else Verdict.FAILED
                yield index, Execution(verdict, "", 0.0)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(**options: Any) -> Sandbox:
        stands_in = Sandbox(**options)
        monkeypatch.setattr(module, "execute_all", stands_in)
        return stands_in

    return use


def judge(codes: list[str], cache: Path, config: EvaluateConfig = ALLOWED) -> list[float]:
    return list(verifier_rewards(placed(*[TESTED] * len(codes)), codes, config, cache))


def test_rewards_are_what_the_benchmark_planted(tmp_path: Path) -> None:
    corpus = tinycode.generate(
        TinycodeConfig(
            seed=3, train=10, validation=0, test=0, noise=0.5, curated=0, min_operations=1, max_operations=2
        )
    )
    rows = placed(*map(dict, corpus.train))
    rewards = verifier_rewards(rows, [row["code"] for row in rows], ALLOWED, tmp_path)
    assert rewards.tolist() == [float(row["is_correct"]) for row in rows]
    assert 0 < rewards.sum() < len(rows)


def test_setup_code_goes_before_the_tests(tmp_path: Path) -> None:
    row = {"test_list": ["assert f(ONE) == 2"], "test_setup_code": "ONE = 1"}
    without = {"test_list": ["assert f(1) == 2"], "test_setup_code": None}
    rewards = verifier_rewards(placed(row, row, without), [RIGHT, WRONG, RIGHT], ALLOWED, tmp_path)
    assert rewards.tolist() == [1.0, 0.0, 1.0]


def test_nothing_runs_without_consent(tmp_path: Path, sandbox: Any) -> None:
    ran = sandbox()
    with pytest.raises(WMTPError, match=r"evaluate\.allow_code_execution"):
        judge(["pass", "x"], tmp_path, EvaluateConfig())
    assert ran.executed == []


def test_what_was_judged_is_not_executed_again(tmp_path: Path, sandbox: Any) -> None:
    first = sandbox()
    assert judge(["pass", "x", "pass"], tmp_path) == [1.0, 0.0, 1.0]
    assert sorted(first.executed) == ["pass", "x"]
    second = sandbox()
    assert judge(["x", "pass", "pass"], tmp_path) == [0.0, 1.0, 1.0]
    assert second.executed == []


@pytest.mark.parametrize(
    ("row", "code", "limits"),
    [
        (TESTED, "pass #", {}),
        (TESTED | {"test_list": ["assert f(1) == 2", "assert f(2) == 3"]}, "pass", {}),
        (TESTED | {"test_setup_code": "import math"}, "pass", {}),
        (TESTED, "pass", {"cpu_seconds": 2.0}),
        (TESTED, "pass", {"wall_seconds": 9.0}),
        (TESTED, "pass", {"memory_mib": 256}),
        (TESTED, "pass", {"sandbox": "basic"}),
    ],
)
def test_a_verdict_holds_for_this_program_with_these_tests_and_limits(
    row: dict[str, Any], code: str, limits: dict[str, Any], tmp_path: Path, sandbox: Any
) -> None:
    if limits == {"sandbox": describe("auto")["level"]}:
        pytest.skip("this machine has no other level")
    sandbox()
    judge(["pass", "x"], tmp_path)
    again = sandbox()
    config = EvaluateConfig(allow_code_execution=True, **limits)
    verifier_rewards(placed(row, TESTED), [code, "x"], config, tmp_path)
    assert code in again.executed


@pytest.mark.parametrize(
    ("changed", "other"), [("__version__", "0.0.9"), ("platform.python_version", lambda: "4.0")]
)
def test_verdicts_of_another_version_or_python_are_made_anew(
    tmp_path: Path, sandbox: Any, monkeypatch: pytest.MonkeyPatch, changed: str, other: Any
) -> None:
    sandbox()
    judge(["pass", "x"], tmp_path)
    again = sandbox()
    monkeypatch.setattr(f"wmtp.evaluate.judging.{changed}", other)
    judge(["pass", "x"], tmp_path)
    assert sorted(again.executed) == ["pass", "x"]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, sandbox: Any) -> None:
    codes = ["a", "b", "pass", "x", "y"]
    stopped = sandbox(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        judge(codes, tmp_path)
    rest = sandbox()
    assert judge(codes, tmp_path) == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert sorted(stopped.executed + rest.executed) == codes


def test_a_verdict_is_on_disk_when_the_next_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []

    def execute_all(programs: list[Program], *_: Any) -> Iterator[tuple[int, Execution]]:
        for index in range(len(programs)):
            lines.append(len((tmp_path / VERDICTS).read_text().splitlines()))
            yield index, Execution(Verdict.PASSED if index else Verdict.FAILED, "", 0.0)

    monkeypatch.setattr(module, "execute_all", execute_all)
    judge(["a", "b", "c"], tmp_path)
    assert lines == [0, 1, 2]


@pytest.mark.parametrize(
    "tail", ["", '{"program": "abc", "verd', '{"program": "abc", "verdict": "passed"}', "7\n", "\0\0\0"]
)
def test_a_damaged_line_counts_as_not_written(tail: str, tmp_path: Path, sandbox: Any) -> None:
    sandbox()
    judge(["pass", "x", "y"], tmp_path)
    path = tmp_path / VERDICTS
    kept = path.read_text().splitlines(keepends=True)[:2]
    path.write_text("".join(kept) + tail)
    again = sandbox()
    assert judge(["pass", "x", "y"], tmp_path) == [1.0, 0.0, 0.0]
    assert again.executed == ["pass"]
    last = sandbox()
    judge(["pass", "x", "y"], tmp_path)
    assert last.executed == []


def test_a_program_that_could_not_be_judged_is_never_scored(tmp_path: Path, sandbox: Any) -> None:
    codes = ["pass", "b", "b", "c", "d"]
    sandbox(breaks_on=["b", "d"])
    with pytest.raises(WMTPError) as error:
        judge(codes, tmp_path)
    assert str(error.value) == (
        "critic.reward verifier: the sandbox failed on 2 programs, which are not scored, the first of them "
        "rows.jsonl, line 2: no temporary directory"
    )
    written = [json.loads(line)["verdict"] for line in (tmp_path / VERDICTS).read_text().splitlines()]
    assert sorted(written) == ["failed", "passed"]
    rest = sandbox()
    assert judge(codes, tmp_path) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert sorted(rest.executed) == ["b", "d"]


@pytest.mark.parametrize(
    "row", [{"text": "?"}, {"text": "?", "test_list": []}, {"text": "?", "test_list": "assert f"}]
)
def test_a_row_without_tests_is_named(row: dict[str, Any], tmp_path: Path, sandbox: Any) -> None:
    ran = sandbox()
    with pytest.raises(
        WMTPError, match=r"verifier: rows\.jsonl, line 2: no tests: .*'test_list'.*; it has text"
    ):
        verifier_rewards(placed(TESTED, row), ["pass", "x"], ALLOWED, tmp_path)
    assert ran.executed == []


def test_programs_that_all_fail_teach_nothing(tmp_path: Path, sandbox: Any) -> None:
    sandbox()
    with pytest.raises(WMTPError, match=r"verifier: constant: .* every row's reward is 0\.0"):
        judge(["x", "y"], tmp_path)


# --- answers to the same prompt ----------------------------------------------------------------------------


def test_groups_are_counted_in_order_of_appearance() -> None:
    groups = group_numbers(["b", "a", "b", "", "a"])
    assert groups.dtype == np.int64
    assert groups.tolist() == [0, 1, 0, 2, 1]


values = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-100, 100).map(lambda x: round(x, 3)))


@st.composite
def grouped(draw: st.DrawFn, least: int = 2) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    sizes = draw(st.lists(st.integers(least, 6), min_size=1, max_size=5))
    groups = draw(st.permutations([g for g, size in enumerate(sizes) for _ in range(size)]))
    rewards = draw(st.lists(values, min_size=len(groups), max_size=len(groups)))
    return array(*rewards), numbers(*groups)


def members(groups: NDArray[np.int64]) -> list[list[int]]:
    return [[i for i, g in enumerate(groups) if g == group] for group in sorted(set(groups.tolist()))]


def differ(rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> bool:
    return any(len({float(rewards[i]) for i in own}) > 1 for own in members(groups))


@given(grouped())
def test_advantages_are_standardised_rewards(data: tuple[NDArray[np.float64], NDArray[np.int64]]) -> None:
    rewards, groups = data
    assume(differ(rewards, groups))
    advantages = group_advantages(rewards, groups)
    for own in members(groups):
        deviation = statistics.pstdev(rewards[own].tolist())
        mean = statistics.fmean(rewards[own].tolist())
        equal = len({float(rewards[i]) for i in own}) == 1
        expected = [0.0 if equal else (float(rewards[i]) - mean) / deviation for i in own]
        np.testing.assert_allclose(advantages[own], expected, rtol=1e-6, atol=1e-6)
        assert abs(advantages[own].mean()) < 1e-9
        assert not equal or not advantages[own].any()


@given(grouped(), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_advantages_know_neither_unit_nor_level(
    data: tuple[NDArray[np.float64], NDArray[np.int64]], scale: float, shift: float
) -> None:
    rewards, groups = data
    assume(differ(rewards, groups))
    moved = rewards * scale + shift
    assume(len(np.unique(moved)) == len(np.unique(rewards)))
    np.testing.assert_allclose(group_advantages(moved, groups), group_advantages(rewards, groups), atol=1e-5)


def test_equal_rewards_have_no_advantage_however_they_round() -> None:
    rewards = array(0.1, 0.1, 0.1, 0.0, 1.0)
    assert group_advantages(rewards, numbers(0, 0, 0, 1, 1)).tolist() == [0, 0, 0, -1, 1]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_advantages_of_extreme_rewards(scale: float) -> None:
    advantages = group_advantages(array(0, scale, 2 * scale), numbers(0, 0, 0))
    np.testing.assert_allclose(advantages, [-math.sqrt(1.5), 0, math.sqrt(1.5)])


def test_a_lonely_completion_has_no_advantage() -> None:
    with pytest.raises(WMTPError) as error:
        group_advantages(array(0, 1, 1, 0), numbers(1, 1, 2, 0))
    assert str(error.value) == (
        "grpo-v1 needs several completions per prompt: 2 of 3 prompts have one, the first in row 2"
    )


def test_groups_of_equal_rewards_teach_nothing() -> None:
    with pytest.raises(WMTPError, match=r"grpo-v1: every group's rewards are equal"):
        group_advantages(array(0, 0, 1, 1), numbers(0, 0, 1, 1))


# --- pairs -------------------------------------------------------------------------------------------------


def test_neighbours_in_length_meet() -> None:
    rewards = array(1, 1, 0, 0, 0, 0, 1)
    groups = numbers(0, 0, 0, 0, 0, 1, 1)
    lengths = numbers(30, 10, 11, 12, 29, 5, 5)
    pairs = pair_up(rewards, groups, lengths, seed=0)
    assert pairs.dtype == np.int64
    assert pairs[:4].tolist() == [[1, 2], [1, 3], [0, 4], [6, 5]]
    # The first two have the shorter answer better, the third the longer one; the last has neither.
    assert pairs[4:].tolist() == [[0, 4]]


def test_real_rewards_are_parted_at_the_mean() -> None:
    rewards, lengths = array(-4.0, 0.5, 2.5, 2.0), numbers(1, 2, 3, 4)
    pairs = pair_up(rewards, numbers(0, 0, 0, 0), lengths, seed=0)
    assert pairs.tolist() == [[1, 0], [2, 0], [3, 0]]
    pairs = pair_up(array(0, 1, 2), numbers(0, 0, 0), numbers(1, 2, 3), seed=0)
    assert pairs.tolist() == [[2, 0], [2, 1]]


def test_one_direction_alone_is_left_as_it_is() -> None:
    pairs = pair_up(array(1, 0, 1, 0), numbers(0, 0, 1, 1), numbers(9, 3, 8, 4), seed=0)
    assert pairs.tolist() == [[0, 1], [2, 3]]


def test_the_seed_decides_what_is_repeated() -> None:
    count = 40
    groups = np.repeat(np.arange(count), 2)
    rewards = np.tile(array(1, 0), count)
    lengths = np.tile(numbers(3, 5), count)
    lengths[:24] = np.tile(numbers(5, 3), 12)
    first, same, other = (pair_up(rewards, groups, lengths, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    times, other_times = (Counter(tuple(pair) for pair in pairs.tolist()) for pairs in (first, other))
    assert sorted(times.values()) == sorted(other_times.values()) == [1] * 28 + [2] * 8 + [3] * 4
    assert times != other_times


@given(grouped(least=1), st.data())
def test_pairs_are_ordered_balanced_and_leave_nobody_out(
    data: tuple[NDArray[np.float64], NDArray[np.int64]], more: st.DataObject
) -> None:
    rewards, groups = data
    assume(differ(rewards, groups))
    lengths = numbers(
        *more.draw(st.lists(st.integers(1, 9), min_size=len(groups), max_size=len(groups)), label="lengths")
    )
    better, worse = pair_up(rewards, groups, lengths, seed=0).T
    assert (rewards[better] > rewards[worse]).all()
    assert (groups[better] == groups[worse]).all()
    longer, shorter = (lengths[better] > lengths[worse]).sum(), (lengths[better] < lengths[worse]).sum()
    assert longer == shorter or 0 in (longer, shorter)
    assert not set(better) & set(worse)
    with_a_choice = {i for own in members(groups) if len(set(rewards[own])) > 1 for i in own}
    assert set(better) | set(worse) == with_a_choice


@given(grouped(least=1), st.data())
def test_pairs_of_right_and_wrong_answers(
    data: tuple[NDArray[np.float64], NDArray[np.int64]], more: st.DataObject
) -> None:
    rewards, groups = (data[0] > 0).astype(np.float64), data[1]
    assume(differ(rewards, groups))
    lengths = numbers(
        *more.draw(st.lists(st.integers(1, 9), min_size=len(groups), max_size=len(groups)), label="lengths")
    )
    expected: list[tuple[int, int]] = []
    for own in members(groups):
        by_length = sorted(own, key=lambda i: lengths[i])
        right = [i for i in by_length if rewards[i] == 1]
        wrong = [i for i in by_length if rewards[i] == 0]
        count = max(len(right), len(wrong)) if right and wrong else 0
        steps = range(count)
        expected += [(right[i * len(right) // count], wrong[i * len(wrong) // count]) for i in steps]
    pairs = [(int(b), int(w)) for b, w in pair_up(rewards, groups, lengths, seed=0)]
    assert pairs[: len(expected)] == expected
    excess = [int(np.sign(lengths[b] - lengths[w])) for b, w in expected]
    difference = excess.count(1) - excess.count(-1)
    if excess.count(1) and excess.count(-1):
        repeated = pairs[len(expected) :]
        assert len(repeated) == abs(difference)
        assert all(np.sign(lengths[b] - lengths[w]) == -np.sign(difference) for b, w in repeated)
        assert set(repeated) <= set(expected)
    else:
        assert len(pairs) == len(expected)


def test_prompts_without_a_choice_give_no_pairs() -> None:
    with pytest.raises(WMTPError) as error:
        pair_up(array(1, 1, 0), numbers(0, 0, 1), numbers(1, 2, 3), seed=0)
    assert str(error.value) == (
        "no prompt has answers of different reward: pairwise needs a correct and an incorrect answer to the same "
        "prompt"
    )
