"""Packages that the task names are there for tests and candidates, and no others."""

import sys
from pathlib import Path

import pytest

from wmtp.errors import WMTPError
from wmtp.sandbox import Execution, Limits, Program, Verdict, describe, execute
from wmtp.sandbox.levels import LEVELS

SUM = "import numpy as np\ndef f(n): return float(np.arange(n).sum())"
CLOSE = ("import numpy as np", "assert np.allclose(f(4), 6)")


def judge(
    code: str, *tests: str, packages: tuple[str, ...] = ("numpy",), level: str = "auto", **limits: float
) -> Execution:
    return execute(Program("x", code, tests, packages=packages), Limits(**limits), level)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", LEVELS)
def test_numpy_at_every_level(level: str) -> None:
    if not (facts := describe(level))["works"]:
        pytest.skip(facts["message"])
    assert judge(SUM, *CLOSE, level=level).verdict is Verdict.PASSED
    assert judge(SUM, *CLOSE, packages=(), level=level).verdict is not Verdict.PASSED
    beside = judge("import scipy", "assert True", level=level)
    assert beside.verdict is Verdict.FAILED
    assert "No module named 'scipy'" in beside.message
    passed = execute(Program("x", SUM, CLOSE, tests_inside=True, packages=("numpy",)), Limits(), level)
    assert passed.verdict is Verdict.PASSED


def test_what_a_package_costs_is_not_the_programs() -> None:
    """The import alone takes up more address space than is left to this program."""
    product = "import numpy as np\ndef f(n): return float((np.ones((n, n)) @ np.ones((n, n))).sum())"
    assert judge(product, "assert f(100) == 1e6", memory_mib=64).verdict is Verdict.PASSED
    greedy = "import numpy as np\ndef f(n): return len(np.ones(n * 2**20, 'u1'))"
    assert judge(greedy, "assert f(20) == 20 * 2**20", memory_mib=64).verdict is Verdict.PASSED
    execution = judge(greedy, "assert f(100) == 100 * 2**20", memory_mib=64)
    assert execution.verdict is Verdict.FAILED
    assert "Unable to allocate" in execution.message


@pytest.mark.slow
def test_processor_time_is_still_limited() -> None:
    burning = "import numpy as np\ndef f(n):\n    while True: np.ones((300, 300)) @ np.ones((300, 300))"
    assert judge(burning, "assert f(1)", cpu_seconds=1).verdict is Verdict.TIMEOUT


def test_a_package_that_is_not_installed_is_nobodys_failure() -> None:
    execution = judge("def f(): return 1", "assert f() == 1", packages=("numpy", "no_such_package"))
    assert execution.verdict is Verdict.ERROR
    assert execution.message == "the tests need the package 'no_such_package', which is not installed here"


def test_a_package_that_does_not_work_is_nobodys_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package").mkdir(mode=0o755)
    (tmp_path / "broken_package" / "__init__.py").write_text("import scipy")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    execution = judge("import broken_package", "assert True", packages=("broken_package",))
    assert execution.verdict is Verdict.ERROR
    assert "No module named 'scipy'" in execution.message


def test_a_package_in_a_closed_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other user may go; modules are found that are imported only once the program is confined."""
    place = tmp_path / "closed"
    (place / "own_package").mkdir(parents=True)
    (place / "own_package" / "__init__.py").write_text("X = 1")
    (place / "own_package" / "late.py").write_text("Y = 2")
    (place / "single_module.py").write_text("Z = 3")
    place.chmod(0o700)
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    code = (
        "from single_module import Z\ndef f():\n    from own_package import X, late\n    return X, late.Y, Z"
    )
    execution = judge(code, "assert f() == (1, 2, 3)", packages=("own_package", "single_module"))
    assert execution.verdict is Verdict.PASSED, execution.message


def test_the_standard_library_needs_no_mention() -> None:
    assert judge("import math\ndef f(): return 1", "assert f() == 1", packages=("math",)).message == ""


def test_a_package_has_a_name() -> None:
    with pytest.raises(WMTPError, match=r"package 'a\.b' should be the name of a package"):
        Program("x", "", ("f()",), packages=("a.b",))
