"""The tokens at which a model's generation ends."""

from transformers import PreTrainedModel, PreTrainedTokenizerFast


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The tokenizer's end of text, and what the model's generation and its configuration name besides.

    An instruct model ends its turn with one token and a text with another. An id that the tokenizer has as an
    ordinary word is none of them: it comes from a base model with another tokenizer.
    """
    named: set[int] = set()
    for source in (model.generation_config, model.config):
        ids = getattr(source, "eos_token_id", None)
        named |= set(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return frozenset(named & tokenizer.added_tokens_decoder.keys() | {int(tokenizer.eos_token_id)})
