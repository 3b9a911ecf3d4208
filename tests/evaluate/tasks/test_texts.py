"""What is read off a problem's texts."""

import pytest

from wmtp.evaluate.tasks.texts import helpers, packages_imported


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import numpy as np, math", ("numpy",)),
        ("def f():\n    from scipy.linalg import inv\n    import numpy.linalg", ("numpy", "scipy")),
        ("try:\n    import numpy\nexcept ImportError:\n    numpy = None", ()),
        ("from . import numpy", ()),
        ("import numpy\ndef f(x):\n", ("numpy",)),
        ("import numpy as (", ()),
    ],
)
def test_packages_imported(text: str, expected: tuple[str, ...]) -> None:
    assert packages_imported(text) == expected


@pytest.mark.parametrize(
    ("prompt", "test", "expected"),
    [
        ("N = 3\ndef f():\n    'x'", "assert candidate() == N", "N = 3"),
        ("N = 3\ndef f():\n", "assert candidate() == N", "N = 3"),
        ("N = 3\ndef f():\n    'x'", "assert candidate() == 3", ""),
        ("import math\nclass C: pass\ndef f():\n", "C", "import math\n\nclass C:\n    pass"),
        ("def f(): return 1\ndef g(): return f()\n", "g()", "def g():\n    return f()"),
        ("def f(", "N", ""),
    ],
)
def test_helpers(prompt: str, test: str, expected: str) -> None:
    assert helpers(prompt, "f", test) == expected
