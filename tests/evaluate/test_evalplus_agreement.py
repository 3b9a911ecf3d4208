"""EvalPlus's own package, where it is installed, says the same as we do.

Of its files, if WMTP_EVALPLUS names their folder, else of rows of the same shape.
"""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from evalplus_agreement import FILES, changed_solutions, ours, theirs

SMALL: dict[str, list[dict[str, Any]]] = {
    "humaneval": [
        {
            "task_id": "HumanEval/0",
            "prompt": 'def mean(x):\n    """The mean of numbers."""\n',
            "entry_point": "mean",
            "canonical_solution": "    return sum(x) / len(x) if x else 0.5\n",
            "base_input": [[[1, 2]], [[]]],
            "plus_input": [[[0.1, 0.2]], [[-1]], [[3] * 7]],
            "atol": 0,
        },
        {
            "task_id": "HumanEval/1",
            "prompt": 'def ends(x):\n    """First and last element."""\n',
            "entry_point": "ends",
            "canonical_solution": "    return (x[0], x[-1]) if len(x) > 1 else ()\n",
            "base_input": [[[1, 2]]],
            "plus_input": [[[]], [[1.5]], [["a", "b", "c"]]],
            "atol": 1e-06,
        },
    ],
    "mbpp": [
        {
            "task_id": "Mbpp/579",
            "prompt": '"""\nElements of just one of two tuples.\n"""\n',
            "entry_point": "find_dissimilar",
            "canonical_solution": (
                "def find_dissimilar(x, y):\n    return [n for n in [*x, *y] if (n in x) != (n in y)]\n"
            ),
            "base_input": [[[1, 2], [2, 3]]],
            "plus_input": [[[], []], [[1, 1, 2], [1]]],
            "atol": 0,
        }
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", sorted(FILES))
def test_evalplus_says_the_same(benchmark: str, tmp_path: Path) -> None:
    pytest.importorskip("evalplus.eval")
    if folder := os.environ.get("WMTP_EVALPLUS"):
        path = Path(folder) / FILES[benchmark]
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    else:
        path, rows = tmp_path / "rows.jsonl", SMALL[benchmark]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    programs = list(changed_solutions(rows, 1000 if folder else 20))
    mine, other = ours(path, benchmark, programs, 8), theirs(rows, benchmark, programs)
    differing = [
        program for program, one, two in zip(programs, mine, other, strict=True) if one[:2] != two[:2]
    ]
    assert differing == []
    assert {outcome.plus for outcome in other} == {True, False}
