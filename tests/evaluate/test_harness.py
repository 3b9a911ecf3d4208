"""The backend for lm-evaluation-harness against plain loops in float64, and whole tasks from local files."""

import ast
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from small_models import small_model
from spaced_tokenizer import spaced_tokenizer
from wmtp.config import Recipe
from wmtp.data.tokenizer import encode_completions, train_tokenizer
from wmtp.decode.batch import Generation
from wmtp.errors import WMTPError
from wmtp.model.modeling import MTPForCausalLM
from wmtp.storage import sha256_text

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.utils import apply_template

from wmtp.evaluate.harness import load_tasks, run_tasks
from wmtp.evaluate.harness_model import MTPBackend
from wmtp.evaluate.tasks import find_protocol
from wmtp.evaluate.tasks.mbpp import mbpp

POSITIONS = 16
TEXTS = ["one two three", "two and three", "red green blue", "a b c d e f", "naïve €"]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS * 20, 280, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> MTPForCausalLM:
    return small_model(2, len(tokenizer), seed=3, positions=POSITIONS).double()


@pytest.fixture(scope="session")
def backend(model: MTPForCausalLM, tokenizer: PreTrainedTokenizerFast) -> MTPBackend:
    return MTPBackend(model, tokenizer, batch_size=3)


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


@torch.no_grad()
def log_probabilities(model: MTPForCausalLM, sequence: list[int]) -> list[float]:
    """Of every token after a sequence, of which the model reads what fits; one forward, one position."""
    seen = torch.tensor([sequence[-POSITIONS:]])
    logits = (model.head(model.trunk(seen), 0)[0, -1] @ model.unembedding.T).tolist()
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return found


def score(model: MTPForCausalLM, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Token by token, in the window that a single forward of everything would have had."""
    window = [*context, *continuation][-POSITIONS - 1 :]
    first = len(window) - len(continuation)
    total, greedy = 0.0, True
    for place in range(first, len(window)):
        logs = log_probabilities(model, window[:place])
        total += logs[window[place]]
        greedy &= logs.index(max(logs)) == window[place]
    return total, greedy


words = st.text(alphabet="aé €onetwr", max_size=14)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(words, words.filter(lambda text: 0 < len(text.encode()) < 14)), min_size=1, max_size=5
    )
)
def test_loglikelihoods_are_sums_of_log_softmax(
    backend: MTPBackend,
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[tuple[str, str]],
) -> None:
    encoded = []
    for context, continuation in pairs:
        before = ids(tokenizer, context.rstrip())
        both = ids(tokenizer, context + continuation)
        encoded.append((before or [backend.prefix_token_id], both[len(before) :]))
    if not all(after for _, after in encoded):  # "a" and "n" are the one token "an"
        with pytest.raises(WMTPError, match="a continuation should have 1 to"):
            backend.loglikelihood(requests(*pairs))
        return
    found = backend.loglikelihood(requests(*pairs))
    for (before, after), (own, own_greedy) in zip(encoded, found, strict=True):
        expected, greedy = score(model, before, after)
        assert own == pytest.approx(expected, rel=1e-9)
        assert own_greedy == greedy


def test_what_the_model_would_write_is_greedy(
    backend: MTPBackend, model: MTPForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    known = ids(tokenizer, "one two")
    logs = log_probabilities(model, known)
    best = logs.index(max(logs))
    following = log_probabilities(model, [*known, best])
    second = following.index(max(following))
    other = following.index(min(following))
    scored = backend._loglikelihood_tokens([(None, known, [best, second]), (None, known, [best, other])])
    assert [greedy for _, greedy in scored] == [True, False]
    assert scored[0][0] == pytest.approx(logs[best] + following[second], rel=1e-9)


def test_a_context_that_is_too_long_loses_its_beginning(
    backend: MTPBackend, model: MTPForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    context = "red green blue " * 8
    assert len(ids(tokenizer, context)) > POSITIONS
    ((own, _),) = backend.loglikelihood(requests((context + "a", " b")))
    whole = ids(tokenizer, context + "a b")
    kept = whole[-POSITIONS - 1 :]
    assert own == pytest.approx(log_probabilities(model, kept[:-1])[kept[-1]], rel=1e-9)
    assert own != pytest.approx(log_probabilities(model, kept[1:-1])[kept[-1]], rel=1e-9)


def test_a_continuation_that_is_too_long_or_empty_is_refused(backend: MTPBackend) -> None:
    with pytest.raises(WMTPError, match=rf"should have 1 to {POSITIONS} tokens .*, not 20"):
        backend.loglikelihood(requests(("a", "€" * 10)))
    with pytest.raises(WMTPError, match=r"not 0: \('a', ''\)"):
        backend.loglikelihood(requests(("a", "")))


@pytest.mark.parametrize("text", ["", "a", "one two three", "red green blue and one two three " * 4])
def test_rolling_scores_every_token_once_in_windows(
    backend: MTPBackend, model: MTPForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    tokens = ids(tokenizer, text)
    expected = 0.0
    for start in range(0, len(tokens), POSITIONS):
        part = tokens[start : start + POSITIONS]
        whole_window = start > 0
        before = tokens[:start] if whole_window else [backend.prefix_token_id]
        window = [*before, *part][-POSITIONS - 1 :]
        for place in range(len(window) - len(part), len(window)):
            expected += log_probabilities(model, window[:place])[window[place]]
    assert backend.loglikelihood_rolling(requests((text,))) == [pytest.approx(expected, rel=1e-9)]


def greedily(
    model: MTPForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: list[int], count: int, stops: list[str]
) -> str:
    written: list[int] = []
    while len(written) < count:
        logs = log_probabilities(model, [*prompt, *written])
        token = logs.index(max(logs))
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
    text = tokenizer.decode(written)
    return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]


def test_generation_stops_where_the_task_says(
    backend: MTPBackend, model: MTPForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    contexts = ["one two", "", "red green blue " + "one two three and a b c d e f " * 2, "a"]
    free = [backend.generate_until(requests((c, {"until": [], "max_gen_toks": 8})))[0] for c in contexts]
    stop = next(c for c in free[2][2:] if c.isascii() and c not in free[2][:2])
    asked = [(c, {"until": [stop, ""], "max_gen_toks": 8}) for c in contexts]
    asked.append((contexts[0], {"until": stop, "max_gen_toks": 3, "do_sample": False, "temperature": 0.0}))
    found = backend.generate_until(requests(*asked))
    for (context, wanted), own in zip(asked, found, strict=True):
        count = wanted["max_gen_toks"]
        prompt = ids(tokenizer, context)[-(POSITIONS - count) :] or [backend.prefix_token_id]
        assert own == greedily(model, tokenizer, prompt, count, [stop])
    assert any(len(own) < len(text) for own, text in zip(found, free, strict=False))


def test_sampled_generations_differ_and_repeat(backend: MTPBackend) -> None:
    wanted = {"until": [], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0, "top_p": 0.95}
    twice = requests(("one", wanted), ("one", wanted))
    first, second = backend.generate_until(twice)
    assert first != second
    assert backend.generate_until(twice) == [first, second]


def test_requests_with_other_settings_have_random_numbers_of_their_own(backend: MTPBackend) -> None:
    wanted = {"max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    asked = [("one", {**wanted, "until": until}) for until in ([], ["never written"])]
    first, second = backend.generate_until(requests(*asked))
    assert first != second


def test_the_space_before_the_first_word_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    spaced = spaced_tokenizer()
    [tokens] = encode_completions(spaced, ["a"], ["    y = x"])
    written = Generation([tokens], [True])
    monkeypatch.setattr("wmtp.evaluate.harness_model.generate", lambda *_, **__: written)
    backend = MTPBackend(small_model(1, len(spaced)), spaced)
    assert backend.generate_until(requests(("a", {"until": [], "max_gen_toks": 8}))) == ["    y = x"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"until": [], "max_gen_toks": 4, "num_beams": 3}, "asks for num_beams in generation_kwargs"),
        ({"until": [], "max_gen_toks": POSITIONS}, "leave 1 to 15"),
    ],
)
def test_generation_that_cannot_be_done_is_refused(
    backend: MTPBackend, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(WMTPError, match=message):
        backend.generate_until(requests(("one", wanted)))


CHOICES = [
    {"question": "one two", "choices": [" three", " blue", " c"], "answer": 0},
    {"question": "red green", "choices": [" three", " blue", " c"], "answer": 1},
    {"question": "a b", "choices": [" three", " blue", " c"], "answer": 2},
    {"question": "two and", "choices": [" three", " blue", " e f"], "answer": 0},
]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
WRITING = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match"}],
}
PERPLEXITY = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}",
    "metric_list": [{"metric": "byte_perplexity"}],
}


@pytest.fixture
def make_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`make_task(name, settings)`: the YAML file of a task over a local data file."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in CHOICES))

    def make(name: str, **settings: Any) -> str:
        common = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(rows)}},
            "test_split": "test",
            "metadata": {"version": 2.0},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(common | settings))
        return str(path)

    return make


def test_tasks_of_local_files(
    backend: MTPBackend,
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    make_task: Callable[..., str],
) -> None:
    names = [
        make_task("toy_choice", **CHOICE),
        make_task("toy_writing", **WRITING),
        make_task("toy_perplexity", **PERPLEXITY),
    ]
    loaded = load_tasks(TaskManager(include_defaults=False), names, allow_code=False)
    found = run_tasks(backend, loaded, None)

    right = []
    for row in CHOICES:
        before = ids(tokenizer, row["question"])
        scores = [
            score(model, before, ids(tokenizer, row["question"] + choice)[len(before) :])[0]
            for choice in row["choices"]
        ]
        right.append(scores.index(max(scores)) == row["answer"])
    accuracy = sum(right) / len(right)
    (choice,) = found["toy_choice"]["metrics"]
    spread = math.sqrt(accuracy * (1 - accuracy) / (len(right) - 1))
    assert choice["value"] == pytest.approx(accuracy)
    assert choice["stderr"] == pytest.approx(spread)
    assert (choice["metric"], choice["filter"], choice["higher_is_better"]) == ("acc", "none", True)
    assert (found["toy_choice"]["version"], found["toy_choice"]["shots"]) == (2.0, 0)
    assert found["toy_choice"]["samples"] == len(CHOICES)
    assert len(found["toy_choice"]["hash"]) == len(sha256_text("x"))

    (writing,) = found["toy_writing"]["metrics"]
    written = [greedily(model, tokenizer, ids(tokenizer, r["question"]), 4, ["\n"]) for r in CHOICES]
    matches = [text == r["choices"][r["answer"]] for text, r in zip(written, CHOICES, strict=True)]
    assert writing["value"] == sum(matches) / len(matches)

    (perplexity,) = found["toy_perplexity"]["metrics"]
    total = sum(
        score(model, [backend.prefix_token_id], ids(tokenizer, row["question"]))[0] for row in CHOICES
    )
    size = sum(len(row["question"].encode()) for row in CHOICES)
    assert perplexity["value"] == pytest.approx(math.exp(-total / size))

    limited = run_tasks(
        backend, load_tasks(TaskManager(include_defaults=False), names[:1], allow_code=False), 2
    )
    assert limited["toy_choice"]["samples"] == 2
    assert limited["toy_choice"]["hash"] != found["toy_choice"]["hash"]


def test_mistakes_are_one_line(make_task: Callable[..., str], tmp_path: Path) -> None:
    manager = TaskManager(include_defaults=False)
    with pytest.raises(WMTPError, match=r"^--lm-eval toy_choise: no such task or YAML file"):
        load_tasks(manager, ["toy_choise"], allow_code=False)
    code = make_task("toy_code", **WRITING, unsafe_code=True)
    with pytest.raises(
        WMTPError, match=r"^--lm-eval toy_code: this task runs programs .* --allow-code-execution"
    ):
        load_tasks(manager, [code], allow_code=False)
    assert "toy_code" in load_tasks(manager, [code], allow_code=True)["tasks"]
    seeing = make_task("toy_seeing", **WRITING, doc_to_image=["picture"])
    with pytest.raises(WMTPError, match=r"^--lm-eval toy_seeing: this task shows more than text"):
        load_tasks(manager, [seeing], allow_code=False)
    gone = make_task(
        "toy_gone", **CHOICE | {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "no.jsonl")}}}
    )
    with pytest.raises(WMTPError, match=r"^--lm-eval .*toy_gone.yaml: cannot be loaded: ") as caught:
        load_tasks(manager, [gone], allow_code=False)
    assert "\n" not in str(caught.value)


class SettingsLoader(yaml.SafeLoader):
    """Reads task files without the functions that they name."""


SettingsLoader.add_constructor("!function", lambda _, node: node.value)


def harness_settings(task: str) -> dict[str, Any]:
    path = Path(lm_eval.__file__).parent / "tasks" / task / f"{task}.yaml"
    return yaml.load(path.read_text(), SettingsLoader)  # type: ignore[no-any-return]


def harness_shots() -> list[dict[str, Any]]:
    """What is returned by a function of a module that cannot be imported without a network."""
    module = ast.parse((Path(lm_eval.__file__).parent / "tasks/mbpp/utils.py").read_text())
    (function,) = [
        node for node in module.body if isinstance(node, ast.FunctionDef) and "fewshot" in node.name
    ]
    (returned,) = [node for node in function.body if isinstance(node, ast.Return)]
    assert returned.value is not None
    return ast.literal_eval(returned.value)  # type: ignore[no-any-return]


@pytest.mark.parametrize("task", ["humaneval", "mbpp"])
def test_our_protocol_has_the_settings_of_the_harness(task: str) -> None:
    theirs, ours = harness_settings(task), find_protocol(task, "lm-eval")
    assert sorted(ours.stop) == sorted(theirs["generation_kwargs"]["until"])
    assert theirs["generation_kwargs"]["do_sample"] is False
    assert ours.all_temperatures == [0]
    assert ours.samples == theirs.get("repeats", 1)
    assert ours.max_new_tokens == theirs["generation_kwargs"].get("max_gen_toks", 256)


def test_our_prompt_is_that_of_the_harness(tmp_path: Path) -> None:
    theirs, shots = harness_settings("mbpp"), harness_shots()
    question = {"task_id": 11, "text": "Double a number.", "code": "def f(x):\r\n  return 2 * x"}
    question["test_list"] = ["assert f(1) == 2", "assert f(2) == 4", "assert f(0) == 0"]
    shown = [
        apply_template(theirs["doc_to_text"] + theirs["doc_to_target"], shot | {"is_fewshot": True})
        for shot in shots
    ]
    assert theirs["num_fewshot"] == len(shots) == 3
    expected = "\n\n".join([*shown, apply_template(theirs["doc_to_text"], question)])
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*shots, question]))
    recipe = Recipe.model_validate({"evaluate": {"task": "mbpp", "data": str(path), "protocol": "lm-eval"}})
    (problem,) = mbpp(recipe).problems()
    assert problem.prompt == expected.replace("\r\n", "\n")
