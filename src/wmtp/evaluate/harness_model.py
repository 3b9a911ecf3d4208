"""Presents a model to lm-evaluation-harness: scores of texts, and generation with stops."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerFast

from wmtp.data.tokenizer import decode_completion, document_start, encode, encode_prompts
from wmtp.decode.batch import evaluation_mode
from wmtp.decode.ends import end_tokens
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.stopping import StopStrings
from wmtp.errors import WMTPError
from wmtp.loss.chunked import chunks, cross_entropy_
from wmtp.model.modeling import MTPForCausalLM
from wmtp.progress import counting, progress
from wmtp.run import Run

CHUNK = 512
"""Positions whose logits are in memory at a time."""
GENERATION_KEYS = {"until", "do_sample", "temperature", "top_p", "max_gen_toks"}


@register_model("wmtp")
class MTPBackend(TemplateLM):
    """Head 0 of a model, with the interface of lm-evaluation-harness.

    Texts become tokens as in training, without special tokens. What does not fit into the model's positions loses its
    beginning.
    """

    def __init__(
        self,
        model: MTPForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        *,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        """A backend for a model on its device and in its dtype.

        Args:
            model: any number of heads.
            tokenizer: the model's.
            batch_size: requests that the model reads at once.
            seed: fixes the random numbers of tasks that sample.
        """
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.seed = seed
        self.max_length: int = model.config.backbone.max_position_embeddings

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "MTPBackend":
        """The model of a run, from arguments of the harness's own command: `run=RUN,seed=1`."""
        return cls.create_from_arg_obj(utils.simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "MTPBackend":
        """The newest checkpoint of a run: `run`, and if wanted `seed`, `batch_size` and `device`.

        Raises:
            WMTPError: other arguments, or none that names a run.
        """
        given = {**(additional_config or {}), **arg_dict}
        given = {key: value for key, value in given.items() if value is not None}
        unknown = given.keys() - {"run", "seed", "batch_size", "device", "max_batch_size"}
        if unknown or "run" not in given:
            raise WMTPError(
                f"model_args: should be run=RUN and, if wanted, seed; not {', '.join(given) or 'nothing'}"
            )
        size = str(given.get("batch_size", 64))
        if not size.isdecimal() or int(size) == 0:
            raise WMTPError(f"batch_size {size!r}: should be a number above 0")
        device = [f"devices.device={given['device']}"] if "device" in given else []
        run = Run.open(Path(str(given["run"])), device)
        return cls(run.model, run.tokenizer, batch_size=int(size), seed=int(given.get("seed", 0)))

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: the tokenizer's first token of a text, else its last."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: ARG002
        """Tokens of a text at the start of a document."""
        return encode_prompts(self.tokenizer, [string])[0]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """ln p(continuation | context) of each request, and whether greedy decoding would write it."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """ln p of each whole text; what is longer than the model is read in windows."""
        windows: list[tuple[int, list[int], list[int]]] = []
        for number, request in enumerate(requests):
            pairs = utils.get_rolling_token_windows(
                encode(self.tokenizer, [request.args[0]])[0],
                self.prefix_token_id,
                self.max_length,
                context_len=1,
            )
            windows += [(number, *utils.make_disjoint_window(pair)) for pair in pairs]
        totals = [0.0] * len(requests)
        scored = self._loglikelihood_tokens([(None, context, text) for _, context, text in windows])
        for (number, _, _), (loglikelihood, _) in zip(windows, scored, strict=True):
            totals[number] += loglikelihood
        return totals

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = True,  # noqa: ARG002
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Of each (text, context, continuation): ln p of the continuation, and whether all of it is greedy."""
        for text, _context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise WMTPError(
                    f"--lm-eval: a continuation should have 1 to {self.max_length} tokens (the model's "
                    f"max_position_embeddings), not {len(continuation)}: {str(text)[:80]}"
                )
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        found: dict[int, tuple[float, bool]] = {}
        with evaluation_mode(self.model), progress("lm-eval: score", len(requests)) as update:
            for start in range(0, len(order), self.batch_size):
                indices = order[start : start + self.batch_size]
                scores = self._score([requests[index][1:] for index in indices])
                found |= zip(indices, scores, strict=True)
                update(len(found))
        return [found[index] for index in range(len(requests))]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        rows = [
            [*(context or [self.prefix_token_id]), *continuation][-self.max_length - 1 :]
            for context, continuation in pairs
        ]
        width = max(map(len, rows)) - 1
        ids_bs = torch.zeros(len(rows), width, dtype=torch.long)
        targets_bs = torch.zeros_like(ids_bs)
        where_bs = torch.zeros_like(ids_bs, dtype=torch.bool)
        for b, (row, (_, continuation)) in enumerate(zip(rows, pairs, strict=True)):
            length = len(row) - 1
            ids_bs[b, :length] = torch.tensor(row[:-1])
            targets_bs[b, :length] = torch.tensor(row[1:])
            where_bs[b, length - len(continuation) : length] = True
        device = self.model.device
        hidden_bsd = self.model.head(
            self.model.trunk(ids_bs.to(device)), 0
        )  # causal: no row sees its padding
        targets, where = targets_bs.flatten().to(device), where_bs.flatten().to(device)
        ce = torch.zeros(len(where), dtype=torch.float64, device=device)
        is_greedy = torch.ones_like(where)
        matrix = self.model.unembedding
        for chosen, _, logits in chunks(hidden_bsd.flatten(0, 1), matrix, where, CHUNK):
            is_greedy[chosen] = logits.argmax(1) == targets[chosen]
            ce[chosen] = cross_entropy_(logits, targets[chosen]).double()
        sums, all_greedy = -ce.view(where_bs.shape).sum(1), is_greedy.view(where_bs.shape).all(1)
        return list(zip(sums.tolist(), all_greedy.tolist(), strict=True))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """What the model writes after each context, up to the first stop string."""
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        found: dict[int, str] = {}
        with progress("lm-eval: generate", len(requests)) as update:
            ended = counting(update)
            for settings, numbers in alike.items():
                contexts = [requests[number].args[0] for number in numbers]
                texts = self._generate(contexts, json.loads(settings), numbers, ended)
                found |= zip(numbers, texts, strict=True)
        return [found[number] for number in range(len(requests))]

    def _generate(
        self,
        contexts: Sequence[str],
        settings: dict[str, Any],
        streams: Sequence[int],
        ended: Callable[[int], None],
    ) -> list[str]:
        wanted: Mapping[str, Any] = normalize_gen_kwargs(settings, DEFAULT_MAX_GEN_TOKS)
        unknown = sorted(wanted.keys() - GENERATION_KEYS)
        if unknown:
            raise WMTPError(
                f"--lm-eval: the task asks for {unknown[0]} in generation_kwargs; known are "
                f"{', '.join(sorted(GENERATION_KEYS))}"
            )
        new_tokens = wanted["max_gen_toks"]
        start = document_start(self.tokenizer)
        room = self.max_length - new_tokens - len(start)
        if new_tokens < 1 or room < 1:
            raise WMTPError(
                f"--lm-eval: the task wants max_gen_toks {new_tokens}; the model's {self.max_length} positions "
                f"(max_position_embeddings) leave 1 to {self.max_length - 1}"
            )
        prompts = [
            [*start, *ids[-room:]] or [self.prefix_token_id] for ids in encode(self.tokenizer, contexts)
        ]
        stop = StopStrings(self.tokenizer, [text for text in wanted["until"] if text])
        options = DecodeOptions(
            new_tokens,
            end_tokens(self.model, self.tokenizer),
            temperature=float(wanted.get("temperature", 1.0)) if wanted["do_sample"] else 0.0,
            top_p=float(wanted.get("top_p", 1.0)),
            seed=self.seed,
            stop=stop,
            batch_size=self.batch_size,
        )
        generation = generate(self.model, prompts, options, streams=streams, on_end=lambda *_: ended(1))
        return [stop.cut(decode_completion(self.tokenizer, tokens)) for tokens in generation.tokens]
