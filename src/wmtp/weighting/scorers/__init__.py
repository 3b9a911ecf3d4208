"""Scorers: what makes a token important. `SCORERS.create(name, recipe)` builds one."""

from typing import TYPE_CHECKING

from wmtp.registry import Registry

if TYPE_CHECKING:
    from wmtp.weighting.scorers.base import Scorer

SCORERS: Registry["Scorer"] = Registry(
    "scorer",
    {
        "uniform": "wmtp.weighting.scorers.uniform:Uniform.from_recipe",
        "rho1-excess-v1": "wmtp.weighting.scorers.rho1_excess:Rho1Excess.from_recipe",
    },
)
