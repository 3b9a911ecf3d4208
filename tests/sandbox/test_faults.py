"""What the tests do wrong is nobody's failure, and what comes of the candidate's values is the candidate's."""

import pytest

from wmtp.sandbox import Execution, Limits, Program, Verdict, execute

F = "def f(x): return x"


def judge(code: str, *tests: str, **facts: object) -> Execution:
    return execute(Program("x", code, tests, **facts), Limits())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (
            ("import no_such_module", "assert f(1) == 1"),
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (
            ("assert f(1) == 1", "from math import no_such_name"),
            "ImportError: cannot import name 'no_such_name'",
        ),
        (("assert f(1) == 1\nimport math\nmath.no_such_name(2)",), "AttributeError: module 'math'"),
        (("def check(g):\n    x = [].pop()\n    assert g(x)", "check(f)"), "IndexError: pop from empty list"),
        (("assert 1 == 2",), "AssertionError"),
        (("assert len(later) == f(1)\nlater = [1]",), "NameError: name 'later' is not defined"),
        (("assert f(1) ==",), "the tests do not compile"),
        (("import math\nassert math.inf(1) == f(2)",), "TypeError"),
    ],
)
def test_the_tests_fault(tests: tuple[str, ...], message: str) -> None:
    execution = judge(F, *tests)
    assert execution.verdict is Verdict.ERROR
    assert message in execution.message


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "test", ["assert f(1) == 1\nimport no_such_module", "f(1), sys.no_such_name", "f(1), np"]
)
def test_the_tests_fault_once_the_candidate_has_run(test: str, inside: bool) -> None:
    execution = judge(F, test, setup="import sys", tests_inside=inside, defines=("f",))
    assert execution.verdict is Verdict.ERROR, execution.message
    assert execution.inside is inside


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(x): pass", "assert f(1) + 1 == 2"),
        ("def f(x): pass", "assert f(1)[0] == 2"),
        ("def f(x): pass", "assert f('a').strip() == 'a'"),
        ("def f(x): return []", "for y in f(1): last = y\nassert last == 1"),
        ("def f(x): import no_such_module", "assert f(1) == 1"),
        ("def f(x): return x.no_such_name", "import sys\nassert f(1) == 1"),
        ("def f(x): return np", "assert f(1) == 1"),
        ("def g(x): return x", "assert f(1) == 1"),
        ("import no_such_module\ndef f(x): return x", "assert f(1) == 1"),
        ("f = None", "assert f(1) == 1"),
    ],
)
def test_the_candidates_fault(code: str, test: str, inside: bool) -> None:
    execution = judge(code, test, tests_inside=inside, defines=("f",))
    assert execution.verdict is Verdict.FAILED, execution.message


def test_no_module_of_the_candidates_choice_makes_an_error_of_a_failure() -> None:
    code = "import string as math\ndef f(x): return x"
    for test in ("assert math.floor(f(1)) == 1", "assert f(math.floor(1.5)) == 1"):
        assert judge(code, test, defines=("f", "math")).verdict is Verdict.FAILED


def test_an_attribute_that_the_candidate_names_is_its_failure() -> None:
    assert judge("def f(x): return 'nothing'", "import math\ngetattr(math, f(1))").verdict is Verdict.FAILED


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["sorted", "math", "f"])
def test_the_entry_point_is_always_the_candidates(name: str, inside: bool) -> None:
    check = "import math\ndef check(candidate):\n    assert candidate([2, 1]) == sorted([math.floor(2.5), 1])"
    facts = {"entry_point": name, "tests_inside": inside}
    right = f"def {name}(xs): return [min(xs), max(xs)]"
    if inside and name == "sorted":
        facts["tests_inside"] = False
    assert judge(right, check, "check(candidate)", **facts).verdict is Verdict.PASSED
    assert judge(f"def {name}(xs): pass", check, "check(candidate)", **facts).verdict is Verdict.FAILED
    for missing in ("", "def other(xs): return [1, 2]"):
        execution = judge(missing, check, "check(candidate)", **facts)
        assert execution.verdict is Verdict.FAILED
        assert execution.message.endswith(f"the tests use {name!r}, which the program does not define")


@pytest.mark.parametrize(
    "argument",
    [
        "lambda v: v * 2",
        "double",
        "Thing().double",
        "__import__('functools').partial(double)",
        "[lambda v: v * 2][0]",
        "Thing.double_all",
    ],
)
def test_what_tests_pass_and_cannot_cross_is_judged_inside(argument: str) -> None:
    setup = (
        "def double(v): return 2 * v\nclass Thing:\n    def double(self, v): return 2 * v\n"
        "    @staticmethod\n    def double_all(v): return 2 * v"
    )
    tests = ("assert app(str, [1]) == ['1']", f"assert app({argument}, [1, 2]) == [2, 4]")
    right = judge("def app(f, xs): return [f(x) for x in xs]", *tests, setup=setup)
    assert (right.verdict, right.inside) == (Verdict.PASSED, True), right.message
    wrong = judge("def app(f, xs): return [f(x) for x in xs][:1]", *tests, setup=setup)
    assert (wrong.verdict, wrong.inside) == (Verdict.FAILED, True)
    assert wrong.message.startswith("test 2 of 2: assert app(")


def test_a_module_passed_is_judged_inside() -> None:
    execution = judge("def f(m): return m.sqrt(4)", "import math\nassert f(math) == 2")
    assert (execution.verdict, execution.inside) == (Verdict.PASSED, True)


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(x): return lambda: x", "f(1)"),  # what it returns
        ("def f(x): return x\ndef g(): pass", "f(g)"),  # what it defines
        ("def f(x): return [x] * 149", "y = f(1)\nfor _ in range(160): y = [y]\nf(y)"),  # what it makes deep
    ],
)
def test_no_candidate_can_have_itself_judged_inside(code: str, test: str) -> None:
    execution = judge(code, test)
    assert (execution.verdict, execution.inside) == (Verdict.FAILED, False)


def test_no_except_in_a_test_keeps_it_from_being_judged_inside() -> None:
    swallowing = "try:\n    assert f(lambda: 2) == 3\nexcept BaseException:\n    pass"
    assert judge("def f(g): return g() + 1", swallowing, "assert f(lambda: 1) == 2").inside is True
