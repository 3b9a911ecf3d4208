"""Scorers: what makes a token important, and settings of which only the scorer itself knows."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wmtp.config import Recipe, ScorerConfig, Section, to_dict, validate
from wmtp.errors import WMTPError
from wmtp.registry import Registry

if TYPE_CHECKING:
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


def config_of(name: str) -> type[Section]:
    """The settings that a scorer declares.

    Raises:
        WMTPError: the scorer is unknown, or declares something else.
    """
    declared = getattr(SCORERS.get(name), "Config", Section)
    if not (isinstance(declared, type) and issubclass(declared, Section)):
        raise WMTPError(f"scorer {name!r}: derive its Config from wmtp.config:Section")
    return declared


def settings_of(
    name: str, given: Mapping[str, Any], where: str, overrides: Sequence[str] = (), under: str = "scorer"
) -> Section:
    """All settings of a scorer, as its `Config`.

    Args:
        where, overrides, under: as of `config.validate`.
    Raises:
        WMTPError: the scorer is unknown, or a setting is not one of its own, or wrong.
    """
    return validate(config_of(name), dict(given), where, overrides, under)


def with_settings(recipe: Recipe, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe with all settings of its scorer, as `settings_of` finds them."""
    settings = settings_of(recipe.scorer.name, recipe.scorer.settings, where, overrides)
    complete = ScorerConfig(name=recipe.scorer.name, **to_dict(settings))
    return recipe.model_copy(update={"scorer": complete})


def scorer_of(recipe: Recipe) -> "Scorer":
    """The recipe's scorer, by `create_scorer`."""
    return create_scorer(recipe.scorer.name, recipe, recipe.scorer.settings)


def create_scorer(name: str, recipe: Recipe, given: Mapping[str, Any] = MappingProxyType({})) -> "Scorer":
    """The scorer of that name, with these settings.

    Raises:
        WMTPError: it is unknown, cannot be built from settings and recipe, or is no Scorer.
    """
    from wmtp.weighting.scorers.base import checked_scorer, errors_as_one_line

    settings = settings_of(name, given, "recipe")
    with errors_as_one_line(f"scorer {name!r} cannot be built"):
        return checked_scorer(name, SCORERS.create(name, settings, recipe))
