"""The critic: which of its parameters learn, what is saved of it, and what a folder must hold to be loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from refusals import refusal
from wmtp.config import Config, Recipe
from wmtp.critic.model import (
    Critic,
    critic_folder,
    head_inputs,
    load_critic,
    save_critic,
    untrained_critic,
)
from wmtp.critic.value_head import ValueHead, save_value_head
from wmtp.data.corpus import Data, load_data
from wmtp.data.loader import Batch, in_order
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import WMTPError
from wmtp.model.build import build_model
from wmtp.model.lora import TARGETS
from wmtp.model.modeling import MTPForCausalLM

Make = Callable[..., Recipe]
D = 32
LEARNER: dict[str, Any] = {}
FULL = {"critic.backbone": "separate", "critic.trunk": "full"}
BASED = {"critic.backbone": "separate", "critic.base_id": "base"}
LORA = BASED | {"critic.trunk": "lora", "critic.lora_rank": 4}
KINDS: dict[str, dict[str, Any]] = {
    "learner": LEARNER,
    "full": FULL,
    "full, untied": FULL | {"model.tie_embeddings": False},
    "frozen base": BASED,
    "lora base": LORA,
    "lora, tied": LORA | {"critic.base_id": "tied"},
    "full base": BASED | {"critic.trunk": "full"},
}


@pytest.fixture
def data(make_recipe: Make, config: Config) -> Data:
    """Data, a tokenizer, and in `base` and `tied` next-token models that go with it."""
    found = load_data(make_recipe(), Path(config.paths.cache))
    save_base(Path("base"), found.tokenizer)
    build_model(make_recipe(**{"model.heads": 1, "model.layers": 3}), found.tokenizer).save_pretrained("tied")
    found.tokenizer.save_pretrained("tied")
    return found


def save_base(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 5) -> None:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=D,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            initializer_range=0.1,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def batch_of(data: Data) -> Batch:
    return next(in_order(data.train, 64, 3))


def trained(critic: Critic, seed: int = 3) -> Critic:
    """With every parameter that learns moved from where it started."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in critic.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return critic


def save(critic: Critic, folder: str, recipe: Recipe, data: Data) -> None:
    save_critic(critic, Path(folder), recipe, data.tokenizer, whole=lambda t: t, is_first=True)


@torch.no_grad()
def values(critic: Critic, batch: Batch, like: Critic | None = None) -> Tensor:
    """The critic's; where it has no backbone, of the hidden states of another one's."""
    if critic.backbone is None:
        assert like is not None
        return critic(batch, like.hidden(batch), like.embeddings(batch))
    return critic(batch)


def refused(recipe: Recipe, data: Data) -> str:
    return refusal(load_critic, recipe, data.tokenizer)


# --- untrained ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_learns_is_what_the_recipe_says(kind: str, make_recipe: Make, data: Data) -> None:
    recipe = make_recipe(**KINDS[kind])
    critic = untrained_critic(recipe, data.tokenizer, with_weights=True)
    assert (values(critic, batch_of(data)) == 0).all()
    learns = {name for name, p in critic.named_parameters() if p.requires_grad}
    of_head = {f"head.{name}" for name, _ in critic.head.named_parameters()}
    backbone = dict(critic.backbone.named_parameters(prefix="backbone"))
    assert of_head <= learns
    rest = learns - of_head
    if recipe.critic.trunk == "frozen":
        assert rest == set()
    elif recipe.critic.trunk == "lora":
        assert rest == {name for name in backbone if ".lora_" in name}
        assert {name.split(".")[-4] for name in rest} == set(TARGETS)
        assert {p.shape[0] for name, p in backbone.items() if "lora_A" in name} == {4}
        assert len(rest) == 2 * 3 * len(TARGETS)
    else:  # all but an unembedding that values do not read
        assert rest == set(backbone) - {"backbone.lm_head.weight"}
    assert critic.reads_trunk == (kind == "learner")
    assert critic.head.output.in_features == D


def test_the_hidden_states_are_the_learners_trunk_or_the_next_token_models(
    make_recipe: Make, data: Data
) -> None:
    recipe, batch = make_recipe(), batch_of(data)
    number = int(batch.document_ids[0].max())
    alone = batch.ids[:1, batch.document_ids[0] == number]
    places = (batch.document_ids[0] == number).nonzero().flatten()
    learner = build_model(recipe, data.tokenizer)
    expected = learner.trunk(alone).hidden_bsd
    critic = untrained_critic(recipe, data.tokenizer, with_weights=True)
    torch.testing.assert_close(critic.hidden(batch)[:1, places], expected, rtol=1e-4, atol=1e-5)
    critic = untrained_critic(make_recipe(**FULL), data.tokenizer, with_weights=True)
    assert isinstance(critic.backbone, MTPForCausalLM)
    assert critic.backbone.config.heads == 1
    found = critic.hidden(batch)[:1, places] @ critic.backbone.unembedding.T
    torch.testing.assert_close(found, critic.backbone(alone).logits, rtol=1e-4, atol=1e-5)
    critic = untrained_critic(make_recipe(**BASED), data.tokenizer, with_weights=True)
    base = LlamaForCausalLM.from_pretrained("base")
    found = critic.hidden(batch)[:1, places] @ base.lm_head.weight.T
    torch.testing.assert_close(found, base(alone).logits, rtol=1e-4, atol=1e-5)


def test_lora_starts_at_the_base_and_leaves_the_random_numbers_alone(make_recipe: Make, data: Data) -> None:
    batch = batch_of(data)
    frozen = untrained_critic(make_recipe(**BASED), data.tokenizer, with_weights=True)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    adapted = untrained_critic(make_recipe(**LORA), data.tokenizer, with_weights=True)
    assert torch.equal(torch.rand(3), expected)
    again = untrained_critic(make_recipe(**LORA), data.tokenizer, with_weights=True)
    assert torch.equal(adapted.hidden(batch), frozen.hidden(batch))
    for (name, one), (_, other) in zip(adapted.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", KINDS)
def test_without_weights_there_are_shapes_and_what_learns(kind: str, make_recipe: Make, data: Data) -> None:
    recipe = make_recipe(**KINDS[kind])
    real = untrained_critic(recipe, data.tokenizer, with_weights=True)
    empty = untrained_critic(recipe, data.tokenizer, with_weights=False)
    assert {n: (p.shape, p.requires_grad) for n, p in real.named_parameters()} == {
        n: (p.shape, p.requires_grad) for n, p in empty.named_parameters()
    }
    assert all(p.is_meta for name, p in empty.backbone.named_parameters() if ".lora_" not in name)
    assert not any(p.is_meta for p in empty.head.parameters())


def test_a_backbone_with_several_heads_is_refused(make_recipe: Make, data: Data) -> None:
    build_model(make_recipe(), data.tokenizer).save_pretrained("heads")
    data.tokenizer.save_pretrained("heads")
    recipe = make_recipe(**BASED | {"critic.base_id": "heads"})
    with pytest.raises(WMTPError) as caught:
        untrained_critic(recipe, data.tokenizer, with_weights=True)
    assert str(caught.value) == (
        "critic.base_id 'heads': has 3 heads; give a next-token model (wmtp export --next-token-only makes one)"
    )


def test_a_backbone_that_is_not_there_is_refused(make_recipe: Make, data: Data) -> None:
    with pytest.raises(WMTPError, match=r"critic\.base_id './gone': no such folder"):
        untrained_critic(
            make_recipe(**BASED | {"critic.base_id": "./gone"}), data.tokenizer, with_weights=True
        )


# --- saved and loaded --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_gives_the_values_of_what_was_saved(kind: str, make_recipe: Make, data: Data) -> None:
    recipe, batch = make_recipe(**KINDS[kind]), batch_of(data)
    critic = trained(untrained_critic(recipe, data.tokenizer, with_weights=True))
    expected = values(critic, batch)
    assert expected.std() > 0.01
    save(critic, "saved", recipe, data)
    has_own = recipe.critic.trunk != "frozen"
    assert Path("saved/backbone").is_dir() == has_own
    loaded = load_critic(make_recipe(**KINDS[kind], **{"critic.path": "saved"}), data.tokenizer)
    assert (loaded.backbone is None) == (kind == "learner")
    found = values(loaded, batch, like=critic)
    if recipe.critic.trunk == "lora":
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert not any("lora" in name for name, _ in loaded.named_parameters())
    else:
        assert torch.equal(found, expected)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(values(critic, batch), expected)  # saving changes nothing
    empty = load_critic(
        make_recipe(**KINDS[kind], **{"critic.path": "saved"}), data.tokenizer, with_weights=False
    )
    assert {n: p.shape for n, p in empty.named_parameters()} == {
        n: p.shape for n, p in loaded.named_parameters()
    }


def test_a_trained_backbone_is_a_model_folder_of_its_own(make_recipe: Make, data: Data) -> None:
    recipe, batch = make_recipe(**LORA), batch_of(data)
    critic = trained(untrained_critic(recipe, data.tokenizer, with_weights=True))
    save(critic, "saved", recipe, data)
    shutil.rmtree("base")
    plain = LlamaForCausalLM.from_pretrained("saved/backbone").eval()
    number = int(batch.document_ids[0].max())
    places = (batch.document_ids[0] == number).nonzero().flatten()
    hidden = plain.base_model(input_ids=batch.ids[:1, places]).last_hidden_state
    torch.testing.assert_close(hidden, critic.hidden(batch)[:1, places], rtol=1e-4, atol=1e-4)
    loaded = load_critic(make_recipe(**LORA, **{"critic.path": "saved"}), data.tokenizer)
    torch.testing.assert_close(values(loaded, batch), values(critic, batch), rtol=1e-5, atol=1e-5)


def test_saving_again_replaces_and_the_other_ranks_write_nothing(make_recipe: Make, data: Data) -> None:
    recipe, batch = make_recipe(**FULL), batch_of(data)
    critic = trained(untrained_critic(recipe, data.tokenizer, with_weights=True))
    gathered: list[Tensor] = []

    def whole(tensor: Tensor) -> Tensor:
        gathered.append(tensor)
        return tensor

    save_critic(critic, Path("saved"), recipe, data.tokenizer, whole=whole, is_first=False)
    assert len(gathered) == len(list(critic.parameters()))  # in step with rank 0
    assert not list(Path().glob("*saved*"))
    save(critic, "saved", recipe, data)
    save(trained(critic, seed=4), "saved", recipe, data)
    loaded = load_critic(make_recipe(**FULL, **{"critic.path": "saved"}), data.tokenizer)
    assert torch.equal(values(loaded, batch), values(critic, batch))
    assert not list(Path().glob(".*saved*"))


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.fixture
def saved(make_recipe: Make, data: Data) -> Callable[..., Recipe]:
    """Saves a trained critic; gives a recipe, changed some more, that loads it."""

    def make(kind: dict[str, Any], **changes: Any) -> Recipe:
        recipe = make_recipe(**kind)
        save(trained(untrained_critic(recipe, data.tokenizer, with_weights=True)), "saved", recipe, data)
        return make_recipe(**(kind | {"critic.path": "saved"} | changes))

    return make


@pytest.mark.parametrize("kind", [LEARNER, FULL, BASED], ids=["learner", "full", "base"])
def test_a_folder_without_a_head(kind: dict[str, Any], saved: Any, data: Data) -> None:
    recipe = saved(kind)
    Path("saved/value_head.safetensors").unlink()
    expected = "critic.path 'saved': holds no value head (value_head.safetensors or value_head.pt)"
    assert refused(recipe, data) == expected
    shutil.rmtree("saved")
    assert refused(recipe, data) == expected


@pytest.mark.parametrize("kind", [LEARNER, FULL, BASED], ids=["learner", "full", "base"])
def test_a_head_for_another_hidden_size(kind: dict[str, Any], saved: Any, data: Data) -> None:
    recipe = saved(kind)
    description = json.loads(Path("saved/value_head.json").read_text())
    save_value_head(ValueHead(16), Path("saved"), description["fingerprint"])
    message = refused(recipe, data)
    assert message.startswith("saved/value_head.safetensors: '")
    assert message.endswith("is wanted for hidden size 32")


def test_a_damaged_head(saved: Any, data: Data) -> None:
    recipe, path = saved(LEARNER), Path("saved/value_head.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
    assert "damaged: its checksum is not the one in value_head.json" in refused(recipe, data)
    path.write_bytes(content[:100])
    assert refused(recipe, data).startswith("saved/value_head.safetensors: damaged or unreadable")
    path.write_bytes(content)
    load_critic(recipe, data.tokenizer)
    Path("saved/value_head.json").unlink()
    assert refused(recipe, data) == "saved/value_head.json: no such file"


@pytest.mark.parametrize("changes", [{"seed": 9}, {"model.init_std": 0.2}, {"model.layers": 3}], ids=str)
def test_a_head_of_another_learner(changes: dict[str, Any], saved: Any, data: Data) -> None:
    message = refused(saved(LEARNER, **changes), data)
    assert message.startswith("saved/value_head.json: the value head belongs to another backbone: ")


def test_a_head_of_a_learner_with_another_reference_is_the_same(saved: Any, data: Data) -> None:
    load_critic(saved(LEARNER, **{"model.ref_id": "base", "train.lr": 0.5}), data.tokenizer)


def test_a_learner_from_a_base_is_known_by_it(saved: Any, data: Data) -> None:
    recipe = saved({"model.base_id": "base"}, seed=4)  # which changes nothing
    load_critic(recipe, data.tokenizer)
    save_base(Path("base"), data.tokenizer, seed=6)
    assert "belongs to another backbone" in refused(recipe, data)


@pytest.mark.parametrize("kind", [LEARNER, FULL, BASED], ids=["learner", "full", "base"])
def test_a_head_of_another_tokenizer(kind: dict[str, Any], saved: Any, data: Data, tmp_path: Path) -> None:
    recipe = saved(kind)
    other = train_tokenizer(["quite another text"] * 3, 300, tmp_path)
    for folder in filter(
        Path.is_dir, (Path("base"), Path("saved/backbone"))
    ):  # which else are refused for theirs
        other.save_pretrained(folder)
    with pytest.raises(
        WMTPError, match=r"^saved/value_head\.json: the value head belongs to another tokenizer: "
    ):
        load_critic(recipe, other)


def test_a_backbone_that_is_not_the_one_it_was_trained_with(saved: Any, data: Data) -> None:
    recipe = saved(BASED)
    save_base(Path("base"), data.tokenizer, seed=6)
    assert "saved/value_head.json: the value head belongs to another backbone: " in refused(recipe, data)
    recipe = saved(LORA)
    save_base(Path("saved/backbone"), data.tokenizer, seed=6)
    assert "saved/value_head.json: the value head belongs to another backbone: " in refused(recipe, data)


def test_a_head_on_the_learners_trunk_is_no_head_of_another_model(saved: Any, data: Data) -> None:
    assert "belongs to another backbone" in refused(saved(LEARNER, **BASED), data)
    message = refused(saved(LEARNER, **{"critic.backbone": "separate"}), data)
    assert message == "critic.path 'saved': has no backbone of its own; set critic.base_id to its model"


# --- a head alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ValueHead, ValueHead.linear])
@pytest.mark.parametrize("kind", [LEARNER, BASED], ids=["learner", "base"])
def test_a_value_head_pt_alone_is_loaded_and_used(
    make: Callable[[int], ValueHead], kind: dict[str, Any], make_recipe: Make, data: Data
) -> None:
    head, batch = make(D), batch_of(data)
    torch.manual_seed(0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    Path("alone").mkdir()
    torch.save(head.state_dict(), "alone/value_head.pt")
    like = untrained_critic(make_recipe(**kind), data.tokenizer, with_weights=True)
    hidden, embeddings = like.hidden(batch).detach(), like.embeddings(batch).detach()
    critic = load_critic(make_recipe(**kind, **{"critic.path": "alone"}), data.tokenizer)
    assert not any(p.requires_grad for p in critic.parameters())
    found = critic(batch, hidden, embeddings) if critic.backbone is None else critic(batch)
    assert torch.equal(found, head(*head_inputs(batch, hidden, embeddings)))
    assert found.std() > 0.1


def test_a_value_head_pt_of_another_size_or_damaged_is_no_random_head(make_recipe: Make, data: Data) -> None:
    Path("alone").mkdir()
    recipe = make_recipe(**{"critic.path": "alone"})
    torch.save(ValueHead(D + 2).state_dict(), "alone/value_head.pt")
    assert refused(recipe, data).endswith("is wanted for hidden size 32")
    content = Path("alone/value_head.pt").read_bytes()
    Path("alone/value_head.pt").write_bytes(content[: len(content) // 2])
    assert refused(recipe, data).startswith("alone/value_head.pt: damaged or unreadable: ")


@pytest.mark.parametrize("name", ["value_head.safetensors", "value_head.pt"])
def test_the_places_of_a_head(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    places = [run / "critic" / "best", run / "best", run]  # a run, its stage 1, and what that kept
    with pytest.raises(WMTPError, match="holds no value head"):
        critic_folder(run)
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
        assert critic_folder(run) == place
        assert critic_folder(place) == place
    assert critic_folder(run / "critic") == run / "critic" / "best"


def test_head_inputs_stop_at_documents(make_recipe: Make, data: Data) -> None:
    """The state before is that of the same document's token before, and zeros before its first."""
    batch = batch_of(data)
    shape = (*batch.ids.shape, 3)
    hidden, embeddings = torch.randn(shape), torch.randn(shape)
    now, before, tokens = head_inputs(batch, hidden, embeddings)
    assert torch.equal(now, hidden)
    assert torch.equal(tokens, embeddings)
    for b, ids in enumerate(batch.document_ids.tolist()):
        for s, document in enumerate(ids):
            if document == 0:
                continue
            is_first = s == 0 or ids[s - 1] != document
            expected = torch.zeros(3) if is_first else hidden[b, s - 1]
            assert torch.equal(before[b, s], expected)
