"""Whom to name when training stands still."""

from dataclasses import replace

from wmtp.train.stuck import Beat, behind, gone


def beats(*told: Beat) -> dict[int, Beat]:
    return dict(enumerate(told))


def later(told: dict[int, Beat], *silent: int) -> dict[int, Beat]:
    return {
        rank: beat if rank in silent else Beat(beat.step, beat.phase, beat.count + 3, beat.seconds)
        for rank, beat in told.items()
    }


def test_whoever_is_furthest_behind_holds_up_the_others() -> None:
    waiting = Beat(7, "forward", seconds=600)
    assert behind(beats(waiting, Beat(7, "data", seconds=612.4), waiting)) == (
        "rank 1 has been in 'data' after step 7 for 612 s while the others wait in 'forward' after step 7"
    )
    assert behind(beats(waiting, Beat(6, "optimizer", seconds=5))).startswith(
        "rank 1 has been in 'optimizer'"
    )
    assert behind(beats(Beat(7, "data"), Beat(7, "save"))).startswith(
        "rank 1 has been in 'save' after step 7"
    )
    assert behind(beats(waiting, waiting)) == "every rank has been in 'forward' after step 7 for 600 s"


def test_many_are_named_in_short() -> None:
    many = beats(Beat(8, "data"), *[Beat(7, "data")] * 10)
    assert behind(many).startswith("each of ranks 1, 2, 3, 4, 5, 6, 7, 8 and 2 more has been in 'data'")


def test_ranks_that_answer_are_not_gone() -> None:
    before = beats(Beat(7, "forward"), Beat(7, "data"))
    assert gone(before, later(before), range(2)) is None


def test_who_is_gone_and_why() -> None:
    before = beats(Beat(7, "forward"), Beat(7, "data"), Beat(7, "forward"))
    silent = later(before, 1)
    assert gone(before, silent, range(3)) == "rank 1 no longer answers, last seen in 'data' after step 7"
    left = silent | {2: replace(before[2], left=True)}
    assert gone(before, left, range(3)) == "rank 2 left training"
    assert gone(before, left, range(4)) == "rank 3 did not begin training"
    failed = left | {0: replace(before[0], left=True, failure="OSError: no space")}
    assert gone(before, failed, range(4)) == "rank 0 failed: OSError: no space"
