"""Strings at which a completion ends."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from wmtp.data.tokenizer import decode_completion
from wmtp.errors import WMTPError

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a token decodes to that holds a part of a character


class StopStrings:
    """A completion ends with the first token after which its decoded text contains one of the strings.

    The string may begin and end anywhere within tokens, so what was generated may go on behind it: `cut` the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, strings: Sequence[str]) -> None:
        """Strings to stop at; none of them may be empty.

        Raises:
            WMTPError: one is.
        """
        if "" in strings:
            raise WMTPError("stop strings: one of them is empty, which every text contains")
        self.strings = tuple(strings)
        self._tokenizer = tokenizer
        self._completing: dict[int, bool] = {}

    def end(self, tokens: Sequence[int], start: int = 0) -> int | None:
        """The fewest tokens, more than `start`, whose text contains a stop string; None when not even all do.

        Args:
            tokens: a completion.
            start: that many of its tokens are known not to contain one.
        """
        if not self.strings:
            return None
        for count in range(start + 1, len(tokens) + 1):
            if self._may_complete(tokens[count - 1]) and self._contained(tokens[:count]):
                return count
        return None

    def cut(self, text: str) -> str:
        """The text up to the first stop string."""
        return text[: min((place for each in self.strings if (place := text.find(each)) >= 0), default=None)]

    def _contained(self, tokens: Sequence[int]) -> bool:
        text = decode_completion(self._tokenizer, tokens)
        return any(each in text for each in self.strings)

    def _may_complete(self, token: int) -> bool:
        """Whether a stop string can end within this token, whatever is before it."""
        if token not in self._completing:
            piece = decode_completion(self._tokenizer, [token])
            self._completing[token] = INCOMPLETE in piece or any(
                each in piece or any(each.endswith(piece[:length]) for length in range(1, len(piece) + 1))
                for each in self.strings
            )
        return self._completing[token]
