import itertools

import pytest

from wmtp.experiment.results import ArmResult, Comparison, Difference, Interval
from wmtp.report.headline import headline, notes

# name: pass@1 and the interval of the difference to the baseline (None for the baseline)
Numbers = dict[str, tuple[float, tuple[float, float] | None]]


def compare(numbers: Numbers, seeds: int = 1) -> Comparison:
    base = next(value for value, bounds in numbers.values() if bounds is None)
    arms = [
        ArmResult(
            name=name,
            description={},
            pass_at_1=Interval(value, max(value - 0.05, 0), value + 0.05),
            difference=bounds and Difference(value - base, *bounds, p=0.0123),
            validation_ce=Interval(0.5, None, None),
            tokens_per_forward=None,
            acceptance=None,
            training_tokens_per_second=1.0,
            training_seconds=1.0,
            training_tokens=1,
            by_seed=[],
        )
        for name, (value, bounds) in numbers.items()
    ]
    baseline = next(name for name, (_, bounds) in numbers.items() if bounds is None)
    return Comparison("c", "tinycode", "greedy", baseline, list(range(seeds)), 10, 200, arms)


def test_a_separated_leader_is_named_with_its_difference() -> None:
    found = headline(compare({"base": (0.175, None), "x": (0.6, (0.35, 0.5)), "y": (0.2, (-0.1, 0.1))}))
    assert found == (
        "x solved 60.0% of 200 problems, the baseline base 17.5%: difference +42.5 points, "
        "95% interval +35.0 to +50.0, p = 0.012."
    )


@pytest.mark.parametrize("bounds", [(-0.01, 0.05), (0.0, 0.05), (-0.05, 0.0)])
def test_an_interval_with_zero_shows_no_difference(bounds: tuple[float, float]) -> None:
    found = headline(compare({"base": (0.5, None), "x": (0.52, bounds)}))
    assert found.startswith(
        "No difference shown between the baseline and the highest other arm: x solved 52.0%"
    )


def test_a_leading_baseline_is_said_to_lead() -> None:
    found = headline(compare({"x": (0.4, (-0.2, -0.02)), "base": (0.5, None), "y": (0.1, (-0.5, -0.3))}))
    assert found.startswith("No arm solved more than the baseline. The nearest: x solved 40.0%")
    assert "\u221210.0 points" in found


def test_tied_leaders_are_both_named() -> None:
    found = headline(compare({"base": (0.2, None), "x": (0.4, (0.1, 0.3)), "y": (0.4, (-0.1, 0.5))}))
    assert found.startswith("x and y each solved 40.0% of 200 problems")
    unclear = headline(compare({"base": (0.2, None), "x": (0.4, (0.0, 0.3)), "y": (0.4, (-0.1, 0.5))}))
    assert unclear.startswith("No difference shown")


def test_one_arm_is_compared_with_nothing() -> None:
    found = headline(compare({"base": (0.2, None)}))
    assert found == (
        "base solved 20.0% of 200 problems (95% interval 15.0 to 25.0%); there is no other arm to compare it with."
    )


NUMBERS: Numbers = {
    "one": (0.3, None), "two": (0.6, (0.2, 0.4)), "three": (0.2, (-0.2, -0.01)), "four": (0.31, (-0.1, 0.2)),
}  # fmt: skip


def test_the_sentence_depends_on_numbers_not_on_names_or_order() -> None:
    expected = headline(compare(NUMBERS))
    for order in itertools.permutations(NUMBERS):
        assert headline(compare({name: NUMBERS[name] for name in order})) == expected
    for names in itertools.permutations(NUMBERS):
        renamed = compare(dict(zip(names, NUMBERS.values(), strict=True)))
        translation = dict(zip(NUMBERS, names, strict=True))
        assert headline(renamed) == " ".join(translation.get(word, word) for word in expected.split(" "))


def test_every_arm_is_sorted_by_its_interval() -> None:
    first = notes(compare(NUMBERS))[0]
    assert first == "Against the baseline one: above it two; below it three; not separated from it four."


def test_notes_say_what_the_intervals_cover() -> None:
    assert "n = 1 training seed" in notes(compare(NUMBERS, seeds=1))[1]
    assert "not the variation between seeds" in notes(compare(NUMBERS, seeds=1))[1]
    assert "only roughly" in notes(compare(NUMBERS, seeds=3))[1]
    assert notes(compare(NUMBERS, seeds=5))[1] == (
        "n = 5 training seeds: the intervals cover the choice of problems and of seeds."
    )


def test_several_comparisons_are_said_to_be_uncorrected() -> None:
    assert notes(compare(NUMBERS))[-1] == "Intervals and p values are not corrected for making 3 comparisons."
    assert len(notes(compare({"base": (0.5, None), "x": (0.52, (-0.1, 0.1))}))) == 1
