"""Scorers that somebody else wrote: how they are found, and what becomes of bad ones."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_step import LENGTH, Small, make_small, run_step

from refusals import refusal
from wmtp.cli import main
from wmtp.config import Config, Recipe, to_yaml
from wmtp.metrics import MetricsLog
from wmtp.train.run import train
from wmtp.weighting.scorers import SCORERS, create_scorer

Make = Callable[..., Recipe]
Write = Callable[[str, str], None]

GOOD = """
import torch
from wmtp.weighting.scorers.base import Scorer

class High(Scorer):
    def __init__(self, config, recipe):
        self.size = recipe.data.vocab_size
    def __call__(self, inputs):
        return inputs.batch.ids.roll(-1, 1) / self.size

class Remembers(High):
    def __init__(self, config, recipe):
        super().__init__(config, recipe)
        self.steps = torch.zeros(())
    def complete(self, scores, info):
        self.steps += info.is_training
        return scores + self.steps
    def state(self):
        return {"steps": self.steps, "temperature": self.steps}
"""

BAD = r"""
import torch
from wmtp.weighting.scorers.base import Scorer

class Fine(Scorer):
    def __call__(self, inputs): return torch.zeros(inputs.valid_bs.shape)

class FailsInInit(Fine):
    def __init__(self, config, recipe): raise OSError("no table of words")

class FailsInInitInLines(Fine):
    def __init__(self, config, recipe): raise OSError("no table of words\nnor of letters")

class TakesNoRecipe(Fine):
    def __init__(self): pass

class IsAbstract(Scorer):
    pass

class NotAScorer:
    def __init__(self, config, recipe): pass
    def __call__(self, inputs): return torch.zeros(inputs.valid_bs.shape)

class UnknownNeed(Fine):
    needs = frozenset({"learner_ce", "perplexity"})

class NeedsInAList(Fine):
    needs = ["learner_ce"]

class NeedsOneName(Fine):
    needs = "entropy"

class UnknownMode(Fine):
    mode = "softmax"

class FailsInCall(Fine):
    def __call__(self, inputs): raise ZeroDivisionError("division by zero")

class FailsInManyLines(Fine):
    def __call__(self, inputs): raise RuntimeError("bad shapes:\n  (1, 2)\n  (3)")

class FailsWithoutAWord(Fine):
    def __call__(self, inputs): raise AssertionError

class WrongShape(Fine):
    def __call__(self, inputs): return torch.zeros(inputs.valid_bs.shape)[:, 1:]

class WrongHeads(Fine):
    def __call__(self, inputs): return torch.zeros(*inputs.valid_bs.shape, 2)

class FourDimensions(Fine):
    def __call__(self, inputs): return torch.zeros(*inputs.valid_bs.shape, 3, 1)

class OneNumber(Fine):
    def __call__(self, inputs): return torch.tensor(1.0)

class NotATensor(Fine):
    def __call__(self, inputs): return inputs.batch.ids.tolist()

class Nothing(Fine):
    def __call__(self, inputs): pass

class WithGradient(Fine):
    def __call__(self, inputs):
        with torch.enable_grad():
            return 2 * torch.zeros(inputs.valid_bs.shape, requires_grad=True)

class FailsInComplete(Fine):
    def complete(self, scores, info): raise KeyError("missing")

class WrongShapeInComplete(Fine):
    def complete(self, scores, info): return scores[:-1]

class WrongHeadsInComplete(Fine):
    def complete(self, scores, info): return scores[..., None].expand(-1, -1, 2)

class NotATensorInComplete(Fine):
    def complete(self, scores, info): scores.add_(1)

class WithGradientInComplete(Fine):
    def complete(self, scores, info):
        with torch.enable_grad():
            return scores * torch.ones((), requires_grad=True)
"""

NAN = """
import math, torch
from wmtp.weighting.scorers.base import Scorer

class Sometimes(Scorer):
    '''Not finite for every third token.'''
    def __call__(self, inputs):
        keys = inputs.batch.token_keys.roll(-1, 1)
        bad = torch.tensor([math.nan, math.inf, -math.inf])[keys // 3 % 3]
        return torch.where(keys % 3 == 0, bad, (keys % 5 == 0).float())

class Always(Sometimes):
    def __call__(self, inputs): return torch.full(inputs.valid_bs.shape, math.nan)

class InComplete(Sometimes):
    def __call__(self, inputs): return torch.zeros(inputs.valid_bs.shape)
    def complete(self, scores, info): return torch.full_like(scores, math.nan)
"""

WHEN_BUILT = {
    "FailsInInit": "cannot be built: OSError: no table of words",
    "FailsInInitInLines": "cannot be built: OSError: no table of words nor of letters",
    "TakesNoRecipe": "cannot be built: TypeError: ",
    "IsAbstract": "cannot be built: TypeError: ",
    "NotAScorer": "is a NotAScorer; derive it from wmtp.weighting.scorers.base:Scorer",
    "UnknownNeed": "needs 'perplexity'; there is learner_ce, entropy, gradient_norm, ",
    "NeedsInAList": "gives its needs as a list; it should be a set",
    "NeedsOneName": "gives its needs as a str; it should be a set",
    "UnknownMode": "has the mode 'softmax'; there is soft, emphasis, skip, proportional",
}
ROWS = [[0, 1], [3, 4, 5]]
OF_TOKENS, OF_HEADS = f"[2, {LENGTH}]", f"[2, {LENGTH}, 3]"
IN_CALL = {
    "FailsInCall": "failed: ZeroDivisionError: division by zero",
    "FailsInManyLines": "failed: RuntimeError: bad shapes: (1, 2) (3)",
    "FailsWithoutAWord": "failed: AssertionError",
    "WrongShape": f"gave scores of shape [2, {LENGTH - 1}]; it should be {OF_TOKENS}, or that and the heads",
    "FourDimensions": f"gave scores of shape [2, {LENGTH}, 3, 1]; it should be {OF_TOKENS}, or that and",
    "OneNumber": f"gave scores of shape []; it should be {OF_TOKENS}, or that and the heads",
    "NotATensor": f"gave a list; it should give a tensor {OF_TOKENS}",
    "Nothing": f"gave a NoneType; it should give a tensor {OF_TOKENS}",
    "WithGradient": "gave scores with gradient; weights are constants: detach them",
}
IN_COMPLETE = {
    "WrongHeads": f"gave scores of shape [2, {LENGTH}, 2] for a model of 3 heads; it should be {OF_HEADS}",
    "FailsInComplete": "failed: KeyError: 'missing'",
    "WrongShapeInComplete": f"gave scores of shape [1, {LENGTH}] for a model of 3 heads; it should be",
    "WrongHeadsInComplete": f"gave scores of shape [2, {LENGTH}, 2] for a model of 3 heads; it should be",
    "NotATensorInComplete": "gave a NoneType; it should give a tensor",
    "WithGradientInComplete": "gave scores with gradient; weights are constants: detach them",
}


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module where Python finds it."""
    (tmp_path / "lib").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "lib")

    def write(name: str, code: str) -> None:
        (tmp_path / "lib" / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    return write


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("cache"))


def test_one_is_found_by_module_and_class(write_module: Write, small: Small) -> None:
    write_module("my_scorers", GOOD)
    assert type(create_scorer("my_scorers:High", small.recipe)).__name__ == "High"
    batch = small.batch(ROWS)
    (output,) = run_step(small.module("my_scorers:High"), [batch])
    valid = output.valid_bsh[..., 0]
    weights, targets = output.weights_bsh[..., 0][valid], batch.ids.roll(-1, 1)[valid]
    assert weights[targets.argmax()] == weights.max() > 1
    assert weights[targets.argmin()] == weights.min() < 1


def test_one_is_found_by_entry_point(write_module: Write, small: Small, tmp_path: Path) -> None:
    info = tmp_path / "lib" / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[wmtp.scorers]\n"
        "high-v1 = their_package:High\n"
        "gone-v1 = their_package:Gone\n"
        "lost-v1 = no_package:High\n"
        "entropy-v1 = their_package:High\n"
    )
    write_module("their_package", GOOD)
    assert [name for name in SCORERS.names() if name.endswith("h-v1")] == ["high-v1"]
    assert type(create_scorer("high-v1", small.recipe)).__module__ == "their_package"
    (output,) = run_step(small.module("high-v1"), [small.batch(ROWS)])
    assert output.weights_bsh[output.valid_bsh].std() > 0
    assert refusal(lambda: create_scorer("high-v2", small.recipe)).endswith("did you mean 'high-v1'?")
    for name, place in (("gone-v1", "their_package:Gone"), ("lost-v1", "no_package:High")):
        line = refusal(lambda name=name: create_scorer(name, small.recipe))
        assert line.startswith(f"scorer {place!r} cannot be loaded: ")
    own = create_scorer("entropy-v1", small.recipe)
    assert type(own).__module__.startswith("wmtp."), "nobody takes a built-in name"
    assert list(SCORERS.names()).count("entropy-v1") == 1


def test_it_can_be_mixed_with_others_and_remembers(write_module: Write, small: Small) -> None:
    write_module("my_scorers", GOOD)
    module = small.module("blend", blend={"my_scorers:Remembers": 1.0, "entropy-v1": 1.0})
    (output,) = run_step(module, [small.batch(ROWS)])
    assert output.weights_bsh[output.valid_bsh].std() > 0
    assert module.state()["my_scorers:Remembers.steps"] == 1


def test_its_memory_is_not_mistaken_for_the_schedules(write_module: Write, small: Small) -> None:
    write_module("my_scorers", GOOD)
    module = small.module("my_scorers:Remembers", **{"loss.schedule": {"effective_share": 0.5}})
    run_step(module, [small.batch(ROWS)])
    remembered = [float(tensor) for tensor in module.state().values()]
    assert sorted(remembered) == sorted([1.0, 1.0, module.schedule.at(1).temperature])


@pytest.mark.parametrize("name", WHEN_BUILT)
def test_what_is_no_scorer_is_refused_when_it_is_built(name: str, write_module: Write, small: Small) -> None:
    write_module("my_scorers", BAD)
    line = refusal(lambda: create_scorer(f"my_scorers:{name}", small.recipe))
    assert line.startswith(f"scorer 'my_scorers:{name}' {WHEN_BUILT[name]}")
    parts = {f"my_scorers:{name}": 1.0}
    assert refusal(lambda: create_scorer("blend", small.recipe, {"parts": parts})) == line


@pytest.mark.parametrize("name", [*IN_CALL, *IN_COMPLETE])
def test_what_a_scorer_must_not_give_ends_the_step(name: str, write_module: Write, small: Small) -> None:
    write_module("my_scorers", BAD)
    module = small.module(f"my_scorers:{name}")
    line = refusal(lambda: run_step(module, [small.batch(ROWS)]))
    assert line.startswith(f"scorer 'my_scorers:{name}' {(IN_CALL | IN_COMPLETE)[name]}")
    in_micro_batches = refusal(lambda: run_step(module, [small.batch([row]) for row in ROWS]))
    if name in IN_COMPLETE:
        assert in_micro_batches == line
    else:
        assert in_micro_batches == line.replace("[2, ", "[1, ")


@pytest.mark.parametrize("name", [*IN_CALL, *IN_COMPLETE])
def test_inside_a_mixture_the_part_is_named(name: str, write_module: Write, small: Small) -> None:
    write_module("my_scorers", BAD)
    alone = small.module(f"my_scorers:{name}")
    mixed = small.module("blend", blend={"uniform": 1.0, f"my_scorers:{name}": 1.0})
    lines = [refusal(lambda m=m: run_step(m, [small.batch(ROWS)])) for m in (alone, mixed)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "my_scorers:Gone",
            "scorer 'my_scorers:Gone' cannot be loaded: AttributeError: module 'my_scorers' has no attribute 'Gone'",
        ),
        (
            "no_scorers:Fine",
            "scorer 'no_scorers:Fine' cannot be loaded: ModuleNotFoundError: No module named 'no_scorers'",
        ),
        ("unfinished:Fine", "scorer 'unfinished:Fine' cannot be loaded: SyntaxError: "),
        ("uniforn", "unknown scorer 'uniforn'; did you mean 'uniform'?"),
        ("grad-norm", "unknown scorer 'grad-norm'; did you mean 'grad-norm-v1'?"),
    ],
)
def test_one_that_is_not_there_is_named(name: str, expected: str, write_module: Write, small: Small) -> None:
    write_module("my_scorers", BAD)
    write_module("unfinished", "class Fine(:\n")
    assert refusal(lambda: create_scorer(name, small.recipe)).startswith(expected)


def test_a_name_is_taken_once() -> None:
    line = refusal(lambda: SCORERS.register("entropy-v1", lambda _: None))
    assert line == "scorer 'entropy-v1' is registered already"


@pytest.mark.parametrize("name", ["Sometimes", "Always", "InComplete"])
def test_scores_that_are_not_finite_give_weight_1_and_are_counted(
    name: str, write_module: Write, small: Small
) -> None:
    write_module("my_nan", NAN)
    module = small.module(f"my_nan:{name}", own_model=True)
    outputs = run_step(module, [small.batch([row]) for row in ROWS])
    found = 0
    for output in outputs:
        nonfinite = output.valid_bsh & ~output.scores_bsh.isfinite()
        found += int(nonfinite.sum())
        assert (output.weights_bsh[nonfinite] == 1).all()
        assert output.loss.isfinite()
        output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.model.parameters())
    weights = torch.cat([o.weights_bsh[o.valid_bsh] for o in outputs])
    assert weights.double().mean().item() == pytest.approx(1, abs=1e-5)
    if name == "Sometimes":
        assert 0 < found < len(weights)
        assert (weights != 1).any()
    else:
        assert found == len(weights)
        assert (weights == 1).all()
    assert sum(int(o.nonfinite_scores) for o in outputs) == found
    mixture = small.module("blend", blend={f"my_nan:{name}": 1.0, "uniform": 1.0})
    (output,) = run_step(mixture, [small.batch(ROWS)])
    assert output.nonfinite_scores == found, "a mixture hides none of them"


def test_a_run_records_them(write_module: Write, make_recipe: Make, config: Config, tmp_path: Path) -> None:
    write_module("my_nan", NAN)
    recipe = make_recipe(**{"scorer": "my_nan:Sometimes", "train.steps": 2})
    train(recipe, config, tmp_path / "run")
    records = [record for record in MetricsLog(tmp_path / "run") if record["kind"] == "train"]
    assert len(records) == 2
    first, second = (record["nonfinite_scores"] for record in records)
    assert 0 < first < second, "a total, as that of skipped steps"
    assert all(record["loss"] is not None for record in records)
    assert records[-1]["skipped_steps"] == 0


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        (
            "my_scorers:WrongShape",
            "scorer 'my_scorers:WrongShape' gave scores of shape [8, 63]; it should be",
        ),
        ("my_scorers:FailsInComplete", "scorer 'my_scorers:FailsInComplete' failed: KeyError: 'missing'"),
        (
            "my_scorers:FailsInInit",
            "scorer 'my_scorers:FailsInInit' cannot be built: OSError: no table of words",
        ),
        ("rho1-exces-v1", "unknown scorer 'rho1-exces-v1'; did you mean 'rho1-excess-v1'?"),
    ],
)
def test_the_command_line_says_it_in_one_line(
    scorer: str,
    expected: str,
    write_module: Write,
    make_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_module("my_scorers", BAD)
    (tmp_path / "tiny.yaml").write_text(to_yaml(make_recipe()))
    arguments = ["train", "tiny.yaml", f"scorer={scorer}", "devices.device=cpu"]
    monkeypatch.setattr(sys, "argv", ["wmtp", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr().err
    assert left.value.code == 2
    assert printed.startswith(f"wmtp: {expected}")
    assert printed.count("\n") == 1
