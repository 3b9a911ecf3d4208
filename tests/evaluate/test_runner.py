"""Generate, execute, count, with a real model and a real sandbox; stopped anywhere, the result is the same."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from small_models import small_model
from spaced_tokenizer import spaced_tokenizer
from wmtp.checkpoint.store import MANIFEST
from wmtp.config import Config, Recipe
from wmtp.data.tokenizer import encode, encode_completions, train_tokenizer
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.stopping import StopStrings
from wmtp.errors import WMTPError
from wmtp.evaluate import judging
from wmtp.evaluate.runner import evaluate, evaluate_run, evaluation_path, samples_path
from wmtp.evaluate.samples import SampleFile
from wmtp.evaluate.tasks import TASKS, ListedTask, Problem, problems_of, task_of
from wmtp.evaluate.tasks.humaneval import STOPS
from wmtp.model.modeling import MTPForCausalLM
from wmtp.run import Run as TrainedRun
from wmtp.sandbox import Execution, Program, Verdict
from wmtp.storage import sha256_file, sha256_text
from wmtp.train.run import train

Write = Callable[[str, Sequence[Any]], Path]
ORIGIN = {"checkpoint": "step-1", "dtype": "float32"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return train_tokenizer(["def twice(x):\n    return 2 * x\n"] * 3, 270, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> MTPForCausalLM:
    return small_model(2, len(tokenizer), positions=160)


def recipe_for(path: Path, seed: int = 3, **evaluate: Any) -> Recipe:
    sampled = {"samples": 2, "k": [1, 2], "temperature": [0.7, 1.0], "max_new_tokens": 8, "batch_size": 5}
    return Recipe.model_validate(
        {
            "seed": seed,
            "evaluate": {"task": "humaneval", "data": str(path), "allow_code_execution": True, "workers": 2}
            | sampled
            | evaluate,
        }
    )


Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
    functions: list[dict[str, str]],
) -> Run:
    path = tmp_path_factory.mktemp("data") / "he.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in functions))

    def evaluated(file: Path, origin: dict[str, Any] = ORIGIN, **settings: Any) -> dict[str, Any]:
        recipe = recipe_for(path, **settings)
        task = task_of(recipe)
        return evaluate(model, tokenizer, task, recipe, file, origin, file.parent)

    return evaluated


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The samples and the result of an evaluation that nobody stopped."""
    path = tmp_path_factory.mktemp("whole") / "s.jsonl"
    return path, run(path)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def cut_at(stops: Sequence[str], text: str) -> str:
    return min((text.split(stop)[0] for stop in stops), key=len)


def test_samples_are_those_of_generate_and_the_numbers_those_of_the_samples(
    whole: tuple[Path, dict[str, Any]],
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    write_lines: Write,
    functions: Any,
) -> None:
    path, result = whole
    lines = lines_of(path)
    assert [(x["task_id"], x["temperature"], x["sample"]) for x in lines] == [
        (f["task_id"], t, s) for t in (0.7, 1.0) for f in functions for s in range(2)
    ]
    prompts = [ids for ids in encode(tokenizer, [f["prompt"] for f in functions]) for _ in range(2)]
    at_one = generate(
        model,
        prompts,
        DecodeOptions(8, {int(tokenizer.eos_token_id)}, temperature=1.0, seed=3, batch_size=5),
        streams=range(6, 12),
    )
    stops = TASKS.create("humaneval", recipe_for(write_lines("he.jsonl", functions))).stop
    cut = [cut_at(stops, tokenizer.decode(tokens)) for tokens in at_one.tokens]
    assert [x["completion"] for x in lines[6:]] == cut
    assert len(set(cut)) > 3
    assert result["protocol"].startswith("lm-eval (changed: samples=2, k=[1, 2], temperature=[0.7, 1], ")
    assert result["pass_at"]["2"]["best_of"] == [0.7, 1.0]
    assert sum(result["verdicts"].values()) == 12
    assert result["stops"] == Counter(line["stop"] for line in lines)
    assert result["problems"] == 3
    assert len(result["prompts_sha256"]) == 64
    assert result["decoding"]["same_as_greedy"] is None
    json.dumps(result, allow_nan=False)


def test_a_chat_is_rendered_ends_with_its_turn_and_is_recorded(
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    write_lines: Write,
    functions: list[dict[str, str]],
) -> None:
    chatting = copy.deepcopy(tokenizer)
    chatting.chat_template = "{% for m in messages %}{{ m.content }}<|pad|>{% endfor %}"
    path = write_lines("he.jsonl", functions)
    recipe = recipe_for(path, protocol="chat", samples=1, k=[1], temperature=0, max_new_tokens=8)
    task = task_of(recipe)
    messages = [problem.prompt for problem in task.problems()]
    assert all("def " in message and message.endswith("```") for message in messages)
    room = small_model(2, len(chatting), positions=600)
    result = evaluate(room, chatting, task, recipe, tmp_path / "s.jsonl", ORIGIN, tmp_path)
    turn = chatting.convert_tokens_to_ids("<|pad|>")
    ends = {turn, int(chatting.eos_token_id)}
    found = generate(
        room,
        [[*ids, turn] for ids in encode(chatting, messages)],
        DecodeOptions(8, ends),
    )
    lines = lines_of(tmp_path / "s.jsonl")
    assert [line["completion"] for line in lines] == [chatting.decode(tokens) for tokens in found.tokens]
    assert [line["stop"] for line in lines] == found.stops
    assert result["prompts_sha256"] == sha256_text(*(f"{message}<|pad|>" for message in messages))
    assert (result["settings"]["chat"], result["extraction"]) == (True, "fenced")
    about = json.loads((tmp_path / "s.json").read_text())
    assert about["completions"]["end tokens"] == sorted(ends)
    assert about["completions"]["chat"] is True
    assert about["verdicts"]["extraction"] == "fenced"
    with pytest.raises(WMTPError, match="the tokenizer has no chat template"):
        evaluate(model, tokenizer, task, recipe, tmp_path / "t.jsonl", ORIGIN, tmp_path)


@pytest.mark.parametrize("top_p", [0.6, 1.0])
def test_samples_come_from_the_protocols_nucleus(
    run: Run,
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    functions: list[dict[str, str]],
    top_p: float,
) -> None:
    run(tmp_path / "s.jsonl", samples=1, k=[1], temperature=[0.9], top_p=top_p)
    found = {
        nucleus: generate(
            model,
            encode(tokenizer, [f["prompt"] for f in functions]),
            DecodeOptions(8, {int(tokenizer.eos_token_id)}, temperature=0.9, top_p=nucleus, seed=3),
        ).tokens
        for nucleus in (0.6, 1.0)
    }
    assert found[0.6] != found[1.0]
    own = [line["completion"] for line in lines_of(tmp_path / "s.jsonl")]
    assert own == [cut_at(STOPS, tokenizer.decode(tokens)) for tokens in found[top_p]]


def test_greedy_completions_are_those_that_drafting_gives(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "s.jsonl", samples=1, k=[1], temperature=0)
    assert result["protocol"] == "lm-eval (changed: max_new_tokens=8)"
    assert result["decoding"]["same_as_greedy"] == 3


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_of_a_gpu_is_evaluated_there(
    precision: str, make_recipe: Callable[..., Recipe], config: Config, gpu_device: str, tmp_path: Path
) -> None:
    devices = config.devices.model_copy(update={"device": gpu_device, "precision": precision})
    config, recipe = config.model_copy(update={"devices": devices}), make_recipe(**TINYCODE)
    train(recipe, config, tmp_path / "run")
    run = TrainedRun(tmp_path / "run", recipe, config)
    assert run.model.device.type == gpu_device
    low = precision == "bf16" and gpu_device != "cpu"
    assert run.model.dtype is (torch.bfloat16 if low else torch.float32)
    result = evaluate_run(run)
    assert sum(result["verdicts"].values()) == result["problems"] == 4
    if not low:  # in bf16, blocks of several tokens may round otherwise than single ones
        assert result["decoding"]["same_as_greedy"] == 4


class Killed(BaseException):
    """Stands for a process that is gone: nothing catches it."""


@pytest.mark.parametrize(
    ("writes", "torn"),
    [
        (3, True),
        (15, False),
        *(
            pytest.param(*point, marks=pytest.mark.slow)
            for point in [(0, False), (1, True), (11, True), (12, True)]
        ),
    ],
)
def test_stopped_anywhere_the_result_is_that_of_one_that_was_not(
    run: Run,
    whole: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
    torn: bool,
) -> None:
    path, result = whole
    left = writes
    real = SampleFile._write

    def dying(self: SampleFile, line: str) -> None:
        nonlocal left
        if left == 0:
            if torn:
                self._file.write(line[: len(line) // 2].encode())
                self._file.flush()
            raise Killed
        left -= 1
        real(self, line)

    with monkeypatch.context() as patched:
        patched.setattr(SampleFile, "_write", dying)
        with pytest.raises(Killed):
            run(tmp_path / "s.jsonl")
    assert run(tmp_path / "s.jsonl") == result
    assert (tmp_path / "s.jsonl").read_bytes() == path.read_bytes()


def test_what_is_there_is_neither_generated_nor_executed_again(
    run: Run, whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, result = whole

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    def only_drafts(model: Any, prompts: Any, options: DecodeOptions, **rest: Any) -> Any:
        return generate(model, prompts, options, **rest) if options.heads is None else never()

    monkeypatch.setattr("wmtp.evaluate.generation.generate", only_drafts)
    monkeypatch.setattr(judging, "execute_all", lambda programs, *_: iter([never() for _ in programs]))
    assert run(path) == result


def test_a_batch_of_which_something_is_missing_is_decoded_as_a_whole(
    run: Run, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, result = whole
    (tmp_path / "s.json").write_bytes(path.with_suffix(".json").read_bytes())
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "s.jsonl").write_text("".join(lines[:2] + lines[3:]))
    decoded = []

    def watched(model: Any, prompts: Any, options: DecodeOptions, **rest: Any) -> Any:
        if options.heads == 1:
            decoded.append(list(rest["streams"]))
        return generate(model, prompts, options, **rest)

    monkeypatch.setattr("wmtp.evaluate.generation.generate", watched)
    assert run(tmp_path / "s.jsonl") == result
    (streams,) = decoded
    assert len(streams) == 5
    assert 2 in streams


@pytest.mark.parametrize(
    ("origin", "settings", "named"),
    [
        ({**ORIGIN, "checkpoint": "step-2"}, {}, "checkpoint"),
        (ORIGIN, {"protocol": "bigcode"}, "protocol, prompts, top_p, stop strings"),
        (ORIGIN, {"limit": 2}, "prompts"),
        ({**ORIGIN, "dtype": "bfloat16"}, {}, "dtype"),
        (ORIGIN, {"seed": 4}, "seed"),
        (ORIGIN, {"temperature": [0.7, 1.1]}, "temperatures"),
        (ORIGIN, {"samples": 3}, "samples"),
        (ORIGIN, {"top_p": 0.9}, "top_p"),
        (ORIGIN, {"max_new_tokens": 7}, "max_new_tokens"),
    ],
)
def test_samples_of_another_evaluation_are_not_taken(
    run: Run,
    whole: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: Any,
    origin: Any,
    settings: dict[str, Any],
    named: str,
) -> None:
    path, result = whole
    for file in path.parent.glob("s.json*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    other = run(tmp_path / "s.jsonl", origin, **settings)
    assert f"holds samples of another {named}; set aside" in capsys.readouterr().err
    assert path.read_bytes() in [file.read_bytes() for file in tmp_path.glob("s*.old-1")]
    assert (other["prompts_sha256"] == result["prompts_sha256"]) == ("prompts" not in named)


def test_programs_that_could_not_be_judged_are_not_scored_but_tried_again(
    run: Run, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = judging.execute_all

    def unlucky(*arguments: Any) -> Iterator[tuple[int, Execution]]:
        for index, execution in real(*arguments):
            broken = dataclasses.replace(execution, verdict=Verdict.ERROR, message="no process")
            yield index, broken if index in (2, 5) else execution

    with monkeypatch.context() as patched:
        patched.setattr(judging, "execute_all", unlucky)
        result = run(tmp_path / "s.jsonl")
    broken = [line for line in lines_of(tmp_path / "s.jsonl") if line["verdict"] == "error"]
    assert len(broken) == 2
    assert {(line["passed"], line["result"]) for line in broken} == {(None, "error: no process")}
    names = list(dict.fromkeys(line["task_id"] for line in broken))
    assert [each["task_id"] for each in result["excluded"]] == names
    assert [each["task_id"] for each in result["by_problem"]] == [
        each["task_id"] for each in whole[1]["by_problem"] if each["task_id"] not in names
    ]
    assert result["problems"] == 3 - len(names)
    assert sum(result["verdicts"].values()) == 4 * (3 - len(names))
    (line,) = result["left_out"]
    assert f"2 of {4 * len(names)} programs could not be judged: {names[0]} (error: no process)" in line
    assert run(tmp_path / "s.jsonl") == whole[1]


def test_ctrl_c_says_how_to_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judging, "execute_all", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s.jsonl")
    assert "s.jsonl: holds 12 of 12 samples, 0 of them judged; repeat the command" in capsys.readouterr().err


def test_nobody_allowed_it(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path / "x", allow_code_execution=False)
    with pytest.raises(WMTPError, match=r"evaluate\.allow_code_execution"):
        evaluate_run(TrainedRun(tmp_path, recipe, Config()))


TINYCODE: dict[str, Any] = {
    "data.source": "tinycode",
    "data.sequence_length": 256,
    "data.overlong": "drop",
    "data.tinycode": {"train": 40, "validation": 4, "test": 4, "curated": 0, "max_operations": 2},
    "evaluate.allow_code_execution": True,
    "evaluate.max_new_tokens": 12,
    "train.steps": 2,
}


@pytest.mark.slow
def test_a_run_keeps_the_results_of_two_protocols_apart(
    make_recipe: Callable[..., Recipe],
    config: Config,
    tmp_path: Path,
    write_lines: Write,
    functions: list[dict[str, str]],
) -> None:
    train(make_recipe(**TINYCODE), config, tmp_path / "run")
    data = write_lines("he.jsonl", functions)
    written = []
    threads = torch.get_num_threads()
    devices = config.devices.model_copy(update={"threads": threads + 1})
    config = config.model_copy(update={"devices": devices})
    for protocol in (None, "bigcode"):
        changes = {"task": "humaneval", "data": str(data), "protocol": protocol, "samples": 1, "k": [1]}
        recipe = make_recipe(**TINYCODE, **{f"evaluate.{key}": value for key, value in changes.items()})
        run = TrainedRun(tmp_path / "run", recipe, config)
        result = evaluate_run(run)
        assert result["checkpoint"] == "step-00000002"
        assert json.loads(evaluation_path(run).read_text()) == json.loads(json.dumps(result))
        assert len(lines_of(samples_path(run))) == 3
        made_from = json.loads(samples_path(run).with_suffix(".json").read_text())["completions"]
        manifest = run.directory / "checkpoints" / result["checkpoint"] / MANIFEST
        assert made_from["checkpoint"] == f"{result['checkpoint']} {sha256_file(manifest)[:16]}"
        assert made_from["dtype"] == "float32"
        written.append(evaluation_path(run).name)
    assert written == ["evaluation-humaneval.json", "evaluation-humaneval-bigcode.json"]
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


@dataclasses.dataclass(frozen=True)
class OwnTask:
    """A task of one's own."""

    stop: tuple[str, ...] = ()
    name: str = "own"
    count: int = 1

    def problems(self) -> list[Problem]:
        """One problem, as often as wanted."""
        return [Problem("p", "x", lambda code: Program("p", code, ("assert True",)))] * self.count


OWN_TASK = f"{__name__}:OwnTask"


def listed(task: OwnTask) -> ListedTask:
    return ListedTask(task.name, task.stop, problems_of(task, None))


def test_a_task_without_problems(
    model: MTPForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    recipe = Recipe.model_validate({"evaluate": {"task": OWN_TASK}})
    with pytest.raises(WMTPError, match=r"^evaluate\.task own: has no problems$"):
        evaluate(model, tokenizer, listed(OwnTask(count=0)), recipe, tmp_path / "s.jsonl", ORIGIN, tmp_path)
    assert not (tmp_path / "s.jsonl").exists()


def test_a_body_keeps_its_indentation_with_a_tokenizer_that_strips_a_space(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_lines: Write, functions: list[dict[str, str]]
) -> None:
    spaced = spaced_tokenizer()
    bodies = encode_completions(
        spaced, [f["prompt"] for f in functions], [f["canonical_solution"] for f in functions]
    )
    assert spaced.decode(bodies[0]).startswith("   return")

    def answer(
        *_: Any, on_end: Callable[[int, list[int], str], None], streams: Sequence[int], **__: Any
    ) -> None:
        for index, number in enumerate(streams):
            on_end(index, bodies[number], "eos")

    monkeypatch.setattr("wmtp.evaluate.generation.generate", answer)
    recipe = recipe_for(write_lines("he.jsonl", functions), samples=1, k=[1], temperature=0)
    task, model = task_of(recipe), small_model(1, len(spaced))
    result = evaluate(model, spaced, task, recipe, tmp_path / "s.jsonl", ORIGIN, tmp_path)
    assert result["verdicts"] == {"passed": 3}


def test_a_task_of_ones_own_and_its_stop_strings(
    model: MTPForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    recipe = Recipe.model_validate({"evaluate": {"task": OWN_TASK, "max_new_tokens": 12}})

    def completion(stop: tuple[str, ...], name: str) -> tuple[str, int]:
        result = evaluate(model, tokenizer, listed(OwnTask(stop)), recipe, tmp_path / name, ORIGIN, tmp_path)
        assert result["protocol"] == "greedy (changed: max_new_tokens=12)"
        (line,) = lines_of(tmp_path / name)
        return str(line["completion"]), result["decoding"]["tokens"]

    whole, most = completion((), "whole.jsonl")
    last = [character for character in whole if character != "\N{REPLACEMENT CHARACTER}"][-1]
    cut, fewer = completion((last,), "cut.jsonl")
    assert cut == whole[: whole.index(last)] != whole
    ended = generate(model, encode(tokenizer, ["x"]), DecodeOptions(12, stop=StopStrings(tokenizer, (last,))))
    assert fewer == ended.generated < most


@pytest.mark.slow
def test_killed_for_real_and_repeated(
    make_recipe: Callable[..., Recipe], config: Config, tmp_path: Path, write_lines: Write, functions: Any
) -> None:
    from wmtp.config import to_yaml

    several = [{**f, "task_id": f"{f['task_id']}.{i}"} for i in range(4) for f in functions]
    data = write_lines("he.jsonl", several)
    run = tmp_path / "run"
    recipe = make_recipe(**TINYCODE)
    train(recipe, config, run)
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    command = [sys.executable, "-m", "wmtp", "evaluate", str(run), "--task", "humaneval"]
    command += [
        f"evaluate.data={data}",
        "evaluate.samples=2",
        "evaluate.temperature=0.9",
        "evaluate.max_new_tokens=20",
    ]
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    command += ["--config", str(tmp_path / "config.yaml")]
    samples = run / "samples" / "humaneval.jsonl"
    subprocess.run(command, check=True, capture_output=True)
    whole = samples.read_bytes()
    for kill_at in (5, 40):
        samples.unlink()
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not samples.exists() or samples.read_bytes().count(b"\n") < kill_at:
            assert started.poll() is None
            time.sleep(0.01)
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        assert samples.read_bytes() != whole
        subprocess.run(command, check=True, capture_output=True)
        assert samples.read_bytes() == whole
