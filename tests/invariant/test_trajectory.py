"""The losses of the first steps, as they were when they were last looked at.

After a change that is meant to change them, this writes them anew:

    .venv/bin/python tests/invariant/test_trajectory.py
"""

import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Training, prepare, records

STORED = Path(__file__).with_name("trajectory.json")
STEPS = 20
OTHER_PROCESSORS = 1e-4
"""Processors round differently, and the difference grows with the steps."""


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records(run) if record["kind"] == "train"][:STEPS]


@pytest.mark.slow
def test_a_killed_and_resumed_run_has_the_stored_losses(start: Callable[..., Training]) -> None:
    settings = ("train.save_every=1", "train.async_save=true")
    killed = start("stored", *settings)
    killed.wait_for_step(random.randrange(2, 10))
    time.sleep(random.uniform(0, 0.05))
    killed.kill()
    ended = start("stored", *settings, resume="auto").end()
    assert (ended.status, ended.messages) == (0, [])
    assert losses(killed.run) == pytest.approx(json.loads(STORED.read_text()), rel=OTHER_PROCESSORS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        prepare(Path(here))
        training = Training(Path(here), "run")
        assert training.end().status == 0
        STORED.write_text(json.dumps(losses(training.run), indent=1) + "\n")
