"""Every command in the README and in the other pages is executed, on small sizes."""

import gzip
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wmtp.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_PAGES = ["data.md", "distributed.md", "evaluation.md", "mlflow.md", "scorers.md"]
"""Pages beside the README whose commands are for reading from top to bottom."""
SMALL = [
    "model.hidden_size=32",
    "model.layers=2",
    "model.attention_heads=2",
    "train.steps=2",
    "train.batch_size=2",
    "train.warmup_steps=1",
    "train.save_every=2",
    "data.vocab_size=300",
    "data.sequence_length=256",
    "data.tinycode.train=100",
    "data.tinycode.validation=6",
    "data.tinycode.test=4",
    "data.tinycode.curated=20",
    "data.tinycode.max_operations=2",
    "data.tinycode.families=[list]",
    "critic.overrides={train.steps: 2}",
    "evaluate.max_new_tokens=8",
]


MORE = {"evaluation.md": {"train": ["data.sequence_length=2048"], "evaluate": ["evaluate.max_new_tokens=8"]}}
"""By page and command, further settings that keep it small, or let it run on small files."""


def write_benchmarks() -> None:
    """Two problems of each benchmark under the names that docs/evaluation.md gives the published files."""
    names = ("twice", "again")
    he = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f"def {name}(x):\n",
            "entry_point": name,
            "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        }
        for i, name in enumerate(names)
    ]
    plus = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f"def {name}(x):\n",
            "entry_point": name,
            "canonical_solution": "    return 2 * x\n",
            "contract": "",
            "base_input": [[2]],
            "plus_input": [[3]],
            "atol": 0,
            "test": he[i]["test"],
        }
        for i, name in enumerate(names)
    ]
    mbpp = [
        {
            "task_id": i,
            "text": "Double.",
            "code": "def f(x): return 2 * x",
            "test_list": ["assert f(2) == 4"] * 3,
        }
        for i in (2, 3, 4, 11, 12)
    ]
    cases = {"input": ["2"], "output": ["4"]}
    contests = [
        {"name": n, "description": "Double.", "public_tests": cases, "private_tests": cases} for n in names
    ]
    samples = [{"task_id": row["task_id"], "completion": "    return 2 * x\n"} for row in he]
    live = [
        {
            "question_id": n,
            "question_content": "Double.",
            "contest_date": "2024-08-01T00:00:00",
            "public_test_cases": json.dumps([{"input": "2", "output": "4"}]),
        }
        for n in names
    ]
    files = {
        "mbpp.jsonl": mbpp,
        "code_contests.jsonl": contests,
        "test5.jsonl": live,
        "samples.jsonl": samples,
    }
    for file, rows in files.items():
        Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed = {"HumanEval": he, "HumanEvalPlus": plus}
    for file, rows in packed.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        Path(f"{file}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages ("" for none named)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def write_files(page: Path) -> None:
    """What a page calls a file, by a comment with its name on the first line of a block."""
    for block in blocks(page, "yaml", "python"):
        named = re.match(r"# (\w+\.\w+)\n", block)
        if named:
            Path(named[1]).write_text(block)


def commands(page: Path) -> list[list[str]]:
    """Command lines of a page, as words."""
    lines = [line for block in blocks(page, "", "sh") for line in block.splitlines()]
    known = ("wmtp ", "torchrun ", "make ", ".venv/bin/")
    return [shlex.split(line, comments=True) for line in lines if line.startswith(known)]


def anchors(page: Path) -> list[str]:
    """What the headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def run_wmtp(words: list[str], monkeypatch: pytest.MonkeyPatch, page: str = "") -> None:
    takes_recipe = words[1] in ("train", "score", "compare") and "--diagnose" not in words
    small = SMALL if takes_recipe else []
    more = [] if "--samples" in words else MORE.get(page, {}).get(words[1], [])
    monkeypatch.setattr(sys, "argv", [*words, *small, *more])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code, words


def run_torchrun(words: list[str]) -> None:
    """As many launchers as the command is for machines, with a process each where there are several."""
    nodes = int(words[words.index("--nnodes") + 1]) if "--nnodes" in words else 1
    if nodes > 1:
        words[words.index("--nproc-per-node") + 1] = "1"
    words = [word.replace("HOST:29500", f"localhost:{free_port()}") for word in words]
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:], *SMALL]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(nodes)
    ]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.slow
def test_every_wmtp_command_of_the_readme_runs_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe,) = blocks(ROOT / "README.md", "yaml")
    Path("mine.yaml").write_text(recipe)
    rows = [{"question": f"{i} + 1?", "answer": f"{i + 1}", "curated": i % 3 == 0} for i in range(60)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [words for words in commands(ROOT / "README.md") if words[0] == "wmtp"]
    assert len(own) >= 12
    for words in own:
        run_wmtp(words, monkeypatch)
    assert Path("runs/demo/report.html").exists()
    assert Path("weights.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES)
def test_every_command_of_a_page_runs_in_its_order(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [words for words in commands(ROOT / "docs" / page) if words[0] in ("wmtp", "torchrun")]
    assert own
    write_files(ROOT / "docs" / page)
    write_benchmarks()
    for words in own:
        if "evaluate.protocol=chat" in words:
            give_chat_template(Path(words[2]))
        if words[0] == "wmtp":
            run_wmtp(words, monkeypatch, page)
        else:
            run_torchrun(words)


def give_chat_template(run: Path) -> None:
    """What a run has whose base is an instruct model."""
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "chat_template.jinja").write_text(template)


def test_the_scorer_of_the_page_trains_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "scorers.md"
    (scorer,) = blocks(page, "python")
    assert len(scorer.splitlines()) <= 20
    write_files(page)
    (train,) = [words for words in commands(page) if words[1] == "train" and "name=rare" in words]
    monkeypatch.delitem(sys.modules, "my_scorers", raising=False)  # another test's
    run_wmtp([*train, "train.log_every=1"], monkeypatch)
    recipe = yaml.safe_load(Path("runs/rare/recipe.yaml").read_text())
    assert recipe["scorer"] == {"name": "my_scorers:Rare", "power": 1.0}
    records = [json.loads(line) for line in Path("runs/rare/metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["kind"] == "train"]
    assert len(trained) == 2
    for record in trained:
        assert record["weight_mean"] == pytest.approx(1, abs=1e-5)
        assert record["weight_effective"] < 0.99
        assert record["nonfinite_scores"] == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_other_command_is_one_that_exists(page: Path) -> None:
    for words in commands(page):
        if words[0] == "make":
            done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=False)
            assert done.returncode == 0, words
        elif words[0] == ".venv/bin/python":
            if "pytest" not in words:  # the next test has those
                subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0].startswith(".venv/bin/"):
            assert shutil.which(Path(words[0]).name, path=str(Path(sys.executable).parent)), words
        else:
            assert page.name in ("README.md", *RUN_PAGES), f"{words} is not covered by the tests above"


@pytest.mark.slow
def test_every_pytest_command_finds_its_tests() -> None:
    own = [words for page in PAGES for words in commands(page) if "pytest" in words]
    assert own
    for words in own:
        command = [sys.executable, *words[1:], "--collect-only", "-q"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow) if page.name == "scorers.md" else page for page in PAGES],
    ids=[page.name for page in PAGES],
)
def test_every_python_block_runs(page: Path) -> None:
    for block in blocks(page, "python"):
        subprocess.run([sys.executable, "-c", block], check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_holds_a_conflict(page: Path) -> None:
    assert not re.findall(r"^(?:<<<<<<<|=======|>>>>>>>)", page.read_text(), re.MULTILINE)
