"""A user's message in a tokenizer's chat template, as the token ids that an instruct model answers.

The template's own control tokens are trusted. What a message says is text, whatever it says: a control token that is
written out in it never becomes one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from wmtp.data.tokenizer import encode
from wmtp.errors import WMTPError, one_line

USER, SYSTEM, ANSWER = "\ue001\ue001", "\ue002\ue002", "\ue003\ue003"
"""Private-use characters that stand for the messages while the template's own text is found."""
DATE = "26 Jul 2024"
"""The date given to templates that name one (Llama 3), which is their default, so that prompts never change."""


class Chat:
    """A tokenizer's chat template.

    Attributes:
        end: control token after an answer; None if the template has none there.
        end_text: text after an answer that is no control token, or None.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, system: str | None = None) -> None:
        """A chat of one user's message and, if wanted, a system message before it.

        Raises:
            WMTPError: the tokenizer has no template, or it has no place for one of the messages.
        """
        if not tokenizer.chat_template:
            raise WMTPError(
                "evaluate.chat: the tokenizer has no chat template (chat_template.jinja); take an "
                "instruct model's tokenizer, or set evaluate.chat=false"
            )
        self._tokenizer = tokenizer
        self._system = system
        self._control = _either(tokenizer.get_added_vocab())
        outline = self._render(USER, SYSTEM)
        if USER not in outline:
            raise WMTPError("evaluate.chat: the tokenizer's chat template leaves the user's message out")
        if system is not None and SYSTEM not in outline:
            raise WMTPError("evaluate.system: the tokenizer's chat template leaves the system message out")
        self.end, self.end_text = self._end()

    def text(self, message: str) -> str:
        """The prompt as text; the answer follows it."""
        return self._render(message, self._system)

    def ids(self, message: str) -> list[int]:
        """The prompt's token ids: as by transformers' `apply_chat_template`, except for control tokens in a message.

        Raises:
            WMTPError: a message holds a control token, and the template, or the tokenizer, leaves no way to tell.
        """
        rendered = self.text(message)
        if not any(self._control.search(text) for text in (message, self._system or "")):
            return self._trusted(rendered)
        spans = self._spans(message)
        harmless = [(text if is_own else self._control.sub("x", text), is_own) for text, is_own in spans]
        if self._spliced(harmless) != self._trusted("".join(text for text, _ in harmless)):
            raise self._untellable(message)
        return self._spliced(spans)

    def _render(self, user: str, system: str | None, answer: str | None = None) -> str:
        messages = [{"role": "user", "content": user}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": str(system)})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer is None, date_string=DATE
            )
        except (TemplateError, ValueError, TypeError) as error:
            key = "evaluate.chat" if self._system is None else "evaluate.system"
            raise WMTPError(f"{key}: the tokenizer's chat template refuses it: {one_line(error)}") from None
        return str(rendered)

    def _end(self) -> tuple[int | None, str | None]:
        behind = self._render(USER, SYSTEM, ANSWER).partition(ANSWER)[2].strip()
        token = self._control.match(behind)
        if token is not None:
            return int(self._tokenizer.convert_tokens_to_ids(token[0])), None
        return None, self._control.split(behind)[0].strip() or None

    def _spans(self, message: str) -> list[tuple[str, bool]]:
        """The rendered prompt in parts, each marked as the template's own or not."""
        outline = self._render(USER, SYSTEM)
        order = [USER] if self._system is None else sorted((USER, SYSTEM), key=outline.index)
        contents = {USER: message, SYSTEM: self._system or ""}
        spans: list[tuple[str, bool]] = []
        for place in order:
            before, _, outline = outline.partition(place)
            found = self._as_written(place, contents[place])
            spans += [(before, True), (found, False)]
        spans.append((outline, True))
        if any(place in outline for place in order) or "".join(t for t, _ in spans) != self.text(message):
            raise self._untellable(message)
        return spans

    def _as_written(self, place: str, content: str) -> str:
        """A message as the template renders it, for instance stripped."""
        values = {USER: USER, SYSTEM: SYSTEM, place: content}
        before, _, behind = self._render(USER, SYSTEM).partition(place)
        rendered = self._render(values[USER], values[SYSTEM])
        return rendered[len(before) : len(rendered) - len(behind)]

    def _trusted(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _spliced(self, spans: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids in which only the template's own control tokens count as such; between two of them is one text."""
        parts: list[str] = [""]
        for text, is_own in spans:
            first, *rest = self._split(text) if is_own else [text]
            parts[-1] += first
            parts += rest
        texts, tokens = parts[::2], parts[1::2]
        between = encode(self._tokenizer, texts)
        ids = [*between[0]]
        for token, text_ids in zip(tokens, between[1:], strict=True):
            ids += [int(self._tokenizer.convert_tokens_to_ids(token)), *text_ids]
        return ids

    def _split(self, text: str) -> list[str]:
        """Text and control tokens, alternating, text first and last."""
        parts, last = list[str](), 0
        for token in self._control.finditer(text):
            parts += [text[last : token.start()], token[0]]
            last = token.end()
        return [*parts, text[last:]]

    def _untellable(self, message: str) -> WMTPError:
        token = next(m[0] for text in (message, self._system or "") if (m := self._control.search(text)))
        return WMTPError(
            f"evaluate.chat: a message holds {token!r}, which is a control token of this tokenizer, and its chat "
            f"template leaves no way to write it as text: {message[:40]!r}"
        )


def _either(tokens: Mapping[str, Any]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first; nothing if there are none."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")
