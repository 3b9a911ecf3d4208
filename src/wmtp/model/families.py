"""Whether a family of models can be used: our forward is compared with its own, on a small twin and on the model.

Nothing is decided by names.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from wmtp.data.loader import Batch
from wmtp.errors import WMTPError, one_line
from wmtp.model.attention import CACHE, narrowed
from wmtp.model.cache import PositionCache
from wmtp.model.modeling import MTPConfig, MTPForCausalLM
from wmtp.model.packed import next_token_hidden
from wmtp.model.twins import make_twin

TOLERANCE = 1e-4
"""Of logits, or of the largest of them where that is above 1."""
TWIN_LENGTHS, SHORT_LENGTHS = (13, 11), (9, 6)
"""Tokens in the two documents that are read: beyond a twin's windows, and few for a model of any size."""


class _Differs(Exception):
    """What is wrong with a family, as the end of a sentence."""


def check_learner(config: PreTrainedConfig, called: str) -> None:
    """Compare a learner over a small twin with the twin, packed and with a cache.

    Args:
        config: of a next-token model.
        called: what errors call it.

    Raises:
        WMTPError: another forward than ours is needed.
    """
    _refuse(called, "be split into trunk and heads", _objection(_key(config), "learner"))


def check_reference(config: PreTrainedConfig, called: str) -> None:
    """Compare a small twin on packed documents with itself on each document alone; as `check_learner`."""
    _refuse(called, "judge packed documents", _objection(_key(config), "reference"))


def take_weights(learner: MTPForCausalLM, base: PreTrainedModel, called: str) -> None:
    """Give a learner the weights of a next-token model; heads 1..H-1 keep theirs.

    Raises:
        WMTPError: they do not fit, or do not give the same logits of two short documents.
    """

    def load_and_compare() -> None:
        _load(learner, base)
        _compare_packed(learner, base, SHORT_LENGTHS)

    learner.eval()
    _refuse(called, "be split into trunk and heads", _found(load_and_compare))
    learner.train()


def check_judge(reference: PreTrainedModel, called: str) -> None:
    """Compare a reference on two short packed documents with itself on each alone; as `check_learner`."""
    _refuse(
        called, "judge packed documents", _found(lambda: _compare_packed(reference, reference, SHORT_LENGTHS))
    )


def _key(config: PreTrainedConfig) -> str:
    return str(config.to_json_string(use_diff=False))


def _refuse(called: str, what: str, objection: str | None) -> None:
    if objection is not None:
        raise WMTPError(
            f"{called}: cannot {what}: {objection}; docs/model-families.md lists the families that can"
        )


def _found(compare: Callable[[], None]) -> str | None:
    """What a comparison objects to, in a line; None if all is well."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            compare()
    except (_Differs, WMTPError) as error:
        return one_line(error)
    except Exception as error:  # what does not fit raises wherever it first does not
        return f"{type(error).__name__}: {one_line(error)}"
    finally:
        transformers_logging.set_verbosity(verbosity)
    return None


@lru_cache
def _objection(config: str, role: str) -> str | None:
    def compare() -> None:
        twin = make_twin(AutoConfig.for_model(**json.loads(config)))
        if role == "learner":
            _compare_learner(twin)
        else:
            _compare_packed(twin, twin, TWIN_LENGTHS)

    return _found(compare)


def _load(learner: MTPForCausalLM, base: PreTrainedModel) -> None:
    missing, unexpected = learner.load_state_dict(base.state_dict(), strict=False)
    if lacking := [name for name in missing if not learner.heads.head_of(name)]:
        raise _Differs(f"it has no weights {lacking[0]!r}")
    if unexpected:
        raise _Differs(f"there is no place for its weights {unexpected[0]!r}")


def _compare_learner(original: PreTrainedModel) -> None:
    learner = MTPForCausalLM(MTPConfig.with_heads(original.config, 2)).eval()
    _load(learner, original)
    learner.heads.copy_head_0()
    document = _documents(original, TWIN_LENGTHS)[0]
    _same("one document", learner(input_ids=document).logits, _logits(original, document))
    _compare_packed(learner, original, TWIN_LENGTHS)
    trunk = learner.trunk(document)
    _same("further heads", learner.head(trunk, 1), learner.head(trunk, 0))
    _compare_position_cache(learner, original, document)
    _compare_dynamic_cache(learner, original, document)


def _compare_packed(model: PreTrainedModel, original: PreTrainedModel, lengths: Sequence[int]) -> None:
    documents = _documents(original, lengths)
    logits = next_token_hidden(model, _packed(documents)) @ model.get_output_embeddings().weight.T
    parts = logits.split([*lengths, 2], 1)
    for found, document in zip(parts, documents, strict=False):
        _same("packed documents", found, _logits(original, document))


def _compare_position_cache(learner: MTPForCausalLM, original: PreTrainedModel, document: Tensor) -> None:
    """As decoding does it: three wrong drafts are read, and then the right tokens in their places."""
    wrong = (document + 1) % original.config.vocab_size
    width, read = document.shape[1], []
    cache = PositionCache(width)
    drafted, right = width - 6, width - 3
    for start, end, ids in [
        (0, drafted, document),
        (drafted, right, wrong),
        (drafted, right, document),
        (right, width, document),
    ]:
        positions = torch.arange(start, end)[None]
        seen = cache.write_at(positions, 1, end)
        masks = narrowed(learner.config.backbone, seen, positions, torch.arange(end)[None])
        trunk = learner.trunk(ids[:, start:end], mask=masks, position_ids=positions, cache=cache)
        logits = [learner.head(trunk, h) @ learner.unembedding.T for h in range(learner.config.heads)]
        if ids is document:
            read.append(logits[0])
    _same("decoding with a cache", torch.cat(read, 1), _logits(original, document))


def _compare_dynamic_cache(learner: MTPForCausalLM, original: PreTrainedModel, document: Tensor) -> None:
    """As transformers' `generate` does it: a prompt, and then token by token."""
    prompt, *tokens = document.split([document.shape[1] - 6, *[1] * 6], 1)
    output = learner(input_ids=prompt, use_cache=True)
    read = [output.logits]
    for token in tokens:
        output = learner(input_ids=token, cache=output[CACHE], use_cache=True)
        read.append(output.logits)
    _same("generating with transformers' cache", torch.cat(read, 1), _logits(original, document))


def _documents(model: PreTrainedModel, lengths: Sequence[int]) -> list[Tensor]:
    """Random tokens [1, length] each."""
    generator = torch.Generator().manual_seed(1)
    vocabulary = model.get_input_embeddings().num_embeddings
    return [torch.randint(vocabulary, (1, length), generator=generator) for length in lengths]


def _packed(documents: Sequence[Tensor]) -> Batch:
    """One row, with two positions of padding behind."""
    numbers = [i for i, each in enumerate(documents, start=1) for _ in range(each.shape[1])]
    places = [place for each in documents for place in range(each.shape[1])]
    ids = torch.cat([*documents, torch.zeros(1, 2, dtype=torch.long)], 1)
    row, positions = torch.tensor([[*numbers, 0, 0]]), torch.tensor([[*places, 0, 0]])
    return Batch(ids, row, positions, row > 0, torch.arange(ids.shape[1])[None])


def _logits(model: PreTrainedModel, document: Tensor) -> Tensor:
    found: Tensor = model(input_ids=document, use_cache=False).logits
    return found


def _same(what: str, found: Tensor, expected: Tensor) -> None:
    worst = float((found - expected).abs().max())
    if not worst <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise _Differs(f"for {what} its logits differ from ours by up to {worst:.2g}")
