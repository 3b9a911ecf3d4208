"""The tests and the demo on other people's machines, as far as one machine can be made to look like them.

    python tests/elsewhere.py [--full] [NAME ...]

Each condition runs a representative part of the tests and a demo of a few steps; with --full, all default tests and
the whole demo. Names choose conditions. A table at the end says what passed; what cannot be had here is named in it.
The interpreter that runs this needs what `make setup` installs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICK = [
    "tests/test_storage.py",
    "tests/cli/test_cli.py::test_ls_and_env",
    "tests/cli/test_cli.py::test_train_evaluate_generate_inspect_report",
    "tests/data/test_sources.py",
    "tests/test_lock.py",
    "tests/sandbox/test_execution.py",
    "tests/report/test_run_report.py",
    "tests/tracking/test_store.py",
]
NUMERICAL = [
    "tests/model",
    "tests/loss",
    "tests/decode",
    "tests/evaluate/test_speed.py",
    "tests/train/test_module.py",
]
LOWEST_PATHS = [
    f"tests/{name}" for name in ("model", "decode", "data", "weighting", "config", "cli", "report")
]
SMALL_DEMO = [
    "--arms=uniform,rho1",
    "train.steps=20",
    "train.warmup_steps=5",
    "compare.reference.train.steps=10",
    "evaluate.max_new_tokens=16",
    "data.tinycode.train=400",
    "data.tinycode.validation=20",
    "data.tinycode.test=20",
    "data.tinycode.curated=100",
]
NOBODY = 65534
VERSIONS = ("3.11", "3.12", "3.13", "3.14")


@dataclass
class Machine:
    """Where the commands of a condition run."""

    place: Path
    python: str = sys.executable
    prefix: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    packages: list[str] = field(default_factory=list)
    umask: int = -1
    closes_input: bool = False
    quick: list[str] = field(default_factory=lambda: QUICK)
    options: list[str] = field(default_factory=list)
    is_partial: bool = False

    def run(self, arguments: list[str], log: Path) -> bool:
        search = [str(self.place / "src"), *self.packages]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(search)} | self.environment
        command = [*self.prefix, self.python, *arguments]
        if self.closes_input:
            command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
        with log.open("ab") as file:
            done = subprocess.run(
                command,
                cwd=self.place,
                env={name: value for name, value in environment.items() if value != ""},
                stdin=None if self.closes_input else subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                umask=self.umask,
                start_new_session=True,
                check=False,
            )
        return done.returncode == 0


class Unavailable(Exception):
    """This machine cannot be made to look like that one."""


def capability(level: str) -> Callable[[Machine], None]:
    def change(machine: Machine) -> None:
        machine.quick = NUMERICAL
        machine.environment |= {"ATEN_CPU_CAPABILITY": level}
        if level != "default":
            machine.environment |= {"ONEDNN_MAX_CPU_ISA": level.upper()}

    return change


def one_core(machine: Machine) -> None:
    if shutil.which("taskset") is None:
        raise Unavailable("no taskset")
    machine.prefix = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]


def two_threads(machine: Machine) -> None:
    machine.quick = NUMERICAL
    machine.environment |= {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}


def ordinary_user(machine: Machine) -> None:
    """Nobody, with a home of its own, and an interpreter and packages that it can read."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        raise Unavailable("only root can become somebody else" if os.getuid() else "no setpriv")
    # Root's rights outlast the first exec, not the second.
    machine.prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env"]
    home = machine.place.parent / "home"
    home.mkdir()
    machine.environment |= {"HOME": str(home), "USER": "nobody", "LOGNAME": "nobody"}
    version = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        found = subprocess.run([*machine.prefix, python, "-c", ""], capture_output=True, check=False)
        if found.returncode == 0:
            break
    else:
        raise Unavailable(f"no {version} that an ordinary user can start")
    if python != sys.executable:
        machine.python, machine.packages = python, [sysconfig.get_path("purelib")]
    for path in (home, machine.place, *machine.place.rglob("*"), machine.place.parent):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def strange_path(machine: Machine) -> None:
    place = machine.place.parent / "Größe und Übung  пример 模型"
    machine.place.rename(place)
    machine.place = place


def plain_locale(machine: Machine) -> None:
    machine.environment |= {"LC_ALL": "C", "LANG": "", "TZ": "Asia/Kathmandu"}


def ascii_output(machine: Machine) -> None:
    """A terminal of another age; the tests themselves read their files in the locale's encoding."""
    machine.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    machine.quick, machine.is_partial = ["tests/test_storage.py", "tests/data/test_sources.py"], True


def turkish_locale(machine: Machine) -> None:
    installed = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.lower()
    if "tr_tr.utf8" not in installed:
        raise Unavailable("tr_TR.UTF-8 is not installed")
    machine.environment |= {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Chatham"}


def read_only_home(machine: Machine) -> None:
    """A home that cannot be written, by root either: it is not a folder that exists."""
    machine.environment |= {"HOME": "/proc/no-home"}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME", "MPLCONFIGDIR"):
        machine.environment[name] = ""


def strict_umask(machine: Machine) -> None:
    machine.umask = 0o077


def other_temporary_folder(machine: Machine) -> None:
    folder = machine.place.parent / "temporary files"
    folder.mkdir()
    machine.environment |= {"TMPDIR": str(folder)}


def no_input(machine: Machine) -> None:
    machine.closes_input = True


def lowest_versions(machine: Machine) -> None:
    """The lowest versions that pyproject.toml claims, resolved together; torch is the one at hand.

    Old libraries use what newer ones beside them call deprecated, so warnings are no errors here.
    """
    folder = machine.place.parent / "lowest"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    torch, kept = f"torch=={metadata.version('torch').partition('+')[0]}", folder / "torch.txt"
    kept.write_text(torch)
    python = str(folder / "bin" / "python")
    resolve = ["-m", "uv", "pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct"]
    for command in (
        ["-m", "pip", "install", "--quiet", "uv", torch],
        [*resolve, "--override", str(kept), "--editable", f"{machine.place}[dev,mlflow]"],
    ):
        if subprocess.run([python, *command], stdout=sys.stderr, check=False).returncode:
            raise Unavailable("its packages could not be installed")
    machine.python, machine.quick = python, LOWEST_PATHS
    machine.options = ["-o", "filterwarnings=default"]


def other_python(version: str) -> Callable[[Machine], None]:
    def change(machine: Machine) -> None:
        if version == f"3.{sys.version_info.minor}":
            raise Unavailable("runs this already")
        python = find_python(version)
        if python is None:
            raise Unavailable("not installed")
        environment = machine.place.parent / "venv"
        command = ["make", "setup", f"PYTHON={python}", f"VENV={environment}"]
        if subprocess.run(command, cwd=machine.place, stdout=sys.stderr, check=False).returncode:
            raise Unavailable("its packages could not be installed")
        machine.python = str(environment / "bin" / "python")

    return change


def find_python(version: str) -> str | None:
    own = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
    return str(own[-1]) if own else shutil.which(f"python{version}")


CONDITIONS: dict[str, Callable[[Machine], None]] = {
    "default capability": capability("default"),
    "AVX2": capability("avx2"),
    "one core": one_core,
    "two threads": two_threads,
    "ordinary user": ordinary_user,
    "strange path": strange_path,
    "locale C": plain_locale,
    "ASCII output": ascii_output,
    "locale tr_TR": turkish_locale,
    "read-only home": read_only_home,
    "umask 077": strict_umask,
    "TMPDIR elsewhere": other_temporary_folder,
    "no input": no_input,
    "lowest versions": lowest_versions,
} | {f"Python {version}": other_python(version) for version in VERSIONS}


@contextmanager
def copy_of_the_project() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as folder:
        os.chmod(folder, 0o755)
        place = Path(folder, "wmtp")
        ignored = shutil.ignore_patterns(
            ".git", ".venv", "__pycache__", "runs", ".wmtp", ".*_cache", ".hypothesis"
        )
        shutil.copytree(ROOT, place, ignore=ignored)
        yield place


def try_condition(name: str, is_full: bool, logs: Path) -> tuple[str, str]:
    """What became of the tests and of the demo."""
    log = logs / f"{name.replace(' ', '-')}.log"
    with copy_of_the_project() as place:
        machine = Machine(place)
        try:
            CONDITIONS[name](machine)
        except Unavailable as reason:
            return f"not tried: {reason}", ""
        paths = [] if is_full and not machine.is_partial else machine.quick
        tests = machine.run(
            ["-m", "pytest", "-p", "no:cacheprovider", "-n", "2", *machine.options, *paths], log
        )
        small = [] if is_full else SMALL_DEMO
        demo = machine.run(["-m", "wmtp", "compare", "recipes/demo.yaml", *small], log)
    return _said(tests), _said(demo)


def _said(passed: bool) -> str:
    return "passed" if passed else "FAILED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CONDITIONS))
    parser.add_argument("--full", action="store_true", help="all default tests and the whole demo")
    parser.add_argument("--logs", type=Path, help="folder for what was printed; default: a new one")
    arguments = parser.parse_args()
    names = arguments.names or list(CONDITIONS)
    if unknown := [name for name in names if name not in CONDITIONS]:
        parser.error(f"no condition {unknown[0]!r}; there are: {', '.join(CONDITIONS)}")
    logs = arguments.logs or Path(tempfile.mkdtemp(prefix="elsewhere-logs-"))
    logs.mkdir(parents=True, exist_ok=True)
    print(f"what is printed goes to {logs}\n\n{'condition':20} {'tests':32} {'demo':8} seconds", flush=True)
    is_red = False
    for name in names:
        started = time.monotonic()
        tests, demo = try_condition(name, arguments.full, logs)
        is_red |= "FAILED" in (tests, demo)
        print(f"{name:20} {tests:32} {demo:8} {time.monotonic() - started:7.0f}", flush=True)
    return int(is_red)


if __name__ == "__main__":
    sys.exit(main())
