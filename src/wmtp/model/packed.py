"""Models on rows of packed documents, each of which sees itself only."""

from torch import Tensor
from transformers import PreTrainedModel

from wmtp.data.loader import Batch
from wmtp.model.attention import packed_masks
from wmtp.model.heads import TrunkOutput
from wmtp.model.modeling import MTPForCausalLM, logits_scale


def packed_trunk(model: MTPForCausalLM, batch: Batch) -> TrunkOutput:
    """The trunk's output for packed documents, each of which sees itself only."""
    masks = packed_masks(model.config.backbone, batch.document_ids, batch.position_ids)
    return model.trunk(batch.ids, mask=masks, position_ids=batch.position_ids)


def next_token_hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[B, S, D]: what, times the output embedding, are the next-token logits of packed documents."""
    if isinstance(model, MTPForCausalLM):
        return model.head(packed_trunk(model, batch), 0)
    masks = packed_masks(model.config, batch.document_ids, batch.position_ids)
    output = model.base_model(
        input_ids=batch.ids,
        attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
        position_ids=batch.position_ids,
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    scale = logits_scale(model.config)
    return hidden if scale == 1.0 else hidden * scale
