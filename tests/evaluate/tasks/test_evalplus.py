"""HumanEval+ and MBPP+: their files, their comparison, and the numbers of base and plus."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.foreign import evaluate_samples
from wmtp.evaluate.tasks import TASKS, Problem
from wmtp.evaluate.tasks.evalplus_inputs import mbpp_arguments
from wmtp.evaluate.tasks.evalplus_oracle import check_results, is_close
from wmtp.sandbox import Limits, execute_all

Write = Callable[[str, Sequence[Any]], Path]


def plus_row(
    name: str, body: str, base: list[Any], plus: Any, atol: float = 0, **more: Any
) -> dict[str, Any]:
    """A problem in EvalPlus's own format."""
    return {
        "task_id": "HumanEval/0",
        "prompt": f'def {name}(x):\n    """Do it."""\n',
        "entry_point": name,
        "canonical_solution": f"    {body}\n",
        "contract": "",
        "base_input": base,
        "plus_input": plus,
        "atol": atol,
    } | more


def mbpp_row(number: int, code: str, base: list[Any], plus: Any) -> dict[str, Any]:
    name = code.split("def ")[1].split("(")[0]
    return plus_row(
        name, "", base, plus, task_id=f"Mbpp/{number}", prompt='"""\nDo it.\n"""\n', canonical_solution=code
    )


def recipe_for(task: str, path: Path) -> Recipe:
    settings = {"task": task, "data": str(path), "allow_code_execution": True, "workers": 1}
    return Recipe.model_validate({"evaluate": settings})


def problems(task: str, path: Path) -> list[Problem]:
    return TASKS.create(task, recipe_for(task, path)).problems()


def verdicts(problem: Problem, *completions: str) -> list[tuple[str, bool | None]]:
    """Verdict, and whether the base tests passed."""
    found = dict(execute_all(map(problem.program, completions), Limits(cpu_seconds=4), 1))
    return [(str(found[n].verdict), found[n].public) for n in range(len(completions))]


def test_base_and_plus_are_told_apart(write_lines: Write) -> None:
    (problem,) = problems(
        "humanevalplus", write_lines("p.jsonl", [plus_row("size", "return abs(x)", [[2]], [[-2]])])
    )
    assert problem.solution is not None
    found = verdicts(problem, problem.solution, "    return x\n", "    return 7\n", "    return None\n")
    assert found == [("passed", True), ("failed", True), ("failed", False), ("failed", False)]


def test_pass_at_k_of_base_and_plus_are_reported(write_lines: Write, tmp_path: Path) -> None:
    path = write_lines("p.jsonl", [plus_row("size", "return abs(x)", [[2]], [[-2]])])
    rows = [
        {"task_id": "HumanEval/0", "completion": f"    return {text}\n"} for text in ("abs(x)", "x", "7", "x")
    ]
    result = evaluate_samples(write_lines("s.jsonl", rows), recipe_for("humanevalplus", path), tmp_path)
    assert result["pass_at"]["1"]["value"] == 1 / 4
    assert result["base_pass_at"]["1"]["value"] == 3 / 4
    assert result["solutions"] == {"passed": 1, "failed": 0, "unchecked": 0}


numbers = st.one_of(
    st.integers(-(10**6), 10**6), st.floats(allow_nan=True, allow_infinity=True, width=32), st.booleans()
)
values = st.recursive(numbers, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=5)


@given(values, values, st.sampled_from([1e-6, 1e-4, 0.5]))
def test_numbers_are_as_close_as_numpy_says(found: Any, wanted: Any, tolerance: float) -> None:
    try:
        shapes = np.shape(found), np.shape(wanted)
    except ValueError:  # ragged: numpy compares none of these
        return
    with np.errstate(all="ignore"):
        expected = shapes[0] == shapes[1] and np.allclose(found, wanted, rtol=1e-07, atol=tolerance)
    assert is_close(found, wanted, tolerance) == expected


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=3), st.floats(-2e-6, 2e-6))
def test_near_numbers_are_as_close_as_numpy_says(wanted: list[float], difference: float) -> None:
    found = [value + difference for value in wanted]
    assert is_close(found, wanted, 1e-6) == np.allclose(found, wanted, rtol=1e-07, atol=1e-6)


def agrees(
    found: Any,
    wanted: Any,
    given: Sequence[Any] = (0,),
    name: str = "f",
    atol: float = 0,
    benchmark: str = "mbpp",
) -> bool:
    try:
        check_results(lambda *_: found, lambda *_: wanted, [given], (benchmark, name, atol))
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("found", "wanted", "right"),
    [
        (1.0 + 1e-7, 1.0, True),
        (1.0 + 1e-5, 1.0, False),
        (1, 1.0, True),  # equal, so that types do not matter
        ([1.0 + 1e-8], [1.0], True),
        ((1.0 + 1e-8,), [1.0], False),
        ([1.0, 2.0], [1.0], False),
        ([1.0 + 1e-8, 2], [1.0, 2], False),  # not all floats: compared exactly
        ("a", 1.0, False),
        (None, None, True),
        ({"a": math.nan}, {"a": float("nan")}, True),
        (math.nan, float("nan"), False),
    ],
)
def test_results_are_compared_as_evalplus_does(found: Any, wanted: Any, right: bool) -> None:
    assert agrees(found, wanted) is right


@pytest.mark.parametrize(
    ("name", "found", "wanted", "given", "right"),
    [
        ("find_dissimilar", [1, 2, 2], (2, 1), (0,), True),
        ("find_dissimilar", [1], (2, 1), (0,), False),
        ("find_dissimilar", 3, (2, 1), (0,), False),
        ("check_str", "anything", "match", (0,), True),
        ("check_str", None, "match", (0,), False),
        ("check_str", False, None, (0,), True),
        ("check_str", True, None, (0,), False),
        ("are_equivalent", "whatever", True, (0,), True),
        ("sum_div", 0, 1, (0,), True),
        ("surface_Area", 33, 34, (3, 4), False),
        ("surface_Area", round(9 + 6 * math.sqrt(1.5**2 + 16)), 33, (3, 4), True),
        ("digit_distance_nums", 9, 1, (19, 20), False),
        ("digit_distance_nums", 10, 1, (19, 20), True),
        ("f", [1, 2, 2], (2, 1), (0,), False),
    ],
)
def test_special_problems_of_mbpp(
    name: str, found: Any, wanted: Any, given: tuple[Any, ...], right: bool
) -> None:
    assert agrees(found, wanted, given, name) is right
    if name != "f":
        assert not agrees(found, "none of these", given, name, benchmark="humaneval")


def test_a_root_need_not_be_the_reference_s() -> None:
    polynomial = ([-1.0, 0.0, 1.0],)
    for root, right in ((1.0, True), (-1.00001, True), (0.9, False), ("1", False), (None, False)):
        assert agrees(root, 1.0, polynomial, "find_zero", 1e-4, "humaneval") is right


def test_a_float_s_tolerance_holds_for_the_results_behind_it() -> None:
    results = iter([1.0, [1, 2.0 + 1e-8]])
    wanted = iter([1.0, [1, 2.0]])
    check_results(lambda _: next(results), lambda _: next(wanted), [(0,), (0,)], ("mbpp", "f", 0))


@pytest.mark.parametrize(
    ("number", "given", "expected"),
    [
        (2, [[1], [2]], [(1,), (2,)]),
        (63, [[[1, 2], [3]]], [[(1, 2), (3,)]]),
        (75, [[[1], [2]], 3], [[(1,), (2,)], 3]),
        (106, [[1], [2]], [[1], (2,)]),
        (115, [[[1, 1], [], {}]], [[{1}, {}, {}]]),
        (124, ["0", "1j"], [0.0, 1j]),
        (252, ["2j"], [2j]),
        (259, [[[1], [2]]], [((1,), (2,))]),
        (278, [[1, [2]]], [(1, (2,))]),
        (307, [[1], 2, 3], [(1,), 2, 3]),
        (722, [{"a": [1]}, 2], [{"a": (1,)}, 2]),
        (580, [[1, [2, [3]]]], [(1, (2, (3,)))]),
        (3, [[1]], [[1]]),
    ],
)
def test_arguments_have_the_types_that_functions_expect(number: int, given: Any, expected: Any) -> None:
    (found,) = mbpp_arguments(number, [given])
    assert list(found) == expected
    assert [type(each) for each in found] == [type(each) for each in expected]


def test_a_result_that_only_must_not_be_none(write_lines: Write) -> None:
    code = "import re\ndef check_str(x):\n    return re.match('a', x)\n"
    (problem,) = problems("mbppplus", write_lines("m.jsonl", [mbpp_row(1, code, [["a"]], [["b"]])]))
    assert verdicts(problem, code, "def check_str(x): return x == 'a'", "def check_str(x): return 'yes'") == [
        ("passed", True),
        ("passed", True),
        ("failed", True),
    ]


HUB_TEST = """
import numpy as np

def assertion(out, exp, atol):
    assert out == exp or np.allclose(out, exp, rtol=1e-07, atol=1e-6)

{head}inputs = [[1], [2]]
{indent}results = [0.5, 1.0]
{indent}for i, (inp, exp) in enumerate(zip(inputs, results)):
{indent}    assertion({call}(*inp), exp, 0)
"""


def test_the_hub_s_rows_are_judged_with_numpy(write_lines: Write) -> None:
    test = HUB_TEST.format(head="def check(candidate):\n    ", indent="    ", call="candidate")
    row = plus_row("half", "return x / 2", [], [], test=test)
    for field in ("base_input", "plus_input", "atol", "contract"):
        del row[field]
    (he,) = problems("humanevalplus", write_lines("h.jsonl", [row]))
    assert [v for v, _ in verdicts(he, "    return x * 0.5 + 1e-9\n", "    return x\n")] == [
        "passed",
        "failed",
    ]
    code = "def half(x): return x / 2"
    row = {
        "task_id": 9,
        "code": code,
        "prompt": "Halve.",
        "test_imports": [],
        "test_list": ["assert half(2) == 1"],
    }
    row["test"] = HUB_TEST.format(head="", indent="", call="half")
    (mbpp,) = problems("mbppplus", write_lines("m.jsonl", [row]))
    assert [v for v, _ in verdicts(mbpp, code, "def half(x): return 1")] == ["passed", "failed"]


def test_a_result_of_the_hub_s_rows_that_only_must_not_be_none(write_lines: Write) -> None:
    code = "import re\ndef check_str(x):\n    return re.match('a', x)\n"
    row = {"task_id": 737, "code": code, "prompt": "Do it.", "test_list": ["assert check_str('a')"]}
    row["test"] = "assert check_str('a') is not None\nassert check_str('b') is None"
    (problem,) = problems("mbppplus", write_lines("m.jsonl", [row]))
    wrong = "def check_str(x): return 'yes'"
    assert [verdict for verdict, _ in verdicts(problem, code, wrong)] == ["passed", "failed"]


@pytest.mark.parametrize(
    ("task", "changed", "line"),
    [
        ("humaneval", {}, "is a problem of HumanEval+; use --task humanevalplus"),
        (
            "humaneval",
            {"plus_input": None, "test": HUB_TEST.format(head="    ", indent="", call="f")},
            "humanevalplus",
        ),
        ("mbpp", {}, "is a problem of MBPP+; use --task mbppplus"),
        ("mbpp", {"plus_input": None, "test": "inputs = []"}, "is a problem of MBPP+; use --task mbppplus"),
        ("humanevalplus", {"plus_input": None, "test": "def check(candidate): pass"}, "use --task humaneval"),
        ("mbppplus", {"plus_input": None, "test": None}, "use --task mbpp"),
        ("mbppplus", {}, "'HumanEval/0' should be Mbpp/ and a number; HumanEval+ is task humanevalplus"),
        ("humanevalplus", {"task_id": "Mbpp/2"}, "'Mbpp/2' should be HumanEval/ and a number"),
        ("humanevalplus", {"base_input": [1]}, "'base_input' should be a list of lists of arguments"),
        ("humanevalplus", {"atol": "0"}, "'atol' should be a number from 0"),
        ("mbppplus", {"task_id": "Mbpp/75"}, "'base_input' does not fit problem 75 of MBPP"),
    ],
)
def test_what_is_not_as_it_should_be_is_one_line(
    write_lines: Write, task: str, changed: dict[str, Any], line: str
) -> None:
    row = plus_row("f", "return x", [[1]], [[2]], test="def check(candidate): pass") | changed
    row = {key: value for key, value in row.items() if value is not None}
    with pytest.raises(WMTPError, match=r"p\.jsonl, line 1") as error:
        problems(task, write_lines("p.jsonl", [row]))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_people_guess_are_answered() -> None:
    for guess, name in (
        ("humaneval+", "humanevalplus"),
        ("mbpp_plus", "mbppplus"),
        ("humaneval_plus", "humanevalplus"),
    ):
        with pytest.raises(WMTPError, match=f"did you mean.*'{name}'"):
            TASKS.create(guess, Recipe())


def test_infinite_numbers_are_read(write_lines: Write) -> None:
    path = write_lines("p.jsonl", [plus_row("same", "return [x]", [[1]], [[math.inf], [math.nan]])])
    assert "NaN" in json.dumps(math.nan)
    (problem,) = problems("humanevalplus", path)
    assert verdicts(problem, "    return [x]\n") == [("passed", True)]
