"""`wmtp score --diagnose` against counting by hand, and what it cannot say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from wmtp.config import Mode, Recipe, load, override
from wmtp.data.corpus import Data, load_data
from wmtp.data.loader import pack
from wmtp.data.targets import shift_left
from wmtp.errors import WMTPError
from wmtp.experiment import diagnose as module
from wmtp.experiment.diagnose import Diagnosis, diagnose
from wmtp.experiment.weighted_documents import inspect_document
from wmtp.run import Run
from wmtp.train.run import train
from wmtp.weighting.scorers.base import ScoreInputs, Scorer

TINY = """
name: tiny
model: {hidden_size: 32, layers: 2, attention_heads: 2, heads: 3}
data:
  source: tinycode
  vocab_size: 300
  sequence_length: 256
  overlong: drop
  tinycode: {train: 60, validation: 4, test: 4, curated: 0, max_operations: 2, families: [list]}
train: {steps: 1, batch_size: 4, warmup_steps: 1, lr: 0.01}
"""


class ByToken(Scorer):
    """A weight between 1 and 2 for every token of the vocabulary."""

    mode: Mode = "proportional"

    def __call__(self, inputs: ScoreInputs) -> torch.Tensor:
        return 1 + shift_left(inputs.batch.ids) % 7 / 7


class ByPlace(ByToken):
    """The same for every place in the data."""

    def __call__(self, inputs: ScoreInputs) -> torch.Tensor:
        return 1 + shift_left(inputs.batch.token_keys) % 5 / 5


class Knowing(Scorer):
    """Knows where the errors are."""

    keys: ClassVar[list[int]]
    score = -1.0

    def __call__(self, inputs: ScoreInputs) -> torch.Tensor:
        known = torch.tensor(self.keys)
        return self.score * torch.isin(shift_left(inputs.batch.token_keys), known).float()


class Deceived(Knowing):
    """Takes them for the best."""

    score = 1.0


class Broken(Knowing):
    """Cannot say."""

    def __call__(self, _inputs: ScoreInputs) -> torch.Tensor:
        raise RuntimeError("no idea")


BY_TOKEN, BY_PLACE, KNOWING, DECEIVED, BROKEN = (
    f"{__name__}:{c.__name__}" for c in (ByToken, ByPlace, Knowing, Deceived, Broken)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("diagnosed")
    (folder / "tiny.yaml").write_text(TINY)
    recipe, config = load(
        folder / "tiny.yaml", None, [f"paths.cache={folder}/cache", "devices.precision=fp32"]
    )
    train(recipe, config, folder / "run")
    return Run(folder / "run", recipe, config)


def by_hand(data: Data, recipe: Recipe) -> list[tuple[int, int, int, str, bool, int, float, float]]:
    """(step, document, target's key, kind of error or "", whether it is the first token of one, head, score by token,
    score by place) of every valid entry."""
    dataset, found = data.train, []
    rows = pack(
        dataset.lengths.tolist(), range(min(module.DOCUMENTS, len(dataset))), recipe.data.sequence_length
    )
    for number, row in enumerate(rows):
        for document in row:
            tokens, planted = document_tokens(data, document)
            kind = data.rows.train[int(dataset.sources[document])]["corruption"]
            start = int(dataset.offsets[document])
            assert tokens == dataset.tokens[start : dataset.offsets[document + 1]].tolist()
            for s in range(len(tokens)):
                for h in range(recipe.model.heads):
                    t = s + h + 1
                    if t < len(tokens) and dataset.supervised[start + t]:
                        scores = 1 + tokens[t] % 7 / 7, 1 + (start + t) % 5 / 5
                        step = number // recipe.train.batch_size
                        error = (kind if planted[t] else "", planted[t] and not planted[t - 1])
                        found.append((step, document, start + t, *error, h, *scores))
    return found


def document_tokens(data: Data, document: int) -> tuple[list[int], list[bool]]:
    """Ids of a document's tokens, and whether a character of each belongs to an error."""
    source = int(data.train.sources[document])
    row = data.rows.train[source]
    wrong = {place for start, end in row["error_spans"] for place in range(start, end)}
    ids, planted = [], []
    for text, is_code in ((row["prompt"], False), (row["code"], True)):
        encoded = data.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids += encoded["input_ids"]
        planted += [is_code and any(p in wrong for p in range(*place)) for place in encoded["offset_mapping"]]
    ids, planted = [*ids, data.tokenizer.eos_token_id], [*planted, False]
    before = int(data.train.starts[document])
    here = slice(before, before + int(data.train.lengths[document]))
    return ids[here], planted[here]


def chance(planted: np.ndarray, others: np.ndarray) -> float:
    """That a planted entry has the lower weight, over all pairs; a tie counts half."""
    return float(((planted[:, None] < others) + 0.5 * (planted[:, None] == others)).mean())


@pytest.mark.parametrize(
    "changes", [{}, {"data.sequence_length": 48, "data.overlong": "split"}], ids=["whole", "split"]
)
def test_the_numbers_are_those_of_counting(
    changes: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = override(run.recipe, changes, "test")
    monkeypatch.setattr(module, "DOCUMENTS", 30)
    found, reasons = diagnose(replace(run, recipe=recipe), [BY_TOKEN, BY_PLACE])
    assert not reasons
    entries = by_hand(load_data(recipe, Path(run.config.paths.cache)), recipe)
    steps, documents, _, kinds, first, heads, *scores = map(np.array, zip(*entries, strict=True))
    planted = kinds != ""
    assert 25 < documents.max() < 30
    assert steps.max() > 1
    weights = []
    for own in scores:
        mean = np.array([own[steps == step].mean() for step in steps])
        weights.append((own / mean).astype(np.float32).astype(np.float64))
    assert [d.scorer for d in found] == [BY_TOKEN, BY_PLACE]
    for diagnosis, own in zip(found, weights, strict=True):
        expected = [
            chance(own[planted & (heads == h)], own[~planted & (heads == h)])
            for h in range(recipe.model.heads)
        ]
        assert diagnosis.auc == pytest.approx(expected, abs=1e-4)
        expected = [
            chance(own[first & (heads == h)], own[~planted & (heads == h)]) for h in range(recipe.model.heads)
        ]
        assert diagnosis.first == pytest.approx(expected, abs=1e-4)
        assert diagnosis.first != pytest.approx(diagnosis.auc, abs=1e-4)
        right = own[~planted & (heads == 0)]
        for kind, found_of_kind in diagnosis.kinds.items():
            wrong = (kinds == kind) & (heads == 0)
            of_kind = [chance(own[wrong], right), chance(own[wrong & first], right)]
            assert found_of_kind == pytest.approx(of_kind, abs=1e-4)
        assert diagnosis.kinds.keys() == set(kinds[planted])
        assert diagnosis.planted == pytest.approx(own[planted].mean(), abs=1e-6)
        assert diagnosis.others == pytest.approx(own[~planted].mean(), abs=1e-6)
    expected = float(spearmanr(*weights).statistic)
    assert found[0].correlation == {BY_PLACE: pytest.approx(expected, abs=1e-4)}
    assert found[1].correlation == {BY_TOKEN: pytest.approx(expected, abs=1e-4)}


def test_a_scorer_that_knows_one_that_errs_and_one_without_opinion(run: Run) -> None:
    data = load_data(run.recipe, Path(run.config.paths.cache))
    Knowing.keys = [key for _, _, key, kind, *_ in by_hand(data, run.recipe) if kind]
    (knowing, deceived, uniform), _ = diagnose(run, [KNOWING, DECEIVED, "uniform"])
    assert knowing.auc == [1, 1, 1]
    assert knowing.planted is not None
    assert knowing.planted < 0.3
    assert knowing.first == [1, 1, 1]
    assert deceived.auc == deceived.first == [0, 0, 0]
    assert all(found == [0, 0] for found in deceived.kinds.values())
    assert knowing.correlation == {DECEIVED: pytest.approx(-1, abs=0.2), "uniform": None}
    kinds: dict[str, list[float | None]] = {kind: [0.5, 0.5] for kind in knowing.kinds}
    others = {KNOWING: None, DECEIVED: None}
    assert uniform == Diagnosis("uniform", 3 * [0.5], 3 * [0.5], kinds, 1.0, 1.0, others)


def test_all_that_can_be_asked_and_why_the_others_cannot(run: Run) -> None:
    found, reasons = diagnose(run, None)
    assert [d.scorer for d in found] == ["entropy-v1", "grad-norm-v1"]
    assert reasons.keys() == {
        "rho1-excess-v1",
        "critic-delta-v1",
        "critic-gae-v1",
        "grpo-v1",
        "learned-v1",
    }
    assert "needs a reference model: set model.ref_id" in reasons["rho1-excess-v1"]
    assert "needs a critic: set critic.path" in reasons["critic-delta-v1"]
    assert "several completions per prompt" in reasons["grpo-v1"]
    clean = "data.source tinycode: scorer.clean {'curated': True} leaves none of 60 rows"
    assert reasons["learned-v1"] == clean
    for diagnosis in found:
        assert len(diagnosis.auc) == 3
        assert all(value is not None and 0 < value < 1 for value in diagnosis.auc)
        assert diagnosis.correlation.keys() == {d.scorer for d in found} - {diagnosis.scorer}
    written = json.loads((run.directory / "diagnosis.json").read_text())
    assert written["not_asked"] == reasons
    assert [Diagnosis(**one) for one in written["found"]] == found


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        ("rho1-excess-v1", "scorer 'rho1-excess-v1' needs a reference model"),
        ("entropy-v2", "unknown scorer 'entropy-v2'; did you mean 'entropy-v1'"),
        (BROKEN, "scorer '.*:Broken' failed: RuntimeError: no idea"),
    ],
)
def test_a_named_scorer_that_cannot_be_asked_is_an_error(scorer: str, expected: str, run: Run) -> None:
    with pytest.raises(WMTPError, match=expected):
        diagnose(run, ["entropy-v1", scorer])


def test_data_without_planted_errors_says_so(run: Run, sums: Path) -> None:
    clean = override(run.recipe, {"data.tinycode.noise": 0.0}, "test")
    with pytest.raises(WMTPError, match=r"the first 60 training documents hold no planted error$"):
        diagnose(replace(run, recipe=clean), None)
    fields = {"text": None, "prompt": "prompt", "completion": "completion"}
    other = override(run.recipe, {"data.source": str(sums), "data.fields": fields}, "test")
    with pytest.raises(WMTPError, match=r"the rows have no error_spans; tinycode has them$"):
        diagnose(replace(run, recipe=other), None)


def test_weights_are_those_of_the_end_of_training(run: Run) -> None:
    """What a scorer has learnt counts, and where a schedule has led."""
    changes = {
        "train.scorer": "learned-v1",
        "train.steps": 8,
        "data.tinycode.curated": 20,
        "learned.lr": 0.3,
        "loss.schedule.lambda": {"start": 0.0, "end": 1.0},
    }
    recipe = override(run.recipe, changes, "test")
    learned = Run(run.directory.parent / "learned", recipe, run.config)
    train(recipe, run.config, learned.directory)
    (found,), _ = diagnose(learned, ["learned-v1"])
    assert found.auc[0] != 0.5
    shown = inspect_document(learned, None, 0)
    weights = [w for w in shown.weights["learned-v1"] if w is not None]
    assert max(weights) - min(weights) > 0.01
    # In a run that was not trained with it, it has learnt nothing.
    (found,), _ = diagnose(replace(run, recipe=recipe), ["learned-v1"])
    assert found.auc == [0.5, 0.5, 0.5]
