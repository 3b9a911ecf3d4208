"""Per-head accuracy and perplexity against loops over documents and positions, in float64."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small_models import small_model
from wmtp.data.dataset import Counts, TokenDataset
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.errors import WMTPError
from wmtp.evaluate.heads import HeadMeasures, evaluate_heads, measure_heads
from wmtp.model.modeling import MTPForCausalLM
from wmtp.run import Run
from wmtp.train.run import train

VOCABULARY = 11


def make_model(heads: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> MTPForCausalLM:
    return small_model(heads, VOCABULARY, seed=seed, init_std=0.5).to(dtype)


def make_dataset(documents: list[list[tuple[int, bool]]]) -> TokenDataset:
    """Documents as lists of (token, supervised)."""
    flat = [entry for document in documents for entry in document]
    return TokenDataset(
        tokens=np.array([token for token, _ in flat], dtype=np.int32),
        supervised=np.array([supervised for _, supervised in flat], dtype=np.bool_),
        offsets=np.cumsum([0, *map(len, documents)], dtype=np.int64),
        sources=np.arange(len(documents), dtype=np.int64),
        starts=np.zeros(len(documents), dtype=np.int64),
        tokenizer_fingerprint="",
        counts=Counts(len(documents), max(map(len, documents))),
    )


def obvious(model: MTPForCausalLM, documents: list[list[tuple[int, bool]]]) -> list[HeadMeasures]:
    """Every document on its own, every position and head on its own."""
    found = []
    for head in range(model.config.heads):
        losses, ranks = [], []
        for document in documents:
            ids = [token for token, _ in document]
            for position in range(len(document) - head - 1):
                target, supervised = document[position + head + 1]
                if not supervised:
                    continue
                with torch.no_grad():
                    trunk = model.trunk(torch.tensor([ids[: position + 1]]))
                    logits = (model.head(trunk, head)[0, -1] @ model.unembedding.T).tolist()
                total = math.log(sum(math.exp(logit) for logit in logits))
                losses.append(total - logits[target])
                ranks.append(sorted(range(len(logits)), key=lambda i: -logits[i]).index(target))
        if not losses:
            found.append(HeadMeasures(head, 0, None, None, None, None))
            continue
        ce = sum(losses) / len(losses)
        first, five = (sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5))
        found.append(HeadMeasures(head, len(losses), first, five, ce, math.exp(ce)))
    return found


def check(found: list[HeadMeasures], expected: list[HeadMeasures]) -> None:
    for own, other in zip(found, expected, strict=True):
        if other.targets == 0:
            assert own == other
        else:
            assert vars(own) == pytest.approx(vars(other), rel=1e-10)


entries = st.tuples(st.integers(0, VOCABULARY - 1), st.booleans())


@settings(max_examples=60)
@given(
    documents=st.lists(st.lists(entries, min_size=1, max_size=8), min_size=1, max_size=4),
    heads=st.integers(1, 3),
    seed=st.integers(0, 99),
    sequence_length=st.integers(8, 20),
    batch_size=st.integers(1, 3),
    chunk_size=st.integers(1, 9),
)
def test_measures_are_those_of_loops_over_documents_and_positions(
    documents: list[list[tuple[int, bool]]],
    heads: int,
    seed: int,
    sequence_length: int,
    batch_size: int,
    chunk_size: int,
) -> None:
    model = make_model(heads, seed)
    found = measure_heads(
        model,
        make_dataset(documents),
        sequence_length=sequence_length,
        batch_size=batch_size,
        chunk_size=chunk_size,
    )
    check(found, obvious(model, documents))


def test_a_head_that_looks_beyond_every_document_has_no_measures() -> None:
    model = make_model(3)
    documents = [[(1, True), (2, True)], [(3, True), (4, False), (5, False)]]
    found = measure_heads(model, make_dataset(documents), sequence_length=8, batch_size=2)
    assert [own.targets for own in found] == [1, 0, 0]
    assert found[1] == HeadMeasures(1, 0, None, None, None, None)


def test_equally_probable_tokens_come_in_the_order_of_their_numbers_as_in_decoding() -> None:
    model = make_model(1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert generate(model, [[3]], DecodeOptions(2)).tokens == [[0, 0]]
    documents = [[(9, False), (target, True)] for target in range(VOCABULARY)]
    (found,) = measure_heads(model, make_dataset(documents), sequence_length=4, batch_size=3)
    assert (found.top_1, found.top_5) == (1 / VOCABULARY, 5 / VOCABULARY)
    assert found.perplexity == pytest.approx(VOCABULARY)


def test_no_more_than_a_chunk_of_logits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    mm = torch.mm

    def spy(*arguments: Any, **named: Any) -> torch.Tensor:
        product = mm(*arguments, **named)
        sizes.append(tuple(product.shape))
        return product

    monkeypatch.setattr(torch, "mm", spy)
    documents = [[(token % VOCABULARY, True) for token in range(20)]] * 4
    measure_heads(make_model(2), make_dataset(documents), sequence_length=20, batch_size=4, chunk_size=7)
    assert sizes
    assert max(rows for rows, _ in sizes) == 7
    assert sum(rows for rows, _ in sizes) == 4 * (19 + 18)


def test_half_precision_is_measured_in_float32() -> None:
    documents = [[(token % VOCABULARY, True) for token in range(start, start + 9)] for start in range(6)]
    exact = obvious(make_model(2, dtype=torch.float64), documents)
    model = make_model(2, dtype=torch.bfloat16).train()
    found = measure_heads(model, make_dataset(documents), sequence_length=32, batch_size=2)
    assert model.training
    for own, other in zip(found, exact, strict=True):
        assert own.ce == pytest.approx(other.ce, rel=0.03)


def test_a_broken_model_is_named_and_a_hopeless_one_has_no_perplexity() -> None:
    dataset = make_dataset([[(1, True), (2, True)]])
    model = make_model(1)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    (found,) = measure_heads(model, dataset, sequence_length=4, batch_size=1)
    assert found.ce is not None
    assert found.ce > 1000
    assert found.perplexity is None
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(WMTPError, match=r"^head 0: its cross-entropy is not finite"):
        measure_heads(model, dataset, sequence_length=4, batch_size=1)


def test_a_runs_heads_on_its_validation_data_are_those_of_its_training(
    make_recipe: Callable[..., Any], config: Any
) -> None:
    recipe = make_recipe()
    run = Path("run")
    train(recipe, config, run, "never")
    found = evaluate_heads(Run(run, recipe, config))
    assert found == json.loads((run / "evaluation-heads.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "validation"][-1]
    assert [own["ce"] for own in found["heads"]] == pytest.approx(last["ce"], rel=1e-5)
    assert found["checkpoint"] == "step-00000006"
    assert found["documents"] > 0
    assert all(0 <= own["top_1"] <= own["top_5"] <= 1 for own in found["heads"])
