"""Protocols: their facts, what a recipe changes, and what the results then say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.config import Recipe, load, to_yaml
from wmtp.errors import WMTPError
from wmtp.evaluate.protocols import ABOUT, CODE_STOPS, PROTOCOLS, find_protocol, result_name

EVERY = [protocol for known in PROTOCOLS.values() for protocol in known.values()]


def settings(**evaluate: Any) -> Any:
    return Recipe.model_validate({"evaluate": evaluate}).evaluate.settings


def test_facts_of_the_named_protocols() -> None:
    paper = find_protocol("humaneval", "humaneval-paper")
    assert (paper.samples, paper.top_p, paper.stop) == (200, 0.95, CODE_STOPS)
    assert dict(paper.temperatures) == {1: (0.2,), 10: (0.8,), 100: (0.8,)}
    oracle = find_protocol("mbpp", "meta-mtp")
    assert (oracle.samples, oracle.prompt, oracle.stop) == (200, "3-shot", ("[DONE]",))
    assert max(oracle.temperatures[1]) <= 0.2
    assert oracle.temperatures[10] == oracle.temperatures[100] == (0.5, 0.6, 0.7, 0.8, 0.9)
    austin = find_protocol("mbpp", "mbpp-paper")
    assert (austin.samples, austin.all_temperatures, austin.k) == (80, [0.5], [1, 80])
    assert find_protocol("mbpp", "bigcode").samples == 15
    for task in ("mbpp", "humaneval"):
        assert find_protocol(task, None).name == "lm-eval"
        assert find_protocol(task, "lm-eval").all_temperatures == [0]
    assert find_protocol("codecontests", None).submissions == (1, 10)
    assert find_protocol("tinycode", None).name == "tinycode-greedy"


@pytest.mark.parametrize("protocol", EVERY, ids=lambda p: f"{p.task}-{p.name}")
def test_every_protocol_is_consistent(protocol: Any) -> None:
    assert protocol.name in ABOUT
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
    assert again.evaluate.settings.label == "humaneval-paper (changed: top_p=0.5)"


@pytest.mark.parametrize(
    ("evaluate", "expected"),
    [
        ({"protocol": "lm-eval"}, "protocol 'lm-eval': not one of task 'tinycode'; known: tinycode-greedy"),
        ({"task": "mbpp", "protocol": "bigcod"}, "did you mean 'bigcode'"),
        ({"k": [5]}, "pass@5 needs samples >= 5, not 1"),
        ({"samples": 3}, "set temperature above 0"),
        ({"k": []}, "at least 1 item"),
        ({"temperature": []}, "at least 1 item"),
        ({"temperature": "warm"}, "valid list"),
        ({"split": "all"}, "split all: only mbpp is divided into splits, not tinycode"),
    ],
)
def test_what_does_not_go_together(evaluate: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected.replace("[", r"\[")):
        Recipe.model_validate({"evaluate": evaluate})


def test_a_task_of_ones_own_is_greedy_and_has_no_other_protocol() -> None:
    own = find_protocol("mine:Task", None)
    assert (own.name, own.prompt, own.all_temperatures, own.stop) == ("greedy", "own", [0.0], ())
    with pytest.raises(WMTPError, match="protocol 'lm-eval': not one of task 'mine:Task'"):
        find_protocol("mine:Task", "lm-eval")


def test_results_of_two_protocols_have_two_names() -> None:
    assert result_name("tinycode", "tinycode-greedy (changed: limit=3)") == "tinycode"
    assert result_name("mbpp", "lm-eval") == "mbpp"
    assert result_name("mbpp", "bigcode (changed: samples=2)") == "mbpp-bigcode"
