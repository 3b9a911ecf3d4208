"""The registry of scorers, and what is checked of each."""

import subprocess
import sys
from typing import cast

import pytest
import torch
from scorer_inputs import make_inputs, step_info
from torch import Tensor
from torch.distributed import ProcessGroup

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.weighting.needs import NEEDS
from wmtp.weighting.scorers import SCORERS, create_scorer
from wmtp.weighting.scorers.base import ScoreInputs, Scorer, checked_call, errors_as_one_line


class Always(Scorer):
    """Gives what it was made with."""

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer

    def __call__(self, _inputs: ScoreInputs) -> Tensor:
        return self.answer


def test_every_built_in_scorer_can_be_built_and_says_what_it_needs() -> None:
    for name in SCORERS.names():
        scorer = create_scorer(name, Recipe(), {"parts": {"uniform": 1.0}} if name == "blend" else {})
        assert scorer.needs <= NEEDS.keys()
        assert all(not t.requires_grad for t in scorer.state().values())


def test_by_default_nothing_is_needed_completed_or_remembered() -> None:
    inputs = make_inputs()
    scores = torch.randn(inputs.valid_bs.shape)
    scorer = Always(scores)
    assert scorer.needs == frozenset()
    assert scorer.mode == "soft"
    assert scorer.complete(scores, step_info(inputs)) is scores
    assert scorer.state() == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("width", [(), (3,), (1,)])
def test_an_answer_comes_back_in_float32(dtype: torch.dtype, width: tuple[int, ...]) -> None:
    inputs = make_inputs()
    answer = torch.ones(*inputs.valid_bs.shape, *width, dtype=dtype)
    found = checked_call("mine", Always(answer), inputs)
    assert found.dtype == torch.float32
    assert found.shape == answer.shape


def test_an_unknown_scorer_is_named_with_the_nearest() -> None:
    with pytest.raises(WMTPError, match=r"^unknown scorer 'rho1-exces-v1'; did you mean 'rho1-excess-v1'\?$"):
        create_scorer("rho1-exces-v1", Recipe())


def test_listing_the_scorers_does_not_import_torch() -> None:
    code = """
import sys
from typing import cast
from wmtp.weighting.scorers import SCORERS
list(SCORERS.names())
print('torch' in sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "False"


def test_what_may_not_be_a_scorers_fault_is_not_blamed_on_it() -> None:
    """No memory, which training answers with advice; and, where ranks reduce together, a rank that is lost."""
    with (
        pytest.raises(WMTPError, match=r"^scorer 'mine' failed: RuntimeError: gone$"),
        errors_as_one_line("scorer 'mine' failed"),
    ):
        raise RuntimeError("gone")
    with pytest.raises(torch.OutOfMemoryError), errors_as_one_line("scorer 'mine' failed"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    group = cast("ProcessGroup", object())
    with (
        pytest.raises(RuntimeError, match=r"^Connection closed by peer$"),
        errors_as_one_line("scorer", group),
    ):
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(WMTPError, match=r"^scorer: IndexError: 3$"), errors_as_one_line("scorer", group):
        raise IndexError(3)
