"""Rewards of rows, and comparisons of answers to the same prompt."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wmtp.config import EvaluateConfig
from wmtp.data.rows import Row
from wmtp.errors import WMTPError
from wmtp.evaluate.judging import require_consent
from wmtp.evaluate.verdicts import judge_once
from wmtp.sandbox import Program, Verdict


def check_rewards(rewards: NDArray[np.float64], where: str) -> None:
    """Refuse rewards [rows] that are all the same; `where` names their origin.

    Raises:
        WMTPError: they are.
    """
    if len(np.unique(rewards)) == 1:
        raise WMTPError(
            f"{where}: constant: a critic has nothing to learn from; every row's reward is {rewards[0]}"
        )


def field_rewards(rows: Sequence[Row], field: str, where: str) -> NDArray[np.float64]:
    """[rows] float64: values of a field of numbers or bools; `where` names the rows' origin in errors.

    Raises:
        WMTPError: a row lacks the field or holds something else in it, or all rows hold the same.
    """
    rewards = np.array([_number(row, field) for row in rows], dtype=np.float64)
    check_rewards(rewards, f"{where}: field {field!r} (critic.field)")
    return rewards


def _number(row: Row, field: str) -> float:
    if field not in row:
        raise WMTPError(f"{row.place}: no field {field!r} (critic.field); it has {row.names}")
    value = row[field]
    if not isinstance(value, int | float):
        raise WMTPError(
            f"{row.place}: field {field!r} (critic.field) should be a number or a bool, "
            f"not {type(value).__name__}"
        )
    if not abs(value) <= sys.float_info.max:
        raise WMTPError(f"{row.place}: field {field!r} (critic.field) should be finite, not {value}")
    return float(value)


def verifier_rewards(
    rows: Sequence[Row], completions: Sequence[str], config: EvaluateConfig, cache: Path
) -> NDArray[np.float64]:
    """[rows] float64: 1 where a completion passes its row's own tests in the sandbox, otherwise 0.

    No program runs twice: verdicts are kept in `cache` (see `judge_once`).

    Args:
        rows: with `test_list` and, where the tests need it, `test_setup_code`.
        completions: whole programs.

    Raises:
        WMTPError: execution was not allowed, a row has no tests, the sandbox could not judge a program, or all
            rewards are equal.
    """
    require_consent(config)
    programs = [_program(row, completion) for row, completion in zip(rows, completions, strict=True)]
    executions = judge_once(programs, config, cache, "verify")
    broken = [pair for pair in zip(programs, executions, strict=True) if pair[1].verdict is Verdict.ERROR]
    if broken:
        count = len({(program.code, program.setup, program.tests) for program, _ in broken})
        first, execution = broken[0]
        raise WMTPError(
            f"critic.reward verifier: the sandbox failed on {count} programs, which are not scored, the "
            f"first of them {first.task_id}: {execution.message}"
        )
    rewards = np.array([each.verdict is Verdict.PASSED for each in executions], dtype=np.float64)
    check_rewards(rewards, "critic.reward verifier")
    return rewards


def _program(row: Row, completion: str) -> Program:
    tests, setup = row.get("test_list"), row.get("test_setup_code") or ""
    if not tests or not isinstance(tests, list) or not all(isinstance(t, str) for t in [*tests, setup]):
        raise WMTPError(
            f"critic.reward verifier: {row.place}: no tests: it needs a list of Python statements in 'test_list' "
            f"(and text in 'test_setup_code', if any); it has {row.names}"
        )
    return Program(row.place, completion, tuple(tests), setup)


def group_advantages(
    rewards: NDArray[np.float64], groups: NDArray[np.int64], places: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """GRPO's advantages [rows] float64: (reward - mean) / standard deviation within its group.

    The standard deviation is the population's. Where a group's rewards are all equal, its advantages are 0.

    Args:
        rewards: [rows] float64, finite.
        groups: [rows] int64, which rows answer the same prompt.
        places: where each row stands, for errors.

    Raises:
        WMTPError: a group has one member, or nowhere do rewards within a group differ.
    """
    _, first, inverse, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    alone = first[counts == 1]
    if len(alone):
        raise WMTPError(
            f"grpo-v1 needs several completions per prompt: {len(alone)} of {len(counts)} prompts have one, "
            f"the first in {places[alone.min()] if places else f'row {alone.min()}'}"
        )
    above = _above_mean(rewards, groups)
    if not above.any():
        raise WMTPError(
            "grpo-v1: every group's rewards are equal, so that no completion is better than another"
        )
    deviations = np.sqrt(np.bincount(inverse, above**2) / counts)
    deviations[deviations == 0] = 1
    return above / deviations[inverse]


def _above_mean(rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """[rows] float64: reward minus its group's mean, over the group's range; exactly 0 where all are equal."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    low, high = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(low, inverse, rewards)
    np.maximum.at(high, inverse, rewards)
    ranges = np.where(high > low, high - low, 1)
    shares = (rewards - low[inverse]) / ranges[inverse]
    return np.asarray(shares - (np.bincount(inverse, shares) / counts)[inverse], dtype=np.float64)


def pair_up(
    rewards: NDArray[np.float64], groups: NDArray[np.int64], lengths: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Row numbers [pairs, 2] int64 of (better, worse) answers to the same prompt, for Bradley-Terry training.

    Better are the answers above the mean of their group, worse the others: for rewards of 0 and 1 the correct and the
    incorrect ones. Both are sorted by length and walked through in parallel, so that neighbours in length meet: every
    answer of the larger side is used once, those of the smaller side several times.

    Then length says nothing about which answer is better: pairs whose better answer is the longer one and pairs whose
    better answer is the shorter one are made equally many by repeating some of the rarer kind, chosen by `seed`. If
    there are none of a kind, nothing is repeated.

    Args:
        rewards: [rows] float64, finite.
        groups: [rows] int64, which rows answer the same prompt.
        lengths: [rows] int64, of the answers.

    Raises:
        WMTPError: no group has answers of different reward.
    """
    above = _above_mean(rewards, groups)
    order = np.lexsort((lengths, groups))
    pairs = []
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        better, worse = members[above[members] > 0], members[above[members] <= 0]
        if len(better):
            count = max(len(better), len(worse))
            pairs.append(np.stack([_stretch(better, count), _stretch(worse, count)], axis=1))
    if not pairs:
        raise WMTPError(
            "no prompt has answers of different reward: pairwise needs a correct and an incorrect answer to the "
            "same prompt"
        )
    return _balance(np.concatenate(pairs), lengths, seed)


def _stretch(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` rows in the same order, each repeated as often as the others, give or take one."""
    return rows[np.arange(count) * len(rows) // count]


def _balance(pairs: NDArray[np.int64], lengths: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    excess = lengths[pairs[:, 0]] - lengths[pairs[:, 1]]
    rarer, other = sorted((pairs[excess > 0], pairs[excess < 0]), key=len)
    if not len(rarer):
        return pairs
    order = np.random.default_rng(seed).permutation(len(rarer))
    return np.concatenate([pairs, rarer[np.resize(order, len(other) - len(rarer))]])
