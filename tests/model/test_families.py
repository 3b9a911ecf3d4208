"""Every causal family of transformers is right, packed, cached and beyond its windows, or refused in one line."""

import re
from pathlib import Path

import pytest
import transformers
from transformers import AutoConfig

from model.families import FAMILIES, RIGHT, outcome

TABLE = Path(__file__).parents[2] / "docs" / "model-families.md"
WINDOW = {"sliding_window": 8}
FEW = {
    "llama": {},
    "mistral": WINDOW,
    "qwen2": WINDOW | {"use_sliding_window": True, "max_window_layers": 2, "num_hidden_layers": 4},
    "qwen3": {},
    "granite": {
        "embedding_multiplier": 12.0,
        "logits_scaling": 8.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.25,
    },
    "smollm3": {},
    "gemma3_text": WINDOW,
    "cohere": {"logit_scale": 0.0625},
}


def stated() -> dict[str, tuple[bool, bool]]:
    """From the documentation: whether a family is right as a learner, and as a reference."""
    rows = re.findall(r"^\| ([\w-]+) \| ([^|]*) \| ([^|]*) \|$", TABLE.read_text(), re.MULTILINE)
    return {
        kind: (learner == RIGHT, reference == RIGHT) for kind, learner, reference in rows if kind != "family"
    }


def test_the_table_names_every_family() -> None:
    version = re.search(r"transformers (\d+\.\d+)", TABLE.read_text())
    assert version is not None
    if transformers.__version__.startswith(version[1]):
        assert stated().keys() == set(FAMILIES)


@pytest.mark.parametrize("kind", FEW)
def test_these_families_are_right(kind: str, tmp_path: Path) -> None:
    found = outcome(kind, tmp_path, **FEW[kind])
    assert (found.learner, found.reference) == (RIGHT, RIGHT)
    kinds = getattr(AutoConfig.from_pretrained(tmp_path), "layer_types", None) or []
    assert ("sliding_attention" in kinds) == (kind in ("qwen2", "gemma3_text"))


@pytest.mark.parametrize(
    ("kind", "learner", "reference"),
    [
        ("gpt2", "its GPT2Model has no", RIGHT),
        (
            "gemma2",
            "does not support|its logits differ",
            "does not support|its logits differ",
        ),  # by transformers, or by us where it still lets SDPA run
        ("phi", "its PhiModel has no norm", "for packed documents its logits differ from ours by up to"),
    ],
)
def test_these_families_are_refused(kind: str, learner: str, reference: str, tmp_path: Path) -> None:
    found = outcome(kind, tmp_path)
    assert re.search(learner, found.learner)
    assert re.search(reference, found.reference)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_is_as_stated(kind: str, tmp_path: Path) -> None:
    found = outcome(kind, tmp_path)
    if kind in stated():
        assert (found.learner == RIGHT, found.reference == RIGHT) == stated()[kind], found
