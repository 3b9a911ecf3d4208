"""The kit for a machine with a GPU: tests marked `gpu`, then benchmarks, in under eight minutes.

    make gpu                                    on a CUDA machine, without a network
    make gpu WHEELS=folder                      install what is missing from a folder of wheels
    make gpu QUICK=1                            rehearse it on the CPU with small sizes
    python benchmarks/gpu.py --docs [RESULTS]   publish results as docs/performance.md

Stages run in turn, the most valuable first, each in a process that is killed when its time is up. results.json and
log.txt are written after each stage, so that whatever ends the run early loses one stage at most. Exits with 1 unless
every stage passed. This script itself needs only Python's standard library.
"""

import argparse
import json
import os
import re
import shlex
import signal
import site
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "docs" / "performance.json"
TOTAL_SECONDS = 470.0
REHEARSAL_PATIENCE = 4.0
"""How many times longer a stage may take on the CPU, where it may share two cores with others."""
TEST_TOOLS = ("pytest", "hypothesis")
PYTEST = (
    *("-m", "pytest", "-m", "gpu", "-vv", "-rfE", "--tb=short", "-W", "default", "-p", "no:cacheprovider"),
    *("--continue-on-collection-errors", "-o", "faulthandler_timeout=40"),
)
PASSED, FAILED, OUT_OF_TIME, NOT_RUN = "passed", "failed", "out of time", "not run"


@dataclass(frozen=True)
class Stage:
    """One process of the kit.

    Attributes:
        name: as results and pages call it.
        seconds: its budget on a GPU.
        arguments: of Python; a benchmark also gets its device and where to write its figures.
        benchmark: whether it is one; else it runs tests.
        sizes: of a benchmark on a GPU; --quick replaces them in a rehearsal.
    """

    name: str
    seconds: float
    arguments: tuple[str, ...]
    benchmark: bool = False
    sizes: str = ""

    def command(self, python: Path, device: str, figures: Path) -> list[str]:
        """Its command line; figures is the file that a benchmark writes."""
        words = [str(python), *self.arguments]
        if self.benchmark:
            words += ["--quick"] if device == "cpu" else self.sizes.split()
            words += ["--device", device, "--json", str(figures)]
        return words


STAGES = (
    Stage("tests of loss and model", 80, (*PYTEST, "tests/loss", "tests/model")),
    Stage("tests of training", 90, (*PYTEST, "tests/train", "tests/distributed", "tests/checkpoint")),
    Stage("tests of decoding and evaluation", 80, (*PYTEST, "tests/decode", "tests/evaluate")),
    Stage("loss", 60, ("benchmarks/loss.py",), True, "--n 2048 --d 2048 --v 128256 --heads 4"),
    Stage(
        "step",
        70,
        ("benchmarks/step.py",),
        True,
        "--hidden-size 1024 --layers 12 --batch-size 8 --sequence-length 1024",
    ),
    Stage("decode", 90, ("benchmarks/decode.py",), True, "--prompts 8 --batch-sizes 1 8 --rounds 3"),
)


def required_packages() -> list[str]:
    """`name>=version` of what the package and its tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tools = project["optional-dependencies"]["dev"]
    return [*project["dependencies"], *(text for text in tools if text.partition(">=")[0] in TEST_TOOLS)]


def missing_packages(requirements: Iterable[str]) -> list[str]:
    """Those `name>=version` that this Python has no package for, or an older one."""
    missing = []
    for requirement in requirements:
        name, _, lowest = requirement.partition(">=")
        try:
            found = version(name)
        except PackageNotFoundError:
            missing.append(requirement)
            continue
        if _release(found) < _release(lowest):
            missing.append(requirement)
    return missing


def _release(text: str) -> tuple[int, ...]:
    """(2, 11, 0) of 2.11.0+cu130."""
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0]))


def install(requirements: Sequence[str], wheels: Path, folder: Path) -> Path:
    """Make a virtual environment on top of this Python's packages and install wheels into it; its interpreter."""
    venv.create(folder, system_site_packages=True, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # This Python may itself be a virtual environment, which one made from it does not see.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
    (packages / "beneath.pth").write_text("".join(lines))
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index"]
    command += ["--disable-pip-version-check", "--find-links", str(wheels), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        *_, last = done.stderr.strip().splitlines()
        raise SystemExit(f"WHEELS={wheels}: {last}")
    return python


def interpreter(wheels: Path | None, folder: Path) -> Path:
    """The Python that runs the stages: this one, or one with what it lacks."""
    missing = missing_packages(required_packages())
    if not missing:
        return Path(sys.executable)
    if wheels is None:
        raise SystemExit(
            f"{sys.executable} lacks {', '.join(missing)}: give a folder that holds their wheels, WHEELS=folder"
        )
    return install(missing, wheels, folder)


def stage_environment(device: str) -> dict[str, str]:
    """Environment variables of the stages: this checkout's package, no network, the tests' device."""
    path = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HF_HUB_OFFLINE": "1",
        "WMTP_GPU_DEVICE": device,
        "COLUMNS": "200",
    }


def describe_machine(python: Path, device: str) -> dict[str, Any]:
    """Card and versions, found by the package itself."""
    code = (
        "import json, sys; from wmtp.config import DevicesConfig; from wmtp.environment import describe; "
        "print(json.dumps(describe(DevicesConfig(device=sys.argv[1]))))"
    )
    command = [str(python), "-c", code, device]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=stage_environment(device))
    if done.returncode:
        *_, last = done.stderr.strip().splitlines()
        raise SystemExit(f"{last.removeprefix('wmtp.errors.WMTPError: ')}; make gpu QUICK=1 rehearses there")
    machine: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return machine


def run_stage(
    command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run a command in a process group of its own, kill what is left of it, and tell how it went.

    Args:
        command: its words.
        seconds: after which it is killed.
        log: the file that its output is appended to.
        environment: its variables.
    Returns:
        outcome, seconds, and unless it passed the last lines of its output.
    """
    with log.open("ab") as file:
        file.write(f"\n$ {shlex.join(command)}\n".encode())
        file.flush()
        beginning, started = file.tell(), time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            outcome = PASSED if process.wait(seconds) == 0 else FAILED
        except subprocess.TimeoutExpired:
            outcome = OUT_OF_TIME
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    output = log.read_bytes()[beginning:].decode(errors="replace")
    found = {"outcome": outcome, "seconds": round(time.monotonic() - started, 1), "budget": seconds}
    if tests := tests_of(output):
        found["tests"] = dict(Counter(tests.values()))
        found["failed_tests"] = [name for name, result in tests.items() if result in ("FAILED", "ERROR")]
    if outcome != PASSED:
        found["last_lines"] = output.strip().splitlines()[-15:]
    return found


def tests_of(output: str) -> dict[str, str]:
    """By test, PASSED, FAILED, SKIPPED or ERROR, from what `pytest -v` printed until it ended or was killed."""
    pattern = r"^(tests/\S+?::.+?) (PASSED|FAILED|SKIPPED|ERROR)\b"
    return dict(re.findall(pattern, output, flags=re.MULTILINE))


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is never seen half-written."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def run_kit(
    python: Path, device: str, machine: Mapping[str, Any], folder: Path, seconds: float
) -> dict[str, Any]:
    """Run the stages one after the other for as long as there is time.

    Args:
        python: the interpreter that runs them.
        device: cpu rehearses.
        machine: what it is, for the record.
        folder: where results.json and log.txt are written after each stage.
        seconds: for all of them.
    """
    started = time.monotonic()
    patience = REHEARSAL_PATIENCE if device == "cpu" else 1.0
    results: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "rehearsal": device == "cpu",
        "machine": machine,
        "stages": {},
    }
    figures, log = folder / "figures.json", folder / "log.txt"
    log.write_text("")
    for stage in STAGES:
        left = seconds - (time.monotonic() - started)
        if left > 5:
            print(f"{stage.name} ...", end=" ", flush=True)
            limit = round(min(patience * stage.seconds, left), 1)
            found = run_stage(stage.command(python, device, figures), limit, log, stage_environment(device))
            if figures.exists():
                found["figures"] = json.loads(figures.read_text())
                figures.unlink()
            print(f"{found['outcome']} ({found['seconds']} s)", flush=True)
        else:
            found = {"outcome": NOT_RUN}
        results["stages"][stage.name] = found
        write_atomically(folder / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def summary(results: Mapping[str, Any]) -> list[str]:
    """What failed, what ran out of time, what did not run and what was skipped, a line each."""
    lines = []
    for name, found in results["stages"].items():
        skipped = found.get("tests", {}).get("SKIPPED", 0)
        lines += [f"failed: {test}" for test in found.get("failed_tests", [])]
        if found["outcome"] == OUT_OF_TIME:
            lines.append(f"out of time: {name}, killed after {found['budget']:.0f} s")
        elif found["outcome"] == NOT_RUN:
            lines.append(f"not run: {name}, no time was left")
        elif found["outcome"] == FAILED:
            lines.append(f"failed: {name}")
        lines += [f"    {line}" for line in found.get("last_lines", [])]
        if skipped:
            lines.append(f"skipped: {skipped} of {sum(found['tests'].values())} {name}")
    return lines


def page(results: Mapping[str, Any]) -> str:
    """docs/performance.md."""
    parts = [INTRODUCTION, "## Results\n", _made_on(results), _stages_table(results)]
    for stage in STAGES:
        if stage.benchmark:
            figures = results["stages"].get(stage.name, {}).get("figures")
            parts += [f"## {stage.name.capitalize()}\n", f"`{' '.join(stage.arguments)} {stage.sizes}`\n"]
            parts += ["Never run on a GPU.\n"] if figures is None else _figures(figures)
    return "\n".join(parts)


INTRODUCTION = """\
# Performance on a GPU

Tests and benchmarks on a GPU in under eight minutes. `python benchmarks/gpu.py --docs` writes this page from
[performance.json](performance.json).

```
make gpu                 # on a machine with CUDA and torch; needs no network
make gpu WHEELS=folder   # installs missing packages from a folder of wheels
make gpu QUICK=1         # rehearses all of it on the CPU with small sizes
```

It runs the tests marked `gpu`, then benchmarks, the most valuable first. A stage that exceeds its budget is killed.
After each stage it writes `build/gpu/results.json` (`OUT=folder` puts it elsewhere); `log.txt` beside it has all
output. It exits with 1 unless every stage passed.
`python benchmarks/gpu.py --docs build/gpu/results.json` publishes the results on this page.

To carry packages to a machine without a network, run `make gpu` there once: one line names what is missing.
`python -m pip wheel --wheel-dir folder …` with those names collects wheels on a machine of the same kind.
"""


def _made_on(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    if machine is None:
        return "Never run on a GPU.\n"
    return (
        f"{machine['device']}, {results['date']}: torch {machine['torch']}, "
        f"transformers {machine['transformers']}, Python {machine['python']}, wmtp {machine['wmtp']}.\n"
    )


def _stages_table(results: Mapping[str, Any]) -> str:
    rows = []
    for stage in STAGES:
        found = results["stages"].get(stage.name, {"outcome": NOT_RUN})
        tests = ", ".join(f"{count} {result.lower()}" for result, count in found.get("tests", {}).items())
        rows.append(
            {
                "stage": stage.name,
                "outcome": found["outcome"],
                "tests": tests,
                "seconds": found.get("seconds", ""),
                "budget": f"{stage.seconds:.0f}",
            }
        )
    return _table(rows)


def _figures(figures: Any) -> list[str]:
    """Tables of what a benchmark wrote: rows, or results that are rows or have cases with variants."""
    rows = figures["results"] if isinstance(figures, dict) else figures
    title = figures.get("title") if isinstance(figures, dict) else None
    if rows and "variants" in rows[0]:
        return [
            part for result in rows for part in (f"{_case(result['case'])}\n", _table(result["variants"]))
        ]
    return [*([f"{title}\n"] if title else []), _table(rows)]


def _case(case: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in case.items())


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [key for key, value in rows[0].items() if not isinstance(value, list)]
    lines = [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row[column]) for column in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def publish(results: Path) -> None:
    """Take results of a GPU as docs/performance.json, and write docs/performance.md from it."""
    text = results.read_text()
    found = json.loads(text)
    if found.get("rehearsal"):
        raise SystemExit(
            f"{results}: a rehearsal on the CPU says nothing about a GPU; give results of make gpu"
        )
    write_atomically(PUBLISHED, text)
    write_atomically(PUBLISHED.with_suffix(".md"), page(found))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="rehearse on the CPU with small sizes")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install what is missing from")
    parser.add_argument("--out", type=Path, help="the folder of results.json and log.txt")
    parser.add_argument(
        "--docs", type=Path, nargs="?", const=PUBLISHED, metavar="RESULTS", help="write docs/performance.md"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.docs is not None:
        publish(arguments.docs)
        return
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so ends the stage that runs
    device, patience = ("cpu", REHEARSAL_PATIENCE) if arguments.quick else ("cuda", 1.0)
    out = (arguments.out or ROOT / "build" / ("gpu-rehearsal" if arguments.quick else "gpu")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        python = interpreter(arguments.wheels, Path(folder) / "venv")
        machine = describe_machine(python, device)
        seconds = patience * TOTAL_SECONDS - (time.monotonic() - started)
        results = run_kit(python, device, machine, out, seconds)
    for line in summary(results):
        print(line)
    print(f"{out / 'results.json'} has the figures, log.txt beside it all output")
    sys.exit(any(found["outcome"] != PASSED for found in results["stages"].values()))


if __name__ == "__main__":
    main()
