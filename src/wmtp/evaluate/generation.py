"""A model's completions of a task's problems, written as they come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from wmtp.data.tokenizer import decode_completion
from wmtp.decode.batch import Stop
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.environment import dtype_name
from wmtp.evaluate.samples import Key, SampleFile
from wmtp.model.modeling import MTPForCausalLM
from wmtp.progress import Update, progress


@dataclass(frozen=True)
class Generator:
    """A model that answers prompts.

    Attributes:
        model: in the dtype and on the device that it decodes in.
        tokenizer: of the model.
        options: of greedy decoding with head 0; a sample has its own temperature. Stop strings are no part of a
            completion.
    """

    model: MTPForCausalLM
    tokenizer: PreTrainedTokenizerFast
    options: DecodeOptions

    def write(self, file: SampleFile, order: Sequence[Key], prompts: Mapping[str, list[int]]) -> None:
        """Generate every sample that the file does not have.

        Which samples are decoded together never depends on what is there already, so that an evaluation that goes on
        gets, bit for bit, what one gets that was not interrupted: a batch of which something is missing is decoded
        again as a whole.

        Args:
            file: takes completions as they come to their end.
            order: every sample; its place is the stream of its random numbers.
            prompts: token ids by problem.

        Raises:
            WMTPError: a prompt does not fit into the model.
        """
        with progress("generate", len(order)) as update:
            update(len(file.completions))
            for temperature in dict.fromkeys(key.temperature for key in order):
                numbers = [n for n, key in enumerate(order) if key.temperature == temperature]
                numbers.sort(key=lambda n: len(prompts[order[n].task_id]), reverse=True)
                for first in range(0, len(numbers), self.options.batch_size):
                    batch = numbers[first : first + self.options.batch_size]
                    if any(order[n] not in file.completions for n in batch):
                        self._write_batch(file, order, batch, prompts, update)

    def _write_batch(
        self,
        file: SampleFile,
        order: Sequence[Key],
        batch: Sequence[int],
        prompts: Mapping[str, list[int]],
        update: Update,
    ) -> None:
        def keep(index: int, tokens: list[int], stop: Stop) -> None:
            file.add(order[batch[index]], self._text(tokens), stop)
            update(len(file.completions))

        generate(
            self.model,
            [prompts[order[n].task_id] for n in batch],
            replace(self.options, temperature=order[batch[0]].temperature or 0.0),
            streams=batch,
            on_end=keep,
        )

    def speculation(
        self, order: Sequence[Key], prompts: Mapping[str, list[int]], file: SampleFile
    ) -> dict[str, Any] | None:
        """Measure what drafting saves: decode every prompt once greedily and self-speculatively; None for one head.

        Returns:
            JSON values; `same_as_greedy` counts the prompts whose text is that of the greedy completion, where the
            protocol has those.
        """
        if self.model.config.heads == 1:
            return None
        found = generate(self.model, list(prompts.values()), replace(self.options, heads=None))
        texts = dict(zip(prompts, map(self._text, found.tokens), strict=True))
        greedy = [key for key in order if key.temperature == 0]
        same = sum(file.completions[key] == texts[key.task_id] for key in greedy)
        return {
            "prompts": len(prompts),
            "tokens": found.generated,
            "forwards": found.forwards,
            "tokens_per_forward": found.tokens_per_forward,
            "acceptance": found.acceptance,
            "same_as_greedy": same if greedy else None,
            "dtype": dtype_name(self.model.dtype),
        }

    def _text(self, tokens: Sequence[int]) -> str:
        text = decode_completion(self.tokenizer, tokens)
        return text if self.options.stop is None else self.options.stop.cut(text)
