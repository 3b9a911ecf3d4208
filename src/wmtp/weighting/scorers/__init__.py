"""Scorers: what makes a token important. `create_scorer(name, recipe)` builds one."""

from typing import TYPE_CHECKING

from wmtp.registry import Registry

if TYPE_CHECKING:
    from wmtp.config import Recipe
    from wmtp.weighting.scorers.base import Scorer

SCORERS: Registry["Scorer"] = Registry(
    "scorer",
    {
        "uniform": "wmtp.weighting.scorers.uniform:Uniform",
        "rho1-excess-v1": "wmtp.weighting.scorers.rho1_excess:Rho1Excess",
        "critic-delta-v1": "wmtp.weighting.scorers.critic_delta:CriticDelta",
        "critic-gae-v1": "wmtp.weighting.scorers.critic_gae:CriticGAE",
        "entropy-v1": "wmtp.weighting.scorers.entropy:Entropy",
        "grad-norm-v1": "wmtp.weighting.scorers.grad_norm:GradNorm",
        "grpo-v1": "wmtp.weighting.scorers.grpo:GRPO",
        "learned-v1": "wmtp.weighting.scorers.learned:Learned",
        "blend": "wmtp.weighting.scorers.blend:Blend",
    },
)


def create_scorer(name: str, recipe: "Recipe") -> "Scorer":
    """The scorer of that name.

    Raises:
        WMTPError: it is unknown, cannot be built from the recipe, or is no Scorer.
    """
    from wmtp.weighting.scorers.base import checked_scorer, errors_as_one_line

    with errors_as_one_line(f"scorer {name!r} cannot be built"):
        return checked_scorer(name, SCORERS.create(name, recipe))
