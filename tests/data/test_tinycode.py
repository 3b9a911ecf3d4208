import ast
import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.config import Recipe, TinycodeConfig, override
from wmtp.data import tinycode
from wmtp.data.corpus import load_rows
from wmtp.data.tinycode import benchmark
from wmtp.data.tinycode.compositions import draw_composition
from wmtp.data.tinycode.corruption import TOKEN
from wmtp.data.tinycode.operations import make_step
from wmtp.data.tinycode.programs import Program, source_code
from wmtp.data.tinycode.rng import Rng
from wmtp.data.tinycode.vocabulary import CONDITIONS, EACH, FROM_TYPE, INT_AND_Y, REPEAT, UP_TO
from wmtp.errors import WMTPError

FAMILIES = TinycodeConfig().families
SMALL = {
    "seed": 0,
    "train": 120,
    "validation": 20,
    "test": 20,
    "noise": 0.5,
    "curated": 30,
    "min_operations": 1,
    "max_operations": 3,
    "families": FAMILIES,
}
VALUE_OPERATIONS = [*itertools.chain(*FROM_TYPE.values()), *INT_AND_Y]
ALL_OPERATIONS = [*VALUE_OPERATIONS, *itertools.chain(*CONDITIONS.values()), REPEAT, EACH, UP_TO]


def generate(**options):
    return tinycode.generate(TinycodeConfig(**options))


def composition(row):
    return row["family"], tuple(row["operations"]), row["branch"]


def passes(code, tests):
    scope = {}
    exec(code, scope)
    try:
        for test in tests:
            exec(test, scope)
    except Exception:
        return False
    return True


@st.composite
def parameters(draw):
    train = draw(st.integers(1, 60))
    noise = draw(st.floats(0, 1))
    fewest = draw(st.integers(1, 4))
    most = draw(st.integers(max(2, fewest), 4))
    return {
        "seed": draw(st.integers(0, 10**6)),
        "train": train,
        "validation": draw(st.integers(0, 12)),
        "test": draw(st.integers(0, 12)),
        "noise": noise,
        "curated": draw(st.integers(0, train - round(noise * train))),
        "min_operations": fewest,
        "max_operations": most,
        "families": draw(st.lists(st.sampled_from(FAMILIES), min_size=1, unique=True)),
    }


@pytest.fixture(scope="module")
def demo():
    """As large as the demo's corpus."""
    return generate(**SMALL | {"train": 12000, "validation": 200, "test": 200, "curated": 1500})


class TestInvariants:
    @settings(max_examples=30, deadline=None)
    @given(parameters())
    def test_hold_for_all_parameters(self, options):
        made = generate(**options)
        rows = made.train + made.validation + made.test
        assert [len(made.train), len(made.validation), len(made.test)] == [
            options[split] for split in ("train", "validation", "test")
        ]
        assert [row["task_id"] for row in rows] == list(range(len(rows)))
        assert json.loads(json.dumps(rows)) == rows
        self.check_splits(made)
        self.check_training_rows(made.train, options)
        for row in rows:
            self.check_row(row, options)
        one_reading = {}
        for row in rows:
            assert one_reading.setdefault(row["text"], row["clean_code"]) == row["clean_code"]

    def check_splits(self, made):
        train, validation, test = (
            {composition(row) for row in split} for split in (made.train, made.validation, made.test)
        )
        assert not train & validation
        assert not train & test
        assert not validation & test
        for held_out in (made.validation, made.test):
            assert all(len(row["operations"]) >= 2 and row["corruption"] is None for row in held_out)
            assert len({(row["text"], row["code"]) for row in held_out}) == len(held_out)

    def check_training_rows(self, rows, options):
        corrupted = [row for row in rows if row["corruption"]]
        curated = [row for row in rows if row["curated"]]
        assert len(corrupted) == round(options["noise"] * len(rows))
        assert len(curated) == options["curated"]
        assert not any(row["corruption"] for row in curated)

    def check_row(self, row, options):
        assert row["family"] in options["families"]
        assert options["min_operations"] <= len(row["operations"]) <= options["max_operations"]
        assert (row["branch"] is not None) == (row["family"] == "control")
        assert len(row["test_list"]) >= 3
        assert len({test.split(" == ")[1] for test in row["test_list"]}) > 1
        assert passes(row["clean_code"], row["test_list"])
        assert row["is_correct"] == passes(row["code"], row["test_list"])
        assert row["is_correct"] == (row["corruption"] in (None, "comment"))
        self.check_spans(row)

    def check_spans(self, row):
        code, clean, spans = row["code"], row["clean_code"], row["error_spans"]
        assert bool(spans) == (row["corruption"] is not None) == (code != clean)
        assert all(0 <= start < end <= len(code) for start, end in spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        if row["corruption"] == "comment":
            for start, end in reversed(spans):
                assert code[start] == "#"
                assert code[end] == "\n"
                line = code.rfind("\n", 0, start) + 1
                assert not code[line:start].strip()
                code = code[:line] + code[end + 1 :]
            assert code == clean
        elif row["corruption"] == "dropped-step":
            ((start, end),) = spans
            right, before, wrong = map(TOKEN.findall, (clean, code[:start], code[start:end]))
            assert right[: len(before)] == before
            assert right[len(before)] != wrong[0] or not code[end:].strip()
            assert len(code) < len(clean)
        elif row["corruption"] == "wrong-operation":
            assert all(code[start:end] == code[start:end].strip() for start, end in spans)
            assert clean.startswith(code[: spans[0][0]].rstrip().removesuffix("'"))
            assert clean.endswith(code[spans[-1][1] :].removeprefix("'").lstrip())
        elif spans:
            is_string = code[spans[0][0] - 1] == "'"
            right = re.match(r"[^']*" if is_string else r"\w+|'.*?'", clean[spans[0][0] :]).group()
            for start, end in reversed(spans):
                wrong, code = code[start:end], code[:start] + right + code[end:]
            assert code == clean
            assert wrong != right
            assert row["corruption"] == "wrong-constant" or abs(int(wrong) - int(right)) == 1


class TestReproducibility:
    def test_the_same_seed_gives_the_same_bytes_on_every_machine(self):
        made = generate(**SMALL)
        content = json.dumps([made.train, made.validation, made.test], sort_keys=True)
        assert (
            hashlib.sha256(content.encode()).hexdigest()
            == "3504c0def210dbeceeb59e52cc29c833fbbd803ee1189fa824cd82f6ee617529"
        )

    def test_another_seed_gives_other_rows(self):
        assert generate(**SMALL).test != generate(**SMALL | {"seed": 1}).test

    def test_noise_and_curation_change_solutions_only(self):
        noisy = generate(**SMALL)
        clean = generate(**SMALL | {"noise": 0.0, "curated": 0})
        assert noisy.test == clean.test
        assert [row["text"] for row in noisy.train] == [row["text"] for row in clean.train]
        assert [row["clean_code"] for row in noisy.train] == [row["code"] for row in clean.train]

    def test_a_split_does_not_depend_on_the_size_of_another(self):
        longer = generate(**SMALL | {"train": 200, "validation": 0})
        assert longer.train[0]["text"] == generate(**SMALL).train[0]["text"]
        assert [row["text"] for row in longer.test] == [row["text"] for row in generate(**SMALL).test]

    def test_imports_without_torch(self):
        program = "import sys, wmtp.data.tinycode; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestAnswers:
    """Several training rows with the same problem."""

    @pytest.mark.parametrize("answers", [2, 4, 120])
    def test_rows_of_a_problem_are_neighbours(self, answers):
        made = generate(**SMALL | {"answers": answers})
        fields = ("text", "clean_code", "test_list", "operations", "branch", "family")
        assert len(made.train) == 120
        assert [row["task_id"] for row in made.train] == list(range(120))
        for start in range(0, 120, answers):
            group = made.train[start : start + answers]
            assert all([row[f] for f in fields] == [group[0][f] for f in fields] for row in group)
        assert len({(row["text"], row["clean_code"]) for row in made.train}) == 120 // answers

    def test_problems_are_those_of_as_many_rows_with_an_answer_each(self):
        made, alone = generate(**SMALL | {"answers": 4}), generate(**SMALL | {"train": 30, "curated": 5})
        for field in ("text", "clean_code", "test_list"):
            assert [row[field] for row in made.train[::4]] == [row[field] for row in alone.train]

    def test_one_answer_is_the_corpus_without_the_setting(self):
        assert generate(**SMALL | {"answers": 1}) == generate(**SMALL)

    @pytest.mark.parametrize("noise", [0.0, 0.25, 0.5, 1.0])
    def test_noise_is_a_share_of_rows(self, noise):
        made = generate(**SMALL | {"answers": 4, "noise": noise, "curated": 0})
        corrupted = [row["corruption"] is not None for row in made.train]
        assert sum(corrupted) == round(noise * 120)
        TestInvariants().check_training_rows(made.train, SMALL | {"noise": noise, "curated": 0})
        if 0 < noise < 1:  # each row on its own: a problem has between none and all of its answers corrupted
            assert len({sum(corrupted[i : i + 4]) for i in range(0, 120, 4)}) > 2

    def test_spoilt_answers_to_a_problem_differ(self):
        made = generate(**SMALL | {"answers": 8, "noise": 1.0, "curated": 0})
        codes = [{row["code"] for row in made.train[i : i + 8]} for i in range(0, 120, 8)]
        assert all(len(different) > 1 for different in codes)
        for row in made.train:
            TestInvariants().check_row(row, SMALL)

    def test_what_is_held_out_stays_as_it_was(self):
        made, alone = generate(**SMALL | {"answers": 4}), generate(**SMALL)
        assert (made.validation, made.test) == (alone.validation, alone.test)
        TestInvariants().check_splits(made)

    def test_curated_rows_are_clean(self):
        made = generate(**SMALL | {"answers": 4})
        curated = [row for row in made.train if row["curated"]]
        assert len(curated) == 30
        assert not any(row["corruption"] for row in curated)

    @pytest.mark.parametrize("answers", [0, -2, 7, 121])
    def test_a_number_that_does_not_divide_is_refused(self, answers):
        with pytest.raises(WMTPError, match=r"^test: data\.tinycode.*answers"):
            override(
                Recipe(), {f"data.tinycode.{k}": v for k, v in (SMALL | {"answers": answers}).items()}, "test"
            )

    def test_the_recipe_asks_for_them(self):
        small = {key: value for key, value in SMALL.items() if key != "seed"} | {"answers": 4}
        recipe = override(Recipe(), {f"data.tinycode.{key}": value for key, value in small.items()}, "test")
        rows = load_rows(recipe)
        prompts = [row["prompt"] for row in rows.train]
        assert [prompts.count(prompt) for prompt in prompts[::4]] == [4] * 30
        assert rows.train[0]["test_list"] == rows.train[3]["test_list"]


@pytest.mark.slow
class TestDemoSize:
    def test_training_knows_every_operation_and_branch_that_is_held_out(self, demo):
        def parts(rows):
            branches = {row["branch"].rsplit(" after ")[0] for row in rows if row["branch"]}
            return {name for row in rows for name in row["operations"]} | branches

        assert parts(demo.validation + demo.test) <= parts(demo.train)

    def test_all_kinds_of_error_are_about_as_frequent(self, demo):
        kinds = Counter(row["corruption"] for row in demo.train)
        assert kinds.pop(None) == 6000
        assert set(kinds) == {"wrong-constant", "wrong-operation", "dropped-step", "off-by-one", "comment"}
        assert max(kinds.values()) < 1.2 * min(kinds.values())

    def test_families_and_lengths_are_about_as_frequent(self, demo):
        for split in (demo.train, demo.test):
            families = Counter(row["family"] for row in split)
            lengths = Counter(len(row["operations"]) for row in split)
            assert set(families) == set(FAMILIES)
            for counts in (families, lengths):
                assert max(counts.values()) < 2 * min(counts.values())

    def test_eight_in_ten_compositions_are_for_training(self):
        rng = Rng("compositions")
        drawn = [draw_composition(rng.choice(FAMILIES), 3, rng) for _ in range(4000)]
        shares = Counter(each.split for each in drawn)
        assert 0.77 < shares["train"] / 4000 < 0.83
        assert 0.08 < shares["validation"] / 4000 < 0.12

    def test_errors_are_anywhere_in_training(self, demo):
        corrupted = [i for i, row in enumerate(demo.train) if row["corruption"]]
        halves = Counter(i < 6000 for i in corrupted)
        assert abs(halves[True] - halves[False]) < 400

    def test_texts_are_short_and_varied(self, demo):
        words = [len(row["text"].split()) for row in demo.train]
        assert min(words) >= 8
        assert max(words) <= 50
        assert 15 < sum(words) / len(words) < 26
        assert len({row["text"] for row in demo.train}) > 0.9 * len(demo.train)

    def test_training_rows_are_not_repeated(self, demo):
        assert len({(row["text"], row["clean_code"]) for row in demo.train}) == len(demo.train)

    def test_tests_fail_a_program_that_lacks_a_line(self, demo):
        checked = 0
        for row in demo.train[:1000]:
            if row["family"] in ("list", "string"):
                lines = row["clean_code"].splitlines()
                for i in range(1, len(lines) - 1):
                    assert not passes("\n".join(lines[:i] + lines[i + 1 :]), row["test_list"])
                    checked += 1
        assert checked > 500

    def test_tests_fail_the_wrong_branch(self, demo):
        branching = [r for r in demo.train[:3000] if (r["branch"] or "").startswith("if")]
        assert len(branching) > 100
        for row in branching:
            header = next(line for line in row["clean_code"].splitlines() if line.startswith("    if "))
            for condition in ("True", "False"):
                assert not passes(row["clean_code"].replace(header, f"    if {condition}:"), row["test_list"])


class TestVocabulary:
    def test_names_are_unique(self):
        names = Counter(operation.name for operation in ALL_OPERATIONS)
        assert max(names.values()) == 1

    @pytest.mark.parametrize("operation", ALL_OPERATIONS, ids=lambda operation: operation.name)
    def test_an_operation_has_three_wordings_that_state_its_constants(self, operation):
        assert len(set(operation.wordings)) >= 3
        for wording in operation.wordings:
            for place in range(len(operation.slots)):
                assert f"{{{place}}}" in wording
                assert f"{{{place}}}" in operation.expression

    def test_a_phrase_on_a_type_means_one_operation(self):
        meanings = {}
        for operation in ALL_OPERATIONS:
            for wording in operation.wordings:
                key = operation.source, operation.target == "bool", wording
                assert meanings.setdefault(key, operation) is operation

    @pytest.mark.parametrize("source", ["int", "list", "str"])
    def test_a_type_has_a_dozen_operations(self, source):
        assert len(FROM_TYPE[source]) >= 12

    @pytest.mark.parametrize("operation", VALUE_OPERATIONS, ids=lambda operation: operation.name)
    def test_code_computes_what_the_step_computes(self, operation):
        step = make_step(operation, tuple(slot.values[-1 - i] for i, slot in enumerate(operation.slots)))
        family = "arithmetic" if operation.source == "int" else "list"
        scope = {}
        exec(source_code(Program(family, ("x", "y"), (step,))), scope)
        for x in {"int": (-3, 0, 17), "list": ([], [4, -1, 4, 7]), "str": ("", "Old man 42 mmnt")}[
            operation.source
        ]:
            assert scope["f"](x, 5) == step.function(x, 5)


def test_an_expression_keeps_the_order_of_its_operations():
    made = generate(
        **SMALL | {"families": ["arithmetic"], "min_operations": 4, "max_operations": 4, "noise": 0.0}
    )
    for row in made.train:
        statements = ast.parse(row["code"]).body[0].body
        assert len(statements) == 1
        assert (
            sum(isinstance(node, ast.BinOp | ast.UnaryOp | ast.Call) for node in ast.walk(statements[0])) >= 4
        )


def test_training_repeats_rows_only_when_the_space_is_used_up():
    made = generate(
        **SMALL | {"train": 4000, "validation": 0, "test": 0, "families": ["arithmetic"], "max_operations": 1}
    )
    distinct = {(row["text"], row["clean_code"]) for row in made.train}
    assert 3000 < len(distinct) < len(made.train)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": 0}, "train"),
        ({"validation": -1}, "validation"),
        ({"test": -1}, "test"),
        ({"noise": 1.5}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"curated": -1}, "curated"),
        ({"curated": 61}, "curated"),
        ({"min_operations": 0}, "min_operations"),
        ({"min_operations": 5, "max_operations": 5}, "min_operations"),
        ({"min_operations": 3, "max_operations": 2}, "max_operations"),
        ({"max_operations": 5}, "max_operations"),
        ({"max_operations": 1}, "max_operations"),
        ({"families": []}, "families"),
        ({"families": ["list", "list"]}, "families"),
        ({"families": ["tree"]}, "families"),
    ],
)
def test_bad_parameters_are_named(changes, key):
    with pytest.raises(WMTPError, match=rf"^test: data\.tinycode.*\b{key}\b"):
        override(Recipe(), {f"data.tinycode.{k}": v for k, v in (SMALL | changes).items()}, "test")


def test_single_operations_need_no_held_out_rows():
    made = generate(**SMALL | {"max_operations": 1, "validation": 0, "test": 0})
    assert all(len(row["operations"]) == 1 for row in made.train)


def test_more_held_out_rows_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(benchmark, "TRIES", 1)
    with pytest.raises(WMTPError, match=r"data\.tinycode\.(train|validation): \d+ rows are more than"):
        generate(**SMALL | {"train": 1, "noise": 0.0, "curated": 0})
