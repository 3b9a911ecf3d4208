"""How well scorers find planted errors, and how much they agree, on the same tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from wmtp.config import Config, Recipe, override
from wmtp.critic.value_metrics import auc
from wmtp.data.corpus import Data, load_data
from wmtp.data.documents import documents_from
from wmtp.data.loader import collate, pack
from wmtp.data.targets import lookahead, shift_left
from wmtp.data.tokenizer import document_start
from wmtp.environment import choose_device, configure_torch
from wmtp.errors import WMTPError
from wmtp.experiment.inspect import planted_tokens, token_pieces, weighed
from wmtp.layout import DIAGNOSIS_FILE
from wmtp.metrics import finite
from wmtp.progress import progress
from wmtp.run import Run
from wmtp.storage import write_json
from wmtp.train.assemble import assemble_trained, known_columns
from wmtp.train.stage_one import with_own_critic
from wmtp.weighting.scorers import SCORERS

Floats = NDArray[np.float64]

DOCUMENTS = 1024
"""Number of training documents that are scored, from the first."""
NOT_ALONE = {"blend", "uniform"}
"""Scorers that run only when named: `blend` needs coefficients, `uniform` treats all tokens equally."""


@dataclass(frozen=True)
class Diagnosis:
    """One scorer's weights of the valid entries.

    Attributes:
        auc: by head, the chance that a token of a planted error has a lower weight than one of no error; a tie
            counts half. None where no, or every, entry is planted.
        first: the same for the first token of each planted error; those after it are often right by themselves.
        kinds: by kind of error, head 0's AUC of all tokens, and of the first ones.
        planted, others: mean weight.
        correlation: Spearman's, with the weights of the other scorers.
    """

    scorer: str
    auc: list[float | None]
    first: list[float | None]
    kinds: dict[str, list[float | None]]
    planted: float | None
    others: float | None
    correlation: dict[str, float | None]


def diagnose(run: Run, scorers: Sequence[str] | None) -> tuple[list[Diagnosis], dict[str, str]]:
    """Weigh training documents by several scorers, step by step as in training, with a run's last model as learner.

    Args:
        scorers: names; None for all that the run's recipe gives what they need.
    Returns:
        The diagnoses, and why the other scorers could not run; both are also in the run's `diagnosis.json`.
    Raises:
        WMTPError: a named scorer cannot run, or the data has no planted errors.
    """
    configure_torch(run.config.devices)
    data = load_data(run.recipe, Path(run.config.paths.cache))
    planted, kinds = _planted(data)
    chosen = scorers or [name for name in SCORERS.names() if name not in NOT_ALONE]
    recipe, location = with_own_critic(run.recipe, run.directory), run.checkpoint
    weights: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    with progress("diagnose", len(chosen)) as update:
        for number, name in enumerate(chosen, start=1):
            try:
                own = override(recipe, {"scorer": name, "train.control": None}, name)
                weights[name], entries = _weights(own, run.config, data, location, planted)
            except WMTPError as error:
                if scorers is not None:
                    raise
                reasons[name] = str(error)
            update(number, name)
    if not weights:
        raise WMTPError(f"score --diagnose: no scorer can run: {'; '.join(reasons.values())}")
    found = _compare(weights, entries, kinds)
    write_json(run.directory / DIAGNOSIS_FILE, {"found": [asdict(d) for d in found], "not_asked": reasons})
    return found, reasons


def _planted(data: Data) -> tuple[NDArray[np.int64], list[str]]:
    """[T, 2] by token of the training data: 0, or the number from 1 of its error's kind, and whether it is the first
    token of its error; and the kinds."""
    rows, dataset = data.rows.train, data.train
    if "error_spans" not in rows[0]:
        raise WMTPError("score --diagnose: the rows have no error_spans; tinycode has them")
    planted = np.zeros((len(dataset.tokens), 2), dtype=np.int64)
    kinds: list[str] = []
    for document in range(min(DOCUMENTS, len(dataset))):
        row = rows[int(dataset.sources[document])]
        kind = str(row.get("corruption", "error"))
        if row["error_spans"] and kind not in kinds:
            kinds.append(kind)
        pieces = token_pieces(data.tokenizer, documents_from([row], data.rows.fields)[0])
        wrong = np.array(planted_tokens(pieces, row))
        is_first = wrong & ~np.concatenate([[False], wrong[:-1]])
        first = int(dataset.starts[document])
        start = int(dataset.offsets[document]) + len(document_start(data.tokenizer))
        length = int(dataset.offsets[document + 1]) - start
        number = kinds.index(kind) + 1 if row["error_spans"] else 0
        planted[start : start + length] = np.stack([number * wrong, is_first], axis=1)[first : first + length]
    if not planted.any():
        looked_at = min(DOCUMENTS, len(dataset))
        raise WMTPError(f"score --diagnose: the first {looked_at} training documents hold no planted error")
    return planted, kinds


def _weights(
    recipe: Recipe, config: Config, data: Data, location: Path, planted: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """[n] the weight of every valid entry; [n, 3] what `_planted` says of its target, and its head."""
    device = choose_device(config.devices)
    module = assemble_trained(recipe, config, data, location)
    columns = known_columns(recipe, config, data)
    dataset, length = data.train, recipe.data.sequence_length
    rows = pack(dataset.lengths.tolist(), range(min(DOCUMENTS, len(dataset))), length)
    weights, entries = [], []
    for start in range(0, len(rows), recipe.train.batch_size):
        batch = collate(dataset, rows[start : start + recipe.train.batch_size], length, columns).to(device)
        valid_bsh = module.targets(batch)[1]
        keys_bsh = lookahead(shift_left(batch.token_keys), module.heads)
        heads_bsh = torch.arange(module.heads, device=device).expand_as(keys_bsh)
        of_targets = torch.from_numpy(planted)[keys_bsh[valid_bsh].cpu()]
        weights.append(weighed(module, batch)[1][valid_bsh].cpu())
        entries.append(torch.cat([of_targets, heads_bsh[valid_bsh].cpu()[:, None]], dim=1))
    return torch.cat(weights), torch.cat(entries)


def _compare(weights: Mapping[str, Tensor], entries: Tensor, kinds: Sequence[str]) -> list[Diagnosis]:
    kind, is_first, head = entries.numpy().T
    planted, first = kind > 0, is_first > 0
    heads = range(int(head.max()) + 1)
    next_token = head == 0
    right = ~planted & next_token
    values = {name: own.double().numpy() for name, own in weights.items()}
    ranks = {name: rankdata(own) for name, own in values.items()}
    found = []
    for name, own in values.items():
        others = {other: _correlation(ranks[name], ranks[other]) for other in values if other != name}
        found.append(
            Diagnosis(
                scorer=name,
                auc=[_auc(own, planted & (head == h), ~planted & (head == h)) for h in heads],
                first=[_auc(own, first & (head == h), ~planted & (head == h)) for h in heads],
                kinds={
                    error: [
                        _auc(own, (kind == n) & next_token, right),
                        _auc(own, (kind == n) & first & next_token, right),
                    ]
                    for n, error in enumerate(kinds, start=1)
                },
                planted=finite(float(own[planted].mean())) if planted.any() else None,
                others=finite(float(own[~planted].mean())) if not planted.all() else None,
                correlation=others,
            )
        )
    return found


def _auc(weights: Floats, wrong: NDArray[np.bool_], right: NDArray[np.bool_]) -> float | None:
    chosen = wrong | right
    return finite(auc(-weights[chosen], wrong[chosen]))


def _correlation(a: Floats, b: Floats) -> float | None:
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
