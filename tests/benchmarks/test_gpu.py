"""The kit for a machine with a GPU, without one."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MACHINE = {
    "device": "Card 9000",
    "torch": "2.11.0",
    "transformers": "5.17.0",
    "python": "3.12.3",
    "wmtp": "1",
}


@pytest.fixture(scope="module")
def kit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_kit", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_running(process: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_stage_passes_or_fails(kit: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    passed = kit.run_stage(python("print('fine')"), 30, log, os.environ)
    assert (passed["outcome"], passed["budget"]) == ("passed", 30)
    assert "last_lines" not in passed
    failed = kit.run_stage(
        python("print('tests/a.py::b FAILED [1%]'); raise SystemExit(1)"), 30, log, os.environ
    )
    assert failed["outcome"] == "failed"
    assert failed["failed_tests"] == ["tests/a.py::b"]
    assert failed["last_lines"] == ["tests/a.py::b FAILED [1%]"]
    assert "fine\n" in log.read_text()


def test_a_stage_that_exceeds_its_budget_is_killed_with_its_children(kit: ModuleType, tmp_path: Path) -> None:
    sleep = "import subprocess, sys; child = subprocess.Popen(['sleep', '600']); "
    sleep += "print(f'{child.pid}\\ntests/a.py::b PASSED', flush=True); child.wait()"
    found = kit.run_stage(python(sleep), 2, tmp_path / "log.txt", os.environ)
    assert found["outcome"] == "out of time"
    assert found["tests"] == {"PASSED": 1}
    child, *_ = found["last_lines"]
    deadline = time.monotonic() + 10  # a killed process is gone soon, not at once
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_results_of_tests_are_read_until_the_output_ends(kit: ModuleType) -> None:
    output = """\
tests/loss/a.py::test_x[gpu-0.1] PASSED      [ 25%]
tests/loss/a.py::test_y[{'parallel': 'fsdp'}] FAILED [ 50%]
tests/loss/a.py::test_z SKIPPED (only a GPU is waited for) [ 75%]
tests/loss/a.py::test_hangs """
    assert kit.tests_of(output) == {
        "tests/loss/a.py::test_x[gpu-0.1]": "PASSED",
        "tests/loss/a.py::test_y[{'parallel': 'fsdp'}]": "FAILED",
        "tests/loss/a.py::test_z": "SKIPPED",
    }


def test_results_are_written_after_each_stage(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results.json"
    one = "import sys; from pathlib import Path; Path(sys.argv[-1]).write_text('[{\"seconds\": 1.5}]')"
    two = f"import json; assert list(json.load(open({str(results)!r}))['stages']) == ['one']"
    stages = (kit.Stage("one", 30, ("-c", one), True), kit.Stage("two", 30, ("-c", two)))
    monkeypatch.setattr(kit, "STAGES", stages)
    found = kit.run_kit(sys.executable, "cpu", MACHINE, tmp_path, 60)
    assert [stage["outcome"] for stage in found["stages"].values()] == ["passed", "passed"]
    assert found["stages"]["one"]["figures"] == [{"seconds": 1.5}]
    assert json.loads(results.read_text()) == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "results.json"]
    found = kit.run_kit(sys.executable, "cpu", MACHINE, tmp_path, 4)
    assert kit.summary(found) == ["not run: one, no time was left", "not run: two, no time was left"]


def test_what_went_wrong_is_said_at_the_end(kit: ModuleType) -> None:
    tests = {"PASSED": 5, "FAILED": 1, "SKIPPED": 2}
    failed = {
        "outcome": "failed",
        "tests": tests,
        "failed_tests": ["tests/a.py::b"],
        "last_lines": ["E  wrong"],
    }
    slow = {"outcome": "out of time", "budget": 60.0}
    assert kit.summary(
        {"stages": {"tests of loss": failed, "step": slow, "loss": {"outcome": "passed"}}}
    ) == [
        "failed: tests/a.py::b",
        "failed: tests of loss",
        "    E  wrong",
        "skipped: 2 of 8 tests of loss",
        "out of time: step, killed after 60 s",
    ]


@pytest.mark.parametrize(("code", "status"), [("", 0), ("raise SystemExit(3)", 1)])
def test_it_exits_with_1_unless_every_stage_passed(
    code: str, status: int, kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        kit,
        "STAGES",
        (
            kit.Stage(
                "one",
                30,
                ("-c", ""),
            ),
            kit.Stage("two", 30, ("-c", code)),
        ),
    )
    monkeypatch.setattr(kit, "describe_machine", lambda *_: MACHINE)
    monkeypatch.setattr(kit.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        kit.main()
    assert left.value.code == status


def test_all_stages_fit_into_eight_minutes(kit: ModuleType) -> None:
    assert sum(stage.seconds for stage in kit.STAGES) <= kit.TOTAL_SECONDS < 8 * 60


def write_wheel(folder: Path, name: str) -> None:
    """A wheel of version 1.2 that holds an empty module."""
    about = f"{name}-1.2.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.mark.slow
def test_what_is_missing_is_installed_from_wheels_and_the_rest_is_the_machines(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path, "wmtp_carried")
    monkeypatch.setattr(kit, "required_packages", lambda: ["pytest>=8", "wmtp_carried>=1.1"])
    found = kit.interpreter(tmp_path, tmp_path / "venv")
    subprocess.run([found, "-c", "import pytest, wmtp_carried"], check=True)
    monkeypatch.setattr(kit, "required_packages", lambda: ["wmtp_forgotten>=1"])
    with pytest.raises(SystemExit, match=r"^WHEELS=.*: ERROR: No matching distribution.* wmtp_forgotten>=1"):
        kit.interpreter(tmp_path, tmp_path / "other")


def test_what_is_missing_is_one_line(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required = ["torch>=2.11", "wmtp_forgotten>=1", "pytest>=8", "PyYAML>=600.0"]
    monkeypatch.setattr(kit, "required_packages", lambda: required)
    with pytest.raises(
        SystemExit, match=r"lacks wmtp_forgotten>=1, PyYAML>=600.0: give a folder .*WHEELS=folder$"
    ):
        kit.interpreter(None, tmp_path)


def test_every_requirement_is_understood(kit: ModuleType) -> None:
    required = kit.required_packages()
    assert {"pytest>=8", "torch>=2.11"} <= set(required)
    assert all(name and lowest for name, _, lowest in (text.partition(">=") for text in required))
    assert kit.missing_packages(required) == []


def test_the_page_is_that_of_the_published_results(kit: ModuleType) -> None:
    results = json.loads((ROOT / "docs" / "performance.json").read_text())
    assert (ROOT / "docs" / "performance.md").read_text() == kit.page(results)
    assert results["rehearsal"] is False


def test_the_page_says_what_ran_where_and_what_never_ran(kit: ModuleType) -> None:
    tests = {"outcome": "failed", "tests": {"PASSED": 5, "FAILED": 1}, "seconds": 61.5}
    step = {"title": "D=1024", "results": [{"variant": "uniform MTP", "seconds": 0.123456, "ratio": 1.0}]}
    stages = {"tests of training": tests, "step": {"outcome": "passed", "seconds": 9.0, "figures": step}}
    page = kit.page(
        {"date": "2030-01-02 03:04 UTC", "rehearsal": False, "machine": MACHINE, "stages": stages}
    )
    assert (
        "Card 9000, 2030-01-02 03:04 UTC: torch 2.11.0, transformers 5.17.0, Python 3.12.3, wmtp 1." in page
    )
    assert "| tests of training | failed | 5 passed, 1 failed | 61.5 | 90 |" in page
    assert "| loss | not run |  |  | 60 |" in page
    assert "| variant | seconds | ratio |\n|---|---|---|\n| uniform MTP | 0.1235 | 1 |" in page
    assert page.count("Never run on a GPU.") == 2


def test_a_rehearsal_is_not_published(kit: ModuleType, tmp_path: Path) -> None:
    before = (ROOT / "docs" / "performance.json").read_text()
    (tmp_path / "results.json").write_text(json.dumps({"rehearsal": True}))
    with pytest.raises(SystemExit, match="a rehearsal on the CPU says nothing about a GPU"):
        kit.publish(tmp_path / "results.json")
    assert (ROOT / "docs" / "performance.json").read_text() == before


@pytest.mark.slow
def test_the_benchmarks_take_the_sizes_of_a_gpu(kit: ModuleType, tmp_path: Path) -> None:
    """The rehearsal has other sizes; every flag before the wrong one is understood."""
    for stage in kit.STAGES:
        if stage.benchmark:
            command = stage.command(sys.executable, "cuda", tmp_path / "figures.json")
            assert all(size in command for size in stage.sizes.split())
            done = subprocess.run(
                [*command, "--wrong"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.stderr.endswith("error: unrecognized arguments: --wrong\n"), done.stderr


@pytest.mark.slow
def test_the_kit_is_rehearsed_on_the_processor(kit: ModuleType, tmp_path: Path) -> None:
    words = [
        "make",
        "gpu",
        "QUICK=1",
        f"OUT={tmp_path}",
        f"PYTHON={sys.executable}",
        f"VENV={tmp_path / 'none'}",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert list(results["stages"]) == [stage.name for stage in kit.STAGES]
    page = kit.page(results)
    for row in ("wmtp, chunked", "Rho-1 soft, live reference", "speculative, 3 heads"):
        assert f"| {row} |" in page
    collect = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "tests/"]
    listed = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = {line for line in listed if "::" in line}
    assert len(expected) > 40
    assert kit.tests_of((tmp_path / "log.txt").read_text()).keys() == expected
