"""The critic: a value head on the hidden states of the learner's trunk, or of a model of its own."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from wmtp.checkpoint.store import resolve_model
from wmtp.config import Recipe, override
from wmtp.critic.value_head import TORCH_WEIGHTS, WEIGHTS, ValueHead, load_value_head, save_value_head
from wmtp.data.loader import Batch
from wmtp.data.targets import has_previous, shift_right
from wmtp.data.tokenizer import tokenizer_fingerprint
from wmtp.errors import WMTPError
from wmtp.layout import BEST, CRITIC
from wmtp.model.build import build_model, empty_model, learner_config, load_reference
from wmtp.model.loading import load_config, model_fingerprint
from wmtp.model.lora import add_lora, merged
from wmtp.model.modeling import MTPForCausalLM
from wmtp.model.packed import next_token_hidden, packed_trunk
from wmtp.storage import publish, sha256_text, unfinished

BACKBONE = "backbone"


class Critic(nn.Module):
    """V(h_t): what reward to expect of a text after its first t tokens.

    Args:
        backbone: the model whose hidden states are read; None where the learner's are handed over.
        reads_trunk: read the trunk's hidden states, below the heads, instead of the next-token model's last ones.
    """

    def __init__(self, head: ValueHead, backbone: PreTrainedModel | None, *, reads_trunk: bool) -> None:
        super().__init__()
        self.head = head
        self.backbone = backbone
        self.reads_trunk = reads_trunk

    def hidden(self, batch: Batch) -> Tensor:
        """[B, S, D] of the backbone."""
        assert self.backbone is not None
        if not self.reads_trunk:
            return next_token_hidden(self.backbone, batch)
        assert isinstance(self.backbone, MTPForCausalLM)
        return packed_trunk(self.backbone, batch).hidden_bsd

    def embeddings(self, batch: Batch) -> Tensor:
        """[B, S, D], the backbone's, of the tokens."""
        assert self.backbone is not None
        found: Tensor = self.backbone.get_input_embeddings()(batch.ids)
        return found

    def forward(
        self, batch: Batch, hidden_bsd: Tensor | None = None, embeddings_bsd: Tensor | None = None
    ) -> Tensor:
        """[B, S] float32, the value after the token at each position.

        Args:
            hidden_bsd, embeddings_bsd: of the learner's trunk, where there is no backbone.
        """
        if hidden_bsd is None or embeddings_bsd is None:
            hidden_bsd, embeddings_bsd = self.hidden(batch), self.embeddings(batch)
        values: Tensor = self.head(*head_inputs(batch, hidden_bsd, embeddings_bsd))
        return values


def head_inputs(batch: Batch, hidden_bsd: Tensor, embeddings_bsd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of a value head at each position, [B, S, D] each; zero before a document's first token."""
    before_bsd = shift_right(hidden_bsd).where(has_previous(batch.document_ids)[..., None], 0.0)
    return hidden_bsd, before_bsd, embeddings_bsd


def untrained_critic(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, *, with_weights: bool) -> Critic:
    """The critic that stage 1 starts from: V = 0 everywhere, and a backbone that learns as `critic.trunk` says.

    Args:
        with_weights: whether the backbone gets any; else its parameters have shapes only.
    """
    config = recipe.critic
    reads_trunk = config.backbone == "learner"
    if reads_trunk:
        backbone = _model(
            learner_config(recipe, tokenizer), lambda: build_model(recipe, tokenizer), with_weights
        )
    else:
        backbone = _separate_backbone(recipe, tokenizer, with_weights=with_weights)
    if config.trunk == "lora":
        add_lora(backbone, config.lora_rank, recipe.seed)
    elif config.trunk == "frozen":
        backbone.requires_grad_(False)
    elif not backbone.config.tie_word_embeddings:
        backbone.get_output_embeddings().requires_grad_(False)
    return Critic(ValueHead(_hidden_size(backbone.config), recipe.seed), backbone, reads_trunk=reads_trunk)


def load_critic(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, *, with_weights: bool = True) -> Critic:
    """The frozen critic in `critic.path`; without a backbone where it reads the learner's trunk.

    Raises:
        WMTPError: there is none, it is damaged, or it belongs to another backbone or tokenizer.
    """
    assert recipe.critic.path is not None
    folder = critic_folder(Path(recipe.critic.path))
    if recipe.critic.backbone == "learner":
        size = _hidden_size(learner_config(recipe, tokenizer))
        expected = {"tokenizer": tokenizer_fingerprint(tokenizer), "backbone": _learner_fingerprint(recipe)}
        critic = Critic(load_value_head(folder, size, expected=expected), None, reads_trunk=True)
    else:
        location = _backbone_location(folder, recipe)
        load = partial(load_reference, location, tokenizer, recipe.data.sequence_length, "critic")
        backbone = _model(load_config(location, "critic"), load, with_weights)
        expected = {"tokenizer": tokenizer_fingerprint(tokenizer), "backbone": model_fingerprint(location)}
        head = load_value_head(folder, _hidden_size(backbone.config), expected=expected)
        critic = Critic(head, backbone, reads_trunk=False)
    return critic.eval().requires_grad_(False)


def save_critic(
    critic: Critic,
    folder: Path,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    *,
    whole: Callable[[Tensor], Tensor],
    is_first: bool,
) -> None:
    """Write `value_head.safetensors` with its fingerprint, and beside it the backbone if that was trained.

    Args:
        whole: returns the full parameter if it is sharded; called on every rank.
        is_first: whether this rank writes.
    """
    head = _gathered(critic.head, whole, is_first)
    trained = critic.backbone if recipe.critic.trunk != "frozen" else None
    backbone = {} if trained is None else _gathered(trained, whole, is_first)
    if not is_first:
        return
    plain_head = ValueHead(critic.head.output.in_features)
    plain_head.load_state_dict(head)
    aside = unfinished(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    if trained is not None:
        merged(trained, backbone).save_pretrained(aside / BACKBONE)
        tokenizer.save_pretrained(aside / BACKBONE)
    if recipe.critic.backbone == "learner":
        fingerprint = _learner_fingerprint(recipe)
    else:
        fingerprint = model_fingerprint(_backbone_location(aside, recipe))
    save_value_head(
        plain_head, aside, {"tokenizer": tokenizer_fingerprint(tokenizer), "backbone": fingerprint}
    )
    publish(folder)


def critic_folder(path: Path) -> Path:
    """Folder of the head: the given one, or the best one of a run's stage 1.

    Raises:
        WMTPError: it is in neither.
    """
    places = [path, path / BEST, path / CRITIC / BEST]
    for place in places:
        if (place / WEIGHTS).exists() or (place / TORCH_WEIGHTS).exists():
            return place
    raise WMTPError(f"critic.path {str(path)!r}: holds no value head ({WEIGHTS} or {TORCH_WEIGHTS})")


def _separate_backbone(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, *, with_weights: bool
) -> PreTrainedModel:
    """A next-token model: that of `critic.base_id` or `model.ref_id`, or one built like the learner's."""
    location = _base(recipe)
    if location is None:
        if recipe.critic.trunk != "full":
            raise WMTPError(
                f"critic.trunk {recipe.critic.trunk} needs a trained model: set critic.base_id or model.ref_id, "
                f"or critic.trunk full"
            )
        alone = override(recipe, {"model.heads": 1}, "critic")
        return _model(learner_config(alone, tokenizer), lambda: build_model(alone, tokenizer), with_weights)
    load = partial(load_reference, location, tokenizer, recipe.data.sequence_length, "critic.base_id")
    model = _model(load_config(location, "critic.base_id"), load, with_weights)
    if isinstance(model, MTPForCausalLM) and model.config.heads > 1:
        raise WMTPError(
            f"critic.base_id {location!r}: has {model.config.heads} heads; give a next-token model "
            f"(wmtp export --next-token-only makes one)"
        )
    return model.requires_grad_()


def _base(recipe: Recipe) -> str | None:
    location = recipe.critic.base_id or recipe.model.ref_id
    return None if location is None else str(resolve_model(location, "critic.base_id"))


def _model(
    config: PreTrainedConfig, load: Callable[[], PreTrainedModel], with_weights: bool
) -> PreTrainedModel:
    return load() if with_weights else empty_model(config)


def _backbone_location(folder: Path, recipe: Recipe) -> str:
    if (folder / BACKBONE).is_dir():
        return str(folder / BACKBONE)
    location = _base(recipe)
    if location is None:
        raise WMTPError(
            f"critic.path {str(folder)!r}: has no backbone of its own; set critic.base_id to its model"
        )
    return location


def _learner_fingerprint(recipe: Recipe) -> str:
    """Of the learner as training starts: its trunk is what the head was trained on."""
    if recipe.model.base_id is not None:
        return model_fingerprint(str(resolve_model(recipe.model.base_id, "model.base_id")))
    return sha256_text(recipe.model.model_dump_json(exclude={"ref_id"}), str(recipe.seed))


def _hidden_size(config: PreTrainedConfig) -> int:
    size: int = config.get_text_config().hidden_size
    return size


def _gathered(module: nn.Module, whole: Callable[[Tensor], Tensor], is_first: bool) -> dict[str, Tensor]:
    found = {}
    for name, parameter in module.named_parameters():
        value = whole(parameter.detach())
        if is_first:
            found[name] = value.cpu().clone()
    return found
