"""What all sections are: strict, frozen, named as in the files."""

import math
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

LARGEST = 2**31 - 1
"""Of every count: what all libraries below take, sums of a few of them included."""

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
NonNegative = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def on_a_line(values: Any) -> str:
    """Plain values as YAML on one line."""
    return yaml.safe_dump(
        values, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    ).strip()


class Section(BaseModel):
    """A strict, frozen part of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)
