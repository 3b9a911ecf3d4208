"""Self-speculative decoding against greedy next-token decoding, by batch size and by number of heads used.

The prompts of tinycode's test problems and the demo's model, trained here for a few steps (or a run's, with --run).
The peer is `generate` of transformers with the exported next-token model: trunk and head 0. All ways take turns; a
ratio is the median over the rounds of (seconds of greedy decoding) / (seconds of this way): above 1 is faster.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from trainers import card_name
from wmtp.config import Config, Recipe, load
from wmtp.data.corpus import tinycode_corpus
from wmtp.data.templates import mbpp_style_prompt
from wmtp.data.tokenizer import encode
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.environment import configure_torch
from wmtp.evaluate.tasks import settings_of
from wmtp.model.export import next_token_model
from wmtp.model.modeling import MTPForCausalLM
from wmtp.run import Run
from wmtp.train.run import train

DEMO = Path(__file__).parents[1] / "recipes" / "demo.yaml"
QUICK = [
    "data.tinycode={train: 80, validation: 8, test: 5, curated: 10, max_operations: 2, families: [list]}",
    "data.vocab_size=300",
    "model={hidden_size: 32, layers: 2, attention_heads: 2, heads: 3}",
    "train={batch_size: 4, warmup_steps: 1}",
    "evaluate.max_new_tokens=8",
]
GREEDY, PEER = "greedy", "transformers"


@dataclass(frozen=True)
class Result:
    """One way of decoding at one batch size.

    Attributes:
        seconds: median wall-clock time for all prompts.
        ratio: to greedy decoding, above 1 is faster.
        tokens_per_forward: 1 without drafts.
        same: share of the prompts whose tokens are those of greedy decoding.
    """

    way: str
    batch_size: int
    seconds: float
    ratio: float
    tokens_per_forward: float
    same: float


@dataclass(frozen=True)
class Work:
    """What is decoded."""

    model: MTPForCausalLM
    prompts: list[list[int]]
    max_new_tokens: int
    eos_id: int


def main() -> None:
    """Measure and print; with --json, also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--run", type=Path, help="a trained tinycode run, instead of training the demo's model"
    )
    parser.add_argument("--steps", type=int, default=200, help="of training the demo's model")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
    arguments = parser.parse_args()
    overrides = [f"devices.device={arguments.device}"]
    if arguments.quick:
        arguments.steps, arguments.prompts, arguments.batch_sizes, arguments.rounds = 2, 5, [1, 3], 1
        overrides += QUICK
    recipe, config = load(
        DEMO if arguments.run is None else arguments.run / "recipe.yaml", overrides=overrides
    )
    configure_torch(config.devices)
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or _trained(recipe, config, Path(folder) / "run", arguments.steps)
        work = _work(Run(run, recipe, config), arguments.prompts)
    results = [result for size in arguments.batch_sizes for result in _measure(work, size, arguments.rounds)]
    table = Table(
        "batch size", "way", "seconds", "ratio", "tokens/forward", "same tokens", title=_title(work)
    )
    for result in results:
        table.add_row(
            str(result.batch_size),
            result.way,
            f"{result.seconds:.3f}",
            f"{result.ratio:.2f}",
            f"{result.tokens_per_forward:.2f}",
            f"{100 * result.same:.0f}%",
        )
    Console(width=110).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


def _trained(recipe: Recipe, config: Config, run: Path, steps: int) -> Path:
    schedule = recipe.train.model_copy(update={"steps": steps, "save_every": steps, "validate_every": steps})
    train(recipe.model_copy(update={"train": schedule}), config, run)
    return run


def _work(run: Run, count: int) -> Work:
    rows = tinycode_corpus(run.recipe.data.tinycode).test[:count]
    return Work(
        run.model.eval(),
        encode(run.tokenizer, [mbpp_style_prompt(row["text"]) for row in rows]),
        settings_of(run.recipe.evaluate).max_new_tokens,
        int(run.tokenizer.eos_token_id),
    )


def _title(work: Work) -> str:
    dtype = str(work.model.dtype).removeprefix("torch.")
    parameters = sum(parameter.numel() for parameter in work.model.parameters())
    return (
        f"{card_name(work.model.device)}, {torch.get_num_threads()} threads, {dtype}, torch {torch.__version__}: "
        f"{parameters / 1e6:.1f}M parameters, {len(work.prompts)} prompts"
    )


def _measure(work: Work, batch_size: int, rounds: int) -> list[Result]:
    options = DecodeOptions(work.max_new_tokens, {work.eos_id}, batch_size=batch_size)
    forwards = {GREEDY: 1.0, PEER: 1.0}
    ways: dict[str, Callable[[], list[list[int]]]] = {
        GREEDY: _ours(work, options),
        PEER: _peer(work, batch_size),
    }
    for heads in range(2, work.model.config.heads + 1):
        name = f"speculative, {heads} heads"
        found = generate(work.model, work.prompts, replace(options, heads=heads))
        forwards[name] = found.tokens_per_forward
        ways[name] = _ours(work, replace(options, heads=heads))
    tokens = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return [
        Result(
            name,
            batch_size,
            statistics.median(seconds[name]),
            statistics.median(a / b for a, b in zip(seconds[GREEDY], seconds[name], strict=True)),
            forwards[name],
            statistics.mean(a == b for a, b in zip(tokens[GREEDY], tokens[name], strict=True)),
        )
        for name in ways
    ]


def _ours(work: Work, options: DecodeOptions) -> Callable[[], list[list[int]]]:
    return lambda: generate(work.model, work.prompts, options).tokens


def _peer(work: Work, batch_size: int) -> Callable[[], list[list[int]]]:
    """Greedy `generate` of transformers, on prompts padded on the left, in batches of about equal length."""
    model = next_token_model(work.model).to(work.model.device).eval()
    order = sorted(range(len(work.prompts)), key=lambda index: len(work.prompts[index]), reverse=True)

    def run() -> list[list[int]]:
        tokens: list[list[int]] = [[] for _ in work.prompts]
        for first in range(0, len(order), batch_size):
            indices = order[first : first + batch_size]
            width = len(work.prompts[indices[0]])
            missing = [width - len(work.prompts[index]) for index in indices]
            ids = [[work.eos_id] * pad + work.prompts[i] for i, pad in zip(indices, missing, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in missing]
            found = model.generate(
                torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                do_sample=False,
                max_new_tokens=work.max_new_tokens,
                eos_token_id=work.eos_id,
                pad_token_id=work.eos_id,
            )
            for index, row in zip(indices, found[:, width:].tolist(), strict=True):
                tokens[index] = row[: row.index(work.eos_id)] if work.eos_id in row else row
        return tokens

    return run


if __name__ == "__main__":
    main()
