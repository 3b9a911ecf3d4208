"""What a user reads of a mistake."""

from collections.abc import Callable
from typing import Any

import pytest

from wmtp.errors import WMTPError


def refusal(action: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(WMTPError) as caught:
        action(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line
