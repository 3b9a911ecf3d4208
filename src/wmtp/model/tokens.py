"""Whether a model that judges the learner's tokens speaks them."""

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from wmtp.data.tokenizer import PROBES, encode, vocabulary_size
from wmtp.errors import WMTPError, one_line


def check_tokenizer(location: str, tokenizer: PreTrainedTokenizerFast, called: str) -> None:
    """Compare a model's own tokenizer, of any kind, with the learner's: every token, the end of text, and a probe.

    Args:
        location: a folder or hub name.
        tokenizer: the learner's.
        called: what errors call the model.

    Raises:
        WMTPError: there is none, or it gives other ids.
    """
    ours = list(tokenizer.convert_ids_to_tokens(list(range(vocabulary_size(tokenizer)))))
    remedy = "set data.tokenizer to its own, or give a model that was trained with the learner's"
    try:
        theirs = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
        tokens = list(theirs.convert_ids_to_tokens(list(range(min(vocabulary_size(theirs), len(ours))))))
        ids = [
            theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in PROBES
        ]
    except Exception as error:  # other people's files raise whatever their content happens to spell
        raise WMTPError(
            f"{called}: has no tokenizer to compare with the learner's ({one_line(error)}); save its own beside it"
        ) from None
    if len(tokens) < len(ours):
        raise WMTPError(
            f"{called}: its tokenizer of {len(tokens)} tokens is not the learner's of {len(ours)}; {remedy}"
        )
    for index, (their_token, our_token) in enumerate(zip(tokens, ours, strict=True)):
        if their_token != our_token:
            raise WMTPError(
                f"{called}: its tokenizer is not the learner's: id {index} is {their_token!r} there and "
                f"{our_token!r} here; {remedy}"
            )
    if theirs.eos_token_id != tokenizer.eos_token_id:
        raise WMTPError(
            f"{called}: its tokenizer is not the learner's: a text ends with id {theirs.eos_token_id} there and "
            f"{tokenizer.eos_token_id} here; {remedy}"
        )
    for text, their_ids, our_ids in zip(PROBES, ids, encode(tokenizer, PROBES), strict=True):
        if list(their_ids) != our_ids:
            raise WMTPError(
                f"{called}: its tokenizer is not the learner's: it reads {text!r} in other ids; {remedy}"
            )
