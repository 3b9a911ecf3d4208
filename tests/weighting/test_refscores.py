import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from wmtp.config import Config, Recipe, recipe_from
from wmtp.data.corpus import Data, load_data
from wmtp.errors import WMTPError
from wmtp.model.build import build_model, load_reference
from wmtp.weighting.refscores import load_scores, write_scores

Make = Callable[..., Recipe]


@pytest.fixture
def data(make_recipe: Make, config: Config) -> Data:
    return load_data(make_recipe(), Path(config.paths.cache))


def plain_llama(vocab_size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, initializer_range=0.3, **sizes)).eval()


SHAPES = {
    "data": {"sequence_length": 64},
    "loss": {"chunk_size": 50},
    "train": {"batch_size": 8, "micro_batch_size": 4},
}


def write(directory: Path, data: Data, model: PreTrainedModel) -> None:
    write_scores(
        directory,
        data.train,
        model,
        recipe_from(SHAPES, "test"),
        model_fingerprint="m" * 64,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


@pytest.mark.parametrize("kind", ["plain", "mtp"])
def test_scores_are_each_documents_own_cross_entropies(
    kind: str, data: Data, make_recipe: Make, tmp_path: Path
) -> None:
    vocab = len(data.tokenizer)
    model = plain_llama(vocab) if kind == "plain" else build_model(make_recipe(), data.tokenizer).eval()
    write(tmp_path / "scores", data, model)
    scores = load_scores(tmp_path / "scores", data.train, model="m" * 64)
    assert scores.dtype == np.float16
    assert isinstance(scores, np.memmap)
    for document in (0, 3, len(data.train) - 1):
        start, end = data.train.offsets[document : document + 2]
        ids = torch.from_numpy(data.train.tokens[start:end].astype(np.int64))
        with torch.no_grad():
            logprobs = model(ids[None]).logits[0].double().log_softmax(-1)
        expected = [-float(logprobs[t - 1, ids[t]]) for t in range(1, len(ids))]
        assert math.isnan(scores[start])
        np.testing.assert_allclose(scores[start + 1 : end], expected, rtol=2e-3, atol=2e-3)


def test_what_does_not_match_is_refused_with_both_fingerprints(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "scores", data, plain_llama(len(data.tokenizer)))
    with pytest.raises(WMTPError, match=r"another model: fingerprint m{16} there, x{16} here"):
        load_scores(tmp_path / "scores", data.train, model="x" * 64)
    tokens = data.train.tokens.copy()
    tokens[5] += 1
    changed = replace(data.train, tokens=tokens)
    there, here = data.train.fingerprint[:16], changed.fingerprint[:16]
    with pytest.raises(WMTPError, match=f"another data: fingerprint {there} there, {here} here"):
        load_scores(tmp_path / "scores", changed, model=None)
    other = replace(data.train, tokenizer_fingerprint="t" * 64)
    with pytest.raises(WMTPError, match=r"another tokenizer: fingerprint .* there, t{16} here"):
        load_scores(tmp_path / "scores", other, model=None)


def test_scores_of_before_are_read(data: Data, tmp_path: Path) -> None:
    count = len(data.train.tokens)
    values = np.arange(count).astype(np.float16)
    header = {
        "data": data.train.fingerprint,
        "tokenizer": data.train.tokenizer_fingerprint,
        "model": "m" * 64,
    }
    (tmp_path / "scores.json").write_text(json.dumps({"tokens": count, **header}))
    (tmp_path / "scores.float16").write_bytes(values.tobytes())
    np.testing.assert_array_equal(load_scores(tmp_path, data.train, model="m" * 64), values)


@pytest.mark.parametrize("header", ["[]", '{"data": 3}', "{"])
def test_a_damaged_header_is_one_line(header: str, data: Data, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(header)
    with pytest.raises(
        WMTPError, match=r"^data\.reference_scores '.*'[^\n]*; write it anew with wmtp score$"
    ):
        load_scores(tmp_path, data.train, model=None)


def test_a_truncated_file_is_refused(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "scores", data, plain_llama(len(data.tokenizer)))
    path = tmp_path / "scores" / "scores.float16"
    path.write_bytes(path.read_bytes()[:-3])
    size = 2 * len(data.train.tokens)
    with pytest.raises(
        WMTPError, match=f"truncated: {size - 3} bytes instead of {size}; write it anew with wmtp score"
    ):
        load_scores(tmp_path / "scores", data.train, model=None)
    path.unlink()
    with pytest.raises(WMTPError, match="truncated: 0 bytes"):
        load_scores(tmp_path / "scores", data.train, model=None)


def test_a_missing_folder_is_named(data: Data, tmp_path: Path) -> None:
    with pytest.raises(WMTPError, match=r"gone/scores\.json: no such file"):
        load_scores(tmp_path / "gone", data.train, model=None)


def test_a_reference_of_another_vocabulary_is_refused(data: Data, tmp_path: Path) -> None:
    plain_llama(len(data.tokenizer) - 1).save_pretrained(tmp_path / "small")
    with pytest.raises(WMTPError, match=r"its vocabulary of 299 is not the learner's of 300"):
        load_reference(str(tmp_path / "small"), data.tokenizer, 64)


def test_a_reference_with_another_tokenizer_is_refused(data: Data, tmp_path: Path) -> None:
    from wmtp.data.tokenizer import train_tokenizer

    plain_llama(300).save_pretrained(tmp_path / "reference")
    train_tokenizer(["something else entirely"], 300, tmp_path / "cache").save_pretrained(
        tmp_path / "reference"
    )
    with pytest.raises(WMTPError, match=r"its tokenizer of \d+ tokens is not the learner's of 300"):
        load_reference(str(tmp_path / "reference"), data.tokenizer, 64)


def test_damaged_weights_of_a_reference_are_refused(data: Data, tmp_path: Path) -> None:
    plain_llama(300).save_pretrained(tmp_path / "reference")
    weights = tmp_path / "reference" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WMTPError, match=r"model\.ref_id .*reference': cannot be loaded"):
        load_reference(str(tmp_path / "reference"), data.tokenizer, 64)
