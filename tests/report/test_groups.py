import pytest

from wmtp.errors import WMTPError
from wmtp.records import Evaluation, ProblemResult
from wmtp.report.groups import grouped


def evaluation(passed: list[int], samples: int = 2, *, known: bool = True, prefix: str = "t") -> Evaluation:
    problems = [
        ProblemResult(
            task_id=f"{prefix}/{i}",
            samples=samples,
            passed=count,
            verdict="passed",
            operations=1 + i % 2 if known else None,
            family="list" if i < 3 else "string",
        )
        for i, count in enumerate(passed)
    ]
    return Evaluation("t", "greedy", len(passed), samples, {}, problems)


def test_shares_are_averaged_over_the_problems_of_a_group_and_seeds() -> None:
    evaluations = {
        "a": [evaluation([2, 0, 1, 0]), evaluation([2, 2, 1, 0])],
        "b": [evaluation([0, 0, 0, 2])] * 2,
    }
    by_operations = grouped(evaluations, "operations")
    assert [(group.name, group.problems) for group in by_operations] == [("1", 2), ("2", 2)]
    assert by_operations[0].pass_at_1["a"].value == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)
    assert by_operations[1].pass_at_1["a"].value == pytest.approx((0 + 0 + 1 + 0) / 4)
    assert by_operations[1].pass_at_1["b"].value == pytest.approx(0.5)
    assert [(g.name, g.problems) for g in grouped(evaluations, "family")] == [("list", 3), ("string", 1)]


def test_the_order_of_the_problems_does_not_matter() -> None:
    one = evaluation([2, 0, 1, 0])
    other = Evaluation("t", "greedy", 4, 2, {}, list(reversed(one.by_problem)))
    assert grouped({"a": [one], "b": [other]}, "operations")[0].pass_at_1["a"].value == 0.75
    assert grouped({"a": [one], "b": [other]}, "operations")[0].pass_at_1["b"].value == 0.75


def test_without_the_key_there_are_no_groups() -> None:
    assert grouped({"a": [evaluation([1, 1], known=False)]}, "operations") == []


def test_other_problems_are_refused() -> None:
    with pytest.raises(WMTPError, match="'b' was evaluated on different problems from 'a'"):
        grouped({"a": [evaluation([1, 1])], "b": [evaluation([1, 1], prefix="u")]}, "family")
