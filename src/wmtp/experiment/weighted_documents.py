"""Training documents with the weights that each arm gives their tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wmtp.config import FieldsConfig, Recipe, override
from wmtp.data.corpus import Data, Rows, load_data
from wmtp.data.dataset import Document, tokenise
from wmtp.data.documents import documents_from
from wmtp.data.rows import Row
from wmtp.environment import choose_device, configure_torch
from wmtp.errors import WMTPError
from wmtp.experiment.inspect import planted_tokens, start_pieces, token_pieces, token_weights
from wmtp.experiment.results import TokenSample
from wmtp.run import Run
from wmtp.train.assemble import assemble_trained, known_columns, scorer_needs
from wmtp.train.stage_one import with_own_critic

POPULATION = 256
"""Number of documents weighed together, about as many as in an optimiser step."""
SHOWN = 10


def weighted_samples(runs: Mapping[str, Run], data: Data) -> list[TokenSample]:
    """A few training documents, one of each kind of planted error first, weighed by the last model of each run."""
    population = range(min(POPULATION, len(data.train)))
    weights = {arm: _weights(run, run.recipe, data, population) for arm, run in runs.items()}
    return [
        token_sample(data, document, {name: found[document] for name, found in weights.items()})
        for document in _choose(data, population)
    ]


def _weights(run: Run, recipe: Recipe, data: Data, documents: Sequence[int]) -> dict[int, list[float | None]]:
    recipe = with_own_critic(recipe, run.directory)
    module = assemble_trained(recipe, run.config, data, run.checkpoint)
    columns = known_columns(recipe, run.config, data)
    device = choose_device(run.config.devices)
    return token_weights(module, data.train, documents, device=device, columns=columns)


def token_sample(data: Data, document: int, weights: dict[str, list[float | None]]) -> TokenSample:
    """One document of the training data, piece by piece."""
    index = int(data.train.sources[document])
    row = data.rows.train[index]
    text = documents_from([row], data.rows.fields)[0]
    begin = start_pieces(data.tokenizer, text)
    start, length = int(data.train.starts[document]), int(data.train.lengths[document]) - len(begin)
    shown = [*begin, *token_pieces(data.tokenizer, text)[start : start + length]]
    supervised = [weight is not None for weight in next(iter(weights.values()))]
    return TokenSample(
        title=_title(row, index),
        prompt_tokens=sum(place < 0 for _, place, _ in shown),
        tokens=[piece for piece, _, _ in shown],
        supervised=supervised,
        planted=planted_tokens(shown, row),
        weights=weights,
    )


def inspect_document(run: Run, text: str | None, document: int) -> TokenSample:
    """What `wmtp inspect` shows: a text, or a document of the run's training data, weighed by its last model.

    A text is normalised on its own; a document among the first ones of the training data.
    """
    configure_torch(run.config.devices)
    recipe = run.recipe
    data = load_data(recipe, Path(run.config.paths.cache))
    if text is not None:
        if scorer_needs(recipe) & {"rewards", "advantages", "alignment"}:
            raise WMTPError(
                f"--text: scorer {recipe.scorer.name!r} reads what is known of training rows; "
                f"name one of them with --sample"
            )
        recipe = override(recipe, {"data.reference_scores": None}, "--text")
        row = Row({"text": text}, "--text")
        rows = Rows([row], [row], [], FieldsConfig(text="text"))
        length, documents = recipe.data.sequence_length, [Document("", text, "--text")]
        dataset = tokenise(documents, data.tokenizer, length, "error", "--text")
        data, population, document = Data(rows, data.tokenizer, dataset, dataset), [0], 0
    elif document >= len(data.train):
        raise WMTPError(f"--sample {document}: the training data has {len(data.train)} documents")
    else:
        population = sorted({*range(min(POPULATION, len(data.train))), document})
    weights = _weights(run, recipe, data, population)
    return token_sample(data, document, {recipe.scorer.name: weights[document]})


def _title(row: Mapping[str, Any], index: int) -> str:
    name = str(row.get("task_id", row.get("path", f"row {index}")))
    return f"{name}: {row['corruption'] or 'nothing planted'}" if "corruption" in row else name


def _choose(data: Data, population: Sequence[int]) -> list[int]:
    """Alternate between the kinds of corruption (none counts as one), in order of appearance."""
    kinds: dict[Any, list[int]] = {}
    for document in population:
        row = data.rows.train[int(data.train.sources[document])]
        kinds.setdefault(row.get("corruption"), []).append(document)
    rounds = max(map(len, kinds.values()))
    ordered = [own[i] for i in range(rounds) for own in kinds.values() if i < len(own)]
    return ordered[:SHOWN]
