"""Protocols: their facts, what a recipe changes, and what the results then say."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.config import Recipe, load, to_yaml
from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import TASKS, find_protocol, result_name, settings_of, task_settings

EVERY = [find_protocol(task, each.name) for task in TASKS.names() for each in task_settings(task).protocols]


def settings(**evaluate: Any) -> Any:
    return settings_of(Recipe.model_validate({"evaluate": evaluate}).evaluate)


def test_the_protocol_that_a_task_has_unless_another_is_named() -> None:
    first = {"tinycode": "tinycode-greedy", "mbpp": "lm-eval", "humaneval": "lm-eval"}
    for task, name in (first | {task: task for task in ("codecontests", "livecodebench")}).items():
        assert find_protocol(task, None).name == name


LOW, HIGH = (0.1, 0.2), (0.5, 0.6, 0.7, 0.8, 0.9)
CODE = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
BIGCODE_MBPP = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
BIGCODE_HUMANEVAL = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
EVALPLUS = ("\nif __name__", "\ndef main(", "\nprint(")
DONE, QUOTES = ("[DONE]",), ('\n"""',)
SAMPLING: dict[tuple[str, str], Any] = {
    # prompt, temperatures by k, top_p, stops, max_new_tokens, samples, n of n@k
    ("tinycode", "tinycode-greedy"): ("own", {1: (0.0,)}, 1.0, (), 256, 1, ()),
    ("humaneval", "lm-eval"): ("published", {1: (0.0,)}, 1.0, CODE, 1024, 1, ()),
    ("mbpp", "lm-eval"): ("3-shot", {1: (0.0,)}, 1.0, DONE, 256, 1, ()),
    ("humaneval", "bigcode"): (
        "stripped",
        {1: (0.2,), 10: (0.2,), 100: (0.2,)},
        0.95,
        BIGCODE_HUMANEVAL,
        512,
        200,
        (),
    ),
    ("humaneval", "chat"): ("instruct", {1: (0.0,)}, 1.0, (), 1024, 1, ()),
    ("mbpp", "chat"): ("instruct", {1: (0.0,)}, 1.0, (), 1024, 1, ()),
    ("mbpp", "bigcode"): ("docstring", {1: (0.1,)}, 0.95, BIGCODE_MBPP, 512, 15, ()),
    ("humaneval", "humaneval-paper"): (
        "published",
        {1: (0.2,), 10: (0.8,), 100: (0.8,)},
        0.95,
        CODE,
        512,
        200,
        (),
    ),
    ("mbpp", "mbpp-paper"): ("3-shot", {1: (0.5,), 80: (0.5,)}, 1.0, DONE, 512, 80, ()),
    ("humaneval", "meta-mtp"): ("published", {1: LOW, 10: HIGH, 100: HIGH}, 0.95, CODE, 512, 200, ()),
    ("mbpp", "meta-mtp"): ("3-shot", {1: LOW, 10: HIGH, 100: HIGH}, 0.95, DONE, 512, 200, ()),
    ("humanevalplus", "evalplus"): (
        "published",
        {1: (0.0,)},
        1.0,
        (*EVALPLUS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "),
        768,
        1,
        (),
    ),
    ("mbppplus", "evalplus"): (
        "docstring",
        {1: (0.0,)},
        1.0,
        (*EVALPLUS, '\n"""', "\nassert"),
        768,
        1,
        (),
    ),
    ("codecontests", "codecontests"): (
        "docstring",
        {1: (0.8,), 10: (0.8,), 100: (0.8,)},
        0.95,
        QUOTES,
        1024,
        100,
        (1, 10),
    ),
    ("livecodebench", "livecodebench"): (
        "published",
        {1: (0.2,), 5: (0.2,), 10: (0.2,)},
        0.95,
        ("###",),
        2000,
        10,
        (),
    ),
    ("codecontests", "meta-mtp"): (
        "docstring",
        {1: HIGH, 10: HIGH, 100: HIGH, 1000: HIGH},
        1.0,
        QUOTES,
        1024,
        1000,
        (1, 10),
    ),
}
LIMITS = {"tinycode": (3, 30, 512, 0), "humaneval": (3, 30, 512, 0)} | {
    "mbpp": (6, 30, 512, 0),
    "codecontests": (10, 60, 1024, 1),
    "livecodebench": (6, 60, 1024, 1),
    "humanevalplus": (20, 60, 1024, 0),
    "mbppplus": (20, 60, 1024, 0),
}
"""By task: seconds of the processor and of the clock, MiB, processes."""


@pytest.mark.parametrize("protocol", EVERY, ids=lambda p: f"{p.task}-{p.name}")
def test_every_protocols_facts(protocol: Any) -> None:
    assert {(p.task, p.name) for p in EVERY} == SAMPLING.keys()
    assert SAMPLING[protocol.task, protocol.name] == (
        protocol.prompt,
        dict(protocol.temperatures),
        protocol.top_p,
        protocol.stop,
        protocol.max_new_tokens,
        protocol.samples,
        protocol.submissions,
    )
    limits = (protocol.cpu_seconds, protocol.wall_seconds, protocol.memory_mib, protocol.processes)
    assert limits == LIMITS[protocol.task]
    output_mib = 64 if protocol.name == "evalplus" else 16
    assert (protocol.split, protocol.limit, protocol.output_mib) == ("test", None, output_mib)
    assert (protocol.start_date, protocol.end_date) == (None, None)
    is_chat = protocol.name == "chat"
    is_fenced = is_chat or protocol.name == "livecodebench"
    answers = ("fenced" if is_fenced else "none", is_chat, None)
    assert (protocol.extraction, protocol.chat, protocol.system) == answers


@pytest.mark.parametrize("protocol", EVERY, ids=lambda p: f"{p.task}-{p.name}")
def test_every_protocol_is_consistent(protocol: Any) -> None:
    assert protocol.about
    assert protocol.changed == ()
    assert protocol.label == protocol.name
    assert max(protocol.k) <= protocol.samples
    assert all(list(group) == sorted(set(group)) for group in protocol.temperatures.values())
    same = {"samples": protocol.samples, "k": protocol.k, "top_p": protocol.top_p}
    assert protocol.with_changes(same) is protocol


def test_a_change_is_named() -> None:
    changed = settings(task="humaneval", protocol="bigcode", samples=20, k=[10, 1], temperature=0.8)
    assert changed.label == "bigcode (changed: samples=20, k=[1, 10], temperature=0.8)"
    assert dict(changed.temperatures) == {1: (0.8,), 10: (0.8,)}
    assert settings(task="humaneval", protocol="bigcode", samples=200).label == "bigcode"
    assert settings(max_new_tokens=96).label == "tinycode-greedy (changed: max_new_tokens=96)"
    assert settings(task="mbpp", split="all", limit=3).label == "lm-eval (changed: split=all, limit=3)"


def test_extraction_and_chat_are_settings_like_others() -> None:
    fenced = settings(task="humaneval", extraction="fenced")
    assert (fenced.extraction, fenced.chat, fenced.label) == (
        "fenced",
        False,
        "lm-eval (changed: extraction=fenced)",
    )
    plain = settings(task="mbpp", protocol="chat", extraction="none", system="Be brief.")
    assert plain.label == "chat (changed: extraction=none, system=Be brief.)"
    with pytest.raises(ValueError, match="system is a message of a chat; set chat=true"):
        settings(task="humaneval", system="Be brief.")


def test_temperatures_are_as_before_only_if_every_k_has_just_these() -> None:
    several = settings(task="humaneval", protocol="humaneval-paper", k=[1], temperature=[0.2, 0.8])
    assert dict(several.temperatures) == {1: (0.2, 0.8)}
    assert several.label == "humaneval-paper (changed: k=1, temperature=[0.2, 0.8])"
    same = settings(task="humaneval", protocol="humaneval-paper", k=[10, 50], temperature=[0.8])
    assert dict(same.temperatures) == {10: (0.8,), 50: (0.8,)}
    assert same.label == "humaneval-paper (changed: k=[10, 50])"
    everywhere = settings(task="humaneval", protocol="humaneval-paper", temperature=[0.8, 0.2])
    assert dict(everywhere.temperatures) == dict.fromkeys((1, 10, 100), (0.2, 0.8))
    assert settings(task="mbpp", protocol="bigcode", temperature=0.1).label == "bigcode"


def test_a_new_k_takes_the_temperatures_of_the_nearest_smaller_one() -> None:
    oracle = settings(task="mbpp", protocol="meta-mtp", k=[1, 5, 50])
    assert dict(oracle.temperatures) == {1: (0.1, 0.2), 5: (0.1, 0.2), 50: (0.5, 0.6, 0.7, 0.8, 0.9)}


@given(
    st.sampled_from(EVERY),
    st.fixed_dictionaries(
        {},
        optional={
            "samples": st.integers(1000, 2000),
            "k": st.lists(st.integers(1, 200), min_size=1, max_size=4),
            "temperature": st.lists(st.floats(0.01, 2), min_size=1, max_size=4),
            "top_p": st.floats(0.1, 1),
        },
    ),
)
def test_changes_are_what_differs(protocol: Any, changes: dict[str, Any]) -> None:
    if 0 in protocol.all_temperatures:
        changes = {"temperature": [0.5]} | changes
    changed = protocol.with_changes({"samples": 1000} | changes)
    named = {entry.partition("=")[0] for entry in changed.changed}
    assert (changed.samples != protocol.samples) == ("samples" in named)
    assert (changed.k != protocol.k) == ("k" in named)
    assert (changed.top_p != protocol.top_p) == ("top_p" in named)
    if "k" in changes:
        assert changed.k == sorted(set(changes["k"]))
    if "temperature" in changes and "temperature" in named:
        assert set(changed.temperatures.values()) == {tuple(sorted(set(changes["temperature"])))}
    assert changed.with_changes(changes).temperatures == changed.temperatures


def test_a_saved_recipe_leaves_to_the_protocol_what_it_left(tmp_path: Any) -> None:
    recipe = Recipe.model_validate({"evaluate": {"task": "humaneval", "top_p": 0.5}})
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    again, _ = load(tmp_path / "recipe.yaml", None, ["evaluate.protocol=humaneval-paper"])
    assert settings_of(again.evaluate).label == "humaneval-paper (changed: top_p=0.5)"


@pytest.mark.parametrize(
    ("evaluate", "expected"),
    [
        ({"protocol": "lm-eval"}, "protocol 'lm-eval': not one of task 'tinycode'; known: tinycode-greedy"),
        ({"task": "mbpp", "protocol": "bigcod"}, "did you mean 'bigcode'"),
        ({"k": [5]}, "evaluate.k: pass@5 needs samples >= 5, not 1"),
        (
            {"samples": 3},
            "evaluate.samples: several samples at temperature 0 are all the same; set temperature above 0",
        ),
        ({"k": []}, "at least 1 item"),
        ({"temperature": []}, "at least 1 item"),
        ({"temperature": "warm"}, "valid list"),
        ({"split": "all"}, "evaluate.split all: task tinycode is not divided into splits"),
        ({"task": "mbpp", "split": "tests"}, "split 'tests': not one of task 'mbpp'; did you mean 'test'?"),
        ({"task": "mbp"}, "unknown task 'mbp'; did you mean 'mbpp'"),
        (
            {"data": "he.jsonl"},
            "evaluate.data he.jsonl: task tinycode reads no file; name the benchmark with --task",
        ),
    ],
)
def test_what_does_not_go_together(evaluate: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        settings(**evaluate)


def test_a_task_that_says_nothing_of_itself_is_greedy_and_has_no_other_protocol(tmp_path: Path) -> None:
    (tmp_path / "silent_task.py").write_text("class Task: ...\n")
    own = find_protocol("silent_task:Task", None)
    assert (own.name, own.prompt, own.all_temperatures, own.stop) == ("greedy", "own", [0.0], ())
    with pytest.raises(WMTPError, match="protocol 'lm-eval': not one of task 'silent_task:Task'"):
        find_protocol("silent_task:Task", "lm-eval")


def test_results_of_two_protocols_have_two_names() -> None:
    assert result_name("tinycode", "tinycode-greedy (changed: limit=3)") == "tinycode"
    assert result_name("mbpp", "lm-eval") == "mbpp"
    assert result_name("mbpp", "bigcode (changed: samples=2)") == "mbpp-bigcode"
