"""Group-relative advantages: completions that did better than others of the same prompt."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from wmtp.config import Mode, Section
from wmtp.weighting.scorers.base import ScoreInputs, Scorer


class GRPO(Scorer):
    """1 + A / c for the reward A, standardised within the prompt's group and clipped to ±c.

    A_i = (r_i - mean r) / std r over the completions of a prompt (DeepSeekMath, Shao et al. 2024, sec. 4.1.2), one
    advantage for all tokens of a completion. A signed advantage would be a negative weight, which unlearns; so it
    is mapped to [0, 2], the average completion to 1.
    """

    class Config(Section):
        """Advantages are clipped to ±`clip`; the worst completion of a group then gets weight 0, the best 2."""

        clip: Annotated[float, Field(gt=0)] = 2.0

    needs: frozenset[str] = frozenset({"advantages"})
    mode: Mode = "proportional"

    config: Config

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32 in [0, 2] for the token at s + 1, which lies in the document of position s."""
        clip = self.config.clip
        return (1.0 + inputs.advantages_bs.clamp(-clip, clip) / clip).where(inputs.valid_bs, 0.0)
