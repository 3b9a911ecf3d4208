"""Group-relative advantages: completions that did better than others of the same prompt."""

from torch import Tensor

from wmtp.config import Mode, Recipe
from wmtp.weighting.scorers.base import Need, ScoreInputs, Scorer


class GRPO(Scorer):
    """1 + A / c for the reward A, standardised within the prompt's group and clipped to ±c.

    A_i = (r_i - mean r) / std r over the completions of a prompt (DeepSeekMath, Shao et al. 2024, sec. 4.1.2), one
    advantage for all tokens of a completion. A signed advantage would be a negative weight, which unlearns; so it
    is mapped to [0, 2], the average completion to 1.
    """

    needs: frozenset[Need] = frozenset({"advantages"})
    mode: Mode = "proportional"

    def __init__(self, recipe: Recipe) -> None:
        self.clip = recipe.grpo.clip

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32 in [0, 2] for the token at s + 1, which lies in the document of position s."""
        assert inputs.advantages_bs is not None
        return (1.0 + inputs.advantages_bs.clamp(-self.clip, self.clip) / self.clip).where(
            inputs.valid_bs, 0.0
        )
