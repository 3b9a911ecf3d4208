"""What becomes of every causal family of transformers, built small from its configuration.

`python -m tests.model.families` (with `src` and `tests` on the path) prints docs/model-families.md.
"""

import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from wmtp.config import Recipe
from wmtp.data.loader import Batch
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.errors import WMTPError
from wmtp.model import families
from wmtp.model.build import build_model, learner_config, load_reference
from wmtp.model.packed import next_token_hidden, packed_trunk
from wmtp.model.twins import make_twin

FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
RIGHT = "right"
LENGTHS = (17, 12, 3)
"""Of documents; the windows of small models are 5."""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Outcome:
    """`right`, or why a family is refused."""

    learner: str
    reference: str


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Fewer tokens than any small model has."""
    pieces = [*"abcdefgh", "<end>"]
    backend = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    backend.normalizer = normalizers.NFC()  # as the class that transformers takes for qwen2 has it
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def outcome(kind: str, folder: Path, **changes: object) -> Outcome:
    """Save a small model of a family and use it as base and as reference.

    Raises:
        AssertionError: it is used, and wrong.
        Exception: what is no refusal.
    """
    try:
        config = AutoConfig.for_model(kind, **changes)
        original = make_twin(config)
    except Exception:  # transformers' own defaults do not go together, or nothing small can be made
        return _without_weights(kind, folder, changes)
    save(original, folder)
    return Outcome(
        _refused_or(lambda: check_learner(original, folder)),
        _refused_or(lambda: check_reference(original, folder)),
    )


def save(model: PreTrainedModel, folder: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def check_learner(original: PreTrainedModel, folder: Path) -> None:
    """Packed, alone, decoded and drafted, against the model itself."""
    recipe = Recipe.model_validate(
        {"model": {"base_id": str(folder), "heads": 3}, "data": {"sequence_length": 32}}
    )
    learner = build_model(recipe, tokenizer()).eval()
    documents, batch = packed()
    with torch.no_grad():
        trunk = packed_trunk(learner, batch)
        for h in range(3):
            same(learner.head(trunk, h) @ learner.unembedding.T, documents, original)
        for document in documents:
            torch.testing.assert_close(
                learner(document).logits, logits(original, document), rtol=0, atol=TOLERANCE
            )
    expected = [greedy(original, document[0].tolist()) for document in documents]
    prompts = [document[0].tolist() for document in documents]
    for heads in (1, None):
        assert generate(learner, prompts, DecodeOptions(9, heads=heads)).tokens == expected
    mask = torch.ones_like(documents[0])
    kept = learner.generate(
        documents[0], attention_mask=mask, max_new_tokens=9, do_sample=False, eos_token_id=None
    )
    assert kept[0, LENGTHS[0] :].tolist() == expected[0]


def check_reference(original: PreTrainedModel, folder: Path) -> None:
    """Packed, against the model itself on each document."""
    reference = load_reference(str(folder), tokenizer(), 32)
    documents, batch = packed()
    with torch.no_grad():
        hidden = next_token_hidden(reference, batch)
        same(hidden @ reference.get_output_embeddings().weight.T, documents, original)


def packed() -> tuple[list[Tensor], Batch]:
    generator = torch.Generator().manual_seed(7)
    documents = [torch.randint(3, 60, (1, length), generator=generator) for length in LENGTHS]
    width = sum(LENGTHS) + 3
    ids, numbers, places = (torch.zeros(1, width, dtype=torch.long) for _ in range(3))
    start = 0
    for number, document in enumerate(documents, start=1):
        end = start + document.shape[1]
        ids[0, start:end], numbers[0, start:end] = document[0], number
        places[0, start:end] = torch.arange(end - start)
        start = end
    return documents, Batch(ids, numbers, places, numbers > 0, torch.arange(width)[None])


def same(found: Tensor, documents: list[Tensor], original: PreTrainedModel) -> None:
    start = 0
    for document in documents:
        end = start + document.shape[1]
        torch.testing.assert_close(found[:, start:end], logits(original, document), rtol=0, atol=TOLERANCE)
        start = end


def logits(original: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return original(input_ids=ids, use_cache=False).logits


def greedy(original: PreTrainedModel, prompt: list[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(9):
        tokens.append(int(logits(original, torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def _without_weights(kind: str, folder: Path, changes: dict[str, object]) -> Outcome:
    """Of a family that cannot be built small, only the configuration is read."""
    try:
        config = AutoConfig.for_model(kind, **changes)
        config.save_pretrained(folder)
    except Exception as error:
        return Outcome(*[f"no configuration without arguments ({type(error).__name__})"] * 2)
    recipe = Recipe.model_validate({"model": {"base_id": str(folder)}, "data": {"sequence_length": 32}})
    return Outcome(
        _refused_or(lambda: learner_config(recipe, tokenizer())),
        _refused_or(lambda: families.check_reference(config, "model.ref_id 'reference'")),
    )


def _refused_or(use: Callable[[], object]) -> str:
    try:
        use()
    except WMTPError as error:
        line = str(error)
    else:
        line = RIGHT
    assert "\n" not in line
    return line


def table() -> list[str]:
    """A row for each family."""
    rows = []
    for kind in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            found = outcome(kind, Path(folder))
        rows.append(f"| {kind} | {_shown(found.learner, folder)} | {_shown(found.reference, folder)} |")
    return rows


def _shown(outcome: str, folder: str) -> str:
    if outcome == RIGHT:
        return RIGHT
    reason = re.sub(r"^.*?: (cannot (be split into trunk and heads|judge packed documents): )?", "", outcome)
    reason = reason.split("; docs/model-families")[0].replace(folder, "FOLDER").replace("|", "/")
    return f"refused: {reason[:90]}"


HEAD = f"""# Model families

Which models can be a learner's base (`model.base_id`) or a reference (`model.ref_id`). This is decided before
training, by comparing our forward pass with the model's own: first on a small twin with short windows, packed, cached
and drafted (`wmtp train RECIPE --dry-run` tries the twin of your base), then on the model itself. No list of names is
consulted.

The table shows the outcome for every causal family of transformers {transformers.__version__}, built small
from its configuration: right to 1e-4, or refused in one line. A family whose default configuration cannot be built
small is refused here, yet a model with a fuller configuration may be right. A test checks every line.

Losses beside the logits, such as the balance of experts, are not trained.

| family | learner | reference |
|---|---|---|"""


def main() -> None:
    torch.set_num_threads(1)
    print("\n".join([HEAD, *table()]))


if __name__ == "__main__":
    main()
