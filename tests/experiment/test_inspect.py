from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spaced_tokenizer import spaced_tokenizer
from wmtp.config import Config, Recipe, Section
from wmtp.data.corpus import load_data
from wmtp.data.dataset import Document, tokenise
from wmtp.experiment.inspect import planted_tokens, token_pieces, token_weights
from wmtp.model.build import build_model
from wmtp.train.module import WeightedMTP
from wmtp.weighting.scorers.base import ScoreInputs, Scorer

Make = Callable[..., Recipe]


def test_weights_belong_to_the_tokens_they_are_shown_at(make_recipe: Make, config: Config) -> None:
    """A scorer that scores a token by its id: the weight shown at a token must follow its own id."""
    recipe = make_recipe(**{"loss.mode": "skip", "loss.top_p": 0.5})
    data = load_data(recipe, Path(config.paths.cache))
    module = WeightedMTP(build_model(recipe, data.tokenizer), recipe, compute_dtype=torch.float32)

    class ById(Scorer):
        def __call__(self, inputs: ScoreInputs) -> torch.Tensor:
            return torch.nn.functional.pad(inputs.batch.ids[:, 1:], (0, 1)).float()

    documents = [3, 0, 7]
    module.scorer = ById(Section(), recipe)
    weights = token_weights(module, data.train, documents, device=torch.device("cpu"))
    shown = []
    for document in documents:
        place = slice(data.train.offsets[document], data.train.offsets[document + 1])
        ids, supervised = data.train.tokens[place].tolist(), data.train.supervised[place].tolist()
        assert len(weights[document]) == len(ids)
        for t, (token, weight) in enumerate(zip(ids, weights[document], strict=True)):
            assert (weight is not None) == (supervised[t] and t > 0)
            if weight is not None:
                shown.append((token, weight))
    kept = [token for token, weight in shown if weight == pytest.approx(2.0)]
    skipped = [token for token, weight in shown if weight == 0]
    assert kept
    assert skipped
    assert min(kept) >= max(skipped)


def test_pieces_and_planted_places(make_recipe: Make, config: Config) -> None:
    tokenizer = load_data(make_recipe(), Path(config.paths.cache)).tokenizer
    document = Document("add 1 to 2: ", "1 + 2 = 4 done")
    pieces = token_pieces(tokenizer, document)
    assert "".join(text for text, _, _ in pieces[:-1]) == document.prompt + document.completion
    assert all(end <= 0 for text, start, end in pieces if start < 0)
    for text, start, end in pieces[:-1]:
        if start >= 0:
            assert document.completion[start:end] == text
    wrong = document.completion.index("4")
    planted = planted_tokens(pieces, {"error_spans": [[wrong, wrong + 1]]})
    (found,) = [text for (text, _, _), is_planted in zip(pieces, planted, strict=True) if is_planted]
    assert found.strip() == "4"
    assert not any(planted_tokens(pieces, {}))


def test_every_token_has_its_piece_where_the_tokenizer_puts_a_space_before_texts() -> None:
    tokenizer, document = spaced_tokenizer(), Document("def f(x): ", "return x + 1")
    pieces = token_pieces(tokenizer, document)
    assert len(pieces) == len(tokenise([document], tokenizer, 64, "error").tokens)
    behind = [piece for piece in pieces[:-1] if piece[1] >= 0]
    assert "".join(text for text, _, _ in behind) == document.completion
    assert all(document.completion[start:end] == text for text, start, end in behind)
