import pytest

from wmtp.progress import counting, describe_step, duration, progress, working


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.6, 61, 3600 + 62)] == ["0:00", "1:00", "1:01", "1:01:02"]


def test_plain_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress("work", 20) as update:
        for done in range(1, 21):
            update(done, f"n={done}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/20", "6/20", "11/20", "16/20", "20/20"]
    assert lines[1] == "work 6/20 eta 0:14 n=6"


def test_what_was_done_before_is_told_at_once_and_does_not_count_for_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 0.1, 10.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress("work", 400) as update:
        for done in (200, 209, 220):
            update(done)
    assert capsys.readouterr().err.splitlines() == ["work 200/400", "work 209/400", "work 220/400 eta 3:00"]


def test_counting_adds_up() -> None:
    seen: list[tuple[int, str]] = []
    add = counting(lambda done, text="": seen.append((done, text)))
    for count in (2, 3, 1):
        add(count)
    assert [done for done, _ in seen] == [2, 5, 6]


def test_silent_work_is_told_when_it_took_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 10.0, 14.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with working("short"):
        pass
    with working("long"):
        pass
    assert capsys.readouterr().err == "long: 4 s\n"


def test_a_step_in_one_line() -> None:
    record = {
        "loss": 1.5,
        "ce": [1.25, None],
        "weight_mean": 1.0,
        "weight_entropy": 0.97,
        "weight_effective": 0.6,
        "grad_norm": None,
        "lr": 0.001,
        "tokens_per_second": 12345.6,
        "memory_mib": 812.4,
        "skipped_steps": 2,
    }
    line = describe_step(record)
    assert line == (
        "loss 1.500  ce 1.250 –  w 1.00 H 0.97 eff 0.60  |g| –  lr 1.0e-03  12,346 tok/s  812 MiB  skipped 2"
    )
    assert "skipped" not in describe_step(record | {"skipped_steps": 0})
