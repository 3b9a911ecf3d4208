from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from wmtp.critic.reward_model import reward_model_rewards
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import WMTPError

PROMPTS = [f"add {i} to {i % 7}: " for i in range(12)]
COMPLETIONS = [f"{i + i % 7}" + " done" * (5 * i % 9) for i in range(12)]
TEXTS = [p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
Save = Callable[..., Path]


def build(kind: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "initializer_range": 0.3, "num_labels": 1, "pad_token_id": 1} | changes
    if kind == "llama":
        return LlamaForSequenceClassification(LlamaConfig(**LAYERS, **sizes))
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(**LAYERS, **sizes))
    sizes |= {"bos_token_id": None, "eos_token_id": 0}
    return GPT2ForSequenceClassification(GPT2Config(n_embd=32, n_layer=2, n_head=2, **sizes))


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 300, tmp_path / "tokenizers")


@pytest.fixture
def save(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Save:
    def save(kind: str = "llama", **changes: Any) -> Path:
        folder = tmp_path / kind
        build(kind, **changes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def score(folder: Path, **changes: Any) -> NDArray[np.float64]:
    options: dict[str, Any] = {
        "prompts": PROMPTS,
        "completions": COMPLETIONS,
        "location": str(folder),
        "batch_size": 5,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "cache": folder.parent / "cache",
    }
    return reward_model_rewards(**(options | changes))


def one_by_one(location: Path, tokenizer: PreTrainedTokenizerFast) -> list[float]:
    """Each text alone, unpadded."""
    model = AutoModelForSequenceClassification.from_pretrained(location, dtype=torch.float32).eval()
    with torch.no_grad():
        return [float(model(input_ids=torch.tensor([tokenizer(t)["input_ids"]])).logits) for t in TEXTS]


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
def test_rewards_are_those_of_each_text_alone(
    kind: str, save: Save, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = save(kind)
    rewards = score(folder)
    assert rewards.dtype == np.float64
    assert np.ptp(rewards) > 0.1
    np.testing.assert_allclose(rewards, one_by_one(folder, tokenizer), atol=1e-5)


def test_a_causal_model_judges_at_the_last_token(save: Save, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = save("llama")
    model: Any = LlamaForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = [model.model(torch.tensor([tokenizer(t)["input_ids"]])).last_hidden_state for t in TEXTS]
        expected = [float(model.score(h[0, -1])) for h in hidden]
    np.testing.assert_allclose(score(folder), expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_batch_does_not_matter(batch_size: int, save: Save, tmp_path: Path) -> None:
    folder = save("gpt2")
    rewards = score(folder, batch_size=batch_size, cache=tmp_path / "other")
    np.testing.assert_allclose(rewards, score(folder), atol=1e-5)


def test_the_same_text_has_the_same_reward_in_every_batch(save: Save) -> None:
    completions = [f"{i // 3}" for i in range(12)]
    rewards = score(save(), prompts=["add "] * 12, completions=completions).reshape(4, 3)
    assert np.ptp(rewards, axis=1).tolist() == [0, 0, 0, 0]
    assert len(np.unique(rewards)) == 4


def test_special_tokens_of_the_tokenizer_are_added(save: Save, tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers.processors import TemplateProcessing

    plain = score(save("bert"))
    folder = save("bert")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    tokenizer.save_pretrained(folder)
    rewards = score(folder)
    assert tokenizer("a")["input_ids"][0] == 0
    np.testing.assert_allclose(rewards, one_by_one(folder, tokenizer), atol=1e-5)
    assert not np.allclose(rewards, plain, atol=1e-3)


@pytest.mark.parametrize("known_to", ["tokenizer", "model", "neither"])
def test_the_padding_token_may_come_from_anywhere(
    known_to: str, save: Save, tokenizer: PreTrainedTokenizerFast
) -> None:
    expected = score(save())
    folder = save(pad_token_id=1 if known_to == "model" else None)
    if known_to != "tokenizer":
        tokenizer.pad_token = None
        tokenizer.save_pretrained(folder)
    np.testing.assert_allclose(score(folder), expected, atol=1e-5)


def test_the_end_of_a_text_is_not_taken_for_padding(save: Save, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = save()
    ended = [completion + tokenizer.eos_token for completion in COMPLETIONS]
    expected = score(folder, completions=ended)
    assert not np.allclose(expected, score(folder), atol=1e-3)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    np.testing.assert_allclose(score(folder, completions=ended, cache=folder / "c"), expected, atol=1e-5)


def test_without_any_token_to_pad_with_it_is_refused(save: Save, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = save(pad_token_id=None)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(WMTPError, match="has neither a padding token nor an end-of-text token to pad with"):
        score(folder)


# --- what is kept ------------------------------------------------------------------------------------------


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def loaded(*_: Any, **__: Any) -> None:
        raise OSError("the model was loaded")

    return lambda: monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", loaded)


def test_the_same_texts_are_not_read_again(save: Save, no_model: Callable[[], None]) -> None:
    folder = save()
    first = score(folder)
    no_model()
    np.testing.assert_array_equal(score(folder, batch_size=3), first)


def test_rewards_of_several_kinds_are_kept_side_by_side(save: Save, no_model: Callable[[], None]) -> None:
    folder = save()
    kinds: list[dict[str, Any]] = [{}, {"dtype": torch.bfloat16}, {"completions": COMPLETIONS[::-1]}]
    first = [score(folder, **changes) for changes in kinds]
    no_model()
    for rewards, changes in zip(first, kinds, strict=True):
        np.testing.assert_array_equal(score(folder, **changes), rewards)
    np.testing.assert_allclose(first[1], first[0], atol=0.1)


def test_other_texts_weights_precision_or_tokens_are(
    save: Save, tmp_path: Path, no_model: Callable[[], None]
) -> None:
    folder = save()
    score(folder)
    retrained = build("llama")
    retrained.score.weight.data.mul_(2)
    retrained.save_pretrained(tmp_path / "other")
    train_tokenizer(TEXTS, 270, tmp_path / "tokenizers").save_pretrained(tmp_path / "other")
    no_model()
    for changes in (
        {"completions": [*COMPLETIONS[:-1], "else"]},
        {"dtype": torch.bfloat16},
        {"location": str(tmp_path / "other")},
    ):
        with pytest.raises(WMTPError, match="the model was loaded"):
            score(folder, **changes)
    train_tokenizer(TEXTS, 270, tmp_path / "tokenizers").save_pretrained(folder)
    with pytest.raises(WMTPError, match="the model was loaded"):
        score(folder)


@pytest.mark.parametrize(
    "damage", ["truncated", "gone", "other rows", "no header", "half a header", "another's"]
)
def test_damaged_rewards_are_written_anew(damage: str, save: Save, no_model: Callable[[], None]) -> None:
    folder = save()
    first = score(folder)
    (kept,) = (folder.parent / "cache" / "rewards").iterdir()
    rewards, header = kept / "rewards.float64", kept / "rewards.json"
    if damage == "truncated":
        rewards.write_bytes(rewards.read_bytes()[:-3])
    elif damage == "gone":
        rewards.unlink()
    elif damage == "other rows":
        rewards.write_bytes(first[:-1].tobytes())
    elif damage == "no header":
        header.unlink()
    elif damage == "half a header":
        header.write_text(header.read_text()[:20])
    else:
        header.write_text(header.read_text().replace("float32", "bfloat16"))
        rewards.write_bytes((first + 1).tobytes())
    np.testing.assert_array_equal(score(folder), first)
    no_model()
    np.testing.assert_array_equal(score(folder), first)


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WMTPError, match=r"critic\.reward_model '.*gone': cannot be loaded: "):
        score(tmp_path / "gone")


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_damaged_weights_are_refused(damage: str, save: Save) -> None:
    folder = save()
    weights = folder / "model.safetensors"
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WMTPError, match=r"critic\.reward_model '.*llama': cannot be loaded: "):
        score(folder)


def test_a_language_model_is_no_reward_model(save: Save, tmp_path: Path) -> None:
    folder = save()
    LlamaForCausalLM(LlamaConfig(vocab_size=300, num_labels=1, pad_token_id=1, **LAYERS)).save_pretrained(
        folder
    )
    with pytest.raises(WMTPError, match=r"not a reward model: no usable weights for score\.weight"):
        score(folder)


def test_several_labels_are_refused(save: Save) -> None:
    with pytest.raises(WMTPError, match=r"has 3 labels; a reward model has one \(num_labels=1\)"):
        score(save(num_labels=3))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_missing_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    build(kind).save_pretrained(tmp_path / "bare")
    with pytest.raises(WMTPError, match=r"bare': no tokenizer in the folder \(tokenizer\.json\)"):
        score(tmp_path / "bare")


def test_a_damaged_tokenizer_is_refused(save: Save) -> None:
    folder = save()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(WMTPError, match="its tokenizer cannot be loaded: "):
        score(folder)


def test_another_models_tokenizer_is_refused(save: Save, tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(tokenizer)
    expected = (
        f"with another tokenizer: its {size} tokens do not fit into the model's vocabulary of {size - 1}"
    )
    with pytest.raises(WMTPError, match=expected):
        score(save(vocab_size=size - 1))


def test_rewards_that_are_not_finite_are_refused_and_not_kept(
    save: Save, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = save()
    model: Any = build("llama")
    model.model.embed_tokens.weight.data[tokenizer("Ω")["input_ids"]] = torch.nan
    model.save_pretrained(folder)
    completions = [*COMPLETIONS[:7], "Ω", *COMPLETIONS[8:]]
    with pytest.raises(WMTPError, match=r"1 of 12 rewards are not finite, the first is nan in row 7"):
        score(folder, completions=completions)
    assert not (folder.parent / "cache").exists()


@pytest.mark.parametrize(("positions", "model_max_length"), [(20, None), (64, 20)])
def test_a_text_that_is_too_long_is_named(
    positions: int,
    model_max_length: int | None,
    save: Save,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    folder = save(max_position_embeddings=positions)
    completions = [*COMPLETIONS[:3], "0" * 30, *COMPLETIONS[4:]]
    lengths = [len(tokenizer(p + c)["input_ids"]) for p, c in zip(PROMPTS, completions, strict=True)]
    assert max(lengths) == lengths[3]
    count = sum(length > 20 for length in lengths)
    with pytest.raises(
        WMTPError,
        match=rf"takes at most 20 tokens; {count} of 12 texts are longer, row 3 with {lengths[3]} tokens",
    ):
        score(folder, completions=completions)


def test_a_text_may_fill_the_model(save: Save, tokenizer: PreTrainedTokenizerFast) -> None:
    longest = max(len(tokenizer(t)["input_ids"]) for t in TEXTS)
    folder = save("gpt2", n_positions=longest)
    assert np.isfinite(score(folder)).all()


def test_an_empty_text_is_named(save: Save) -> None:
    with pytest.raises(WMTPError, match="row 2 has no text that could be rewarded"):
        score(save(), prompts=[""] * 12, completions=[*COMPLETIONS[:2], "", *COMPLETIONS[3:]])


def test_constant_rewards_are_refused(save: Save) -> None:
    folder = save()
    with pytest.raises(WMTPError, match=r"llama': constant: a critic has nothing to learn from"):
        score(folder, prompts=["a"] * 12, completions=["b"] * 12)
