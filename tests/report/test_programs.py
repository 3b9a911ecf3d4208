from wmtp.records import Sample
from wmtp.report.programs import MAX_COMPLETION, shown_problems


def samples(verdicts: str, completion: str = "pass") -> list[Sample]:
    names = {"p": "passed", "f": "failed", "t": "timeout"}
    return [Sample(f"t/{i}", 0, completion, names[v], "m") for i, v in enumerate(verdicts)]


def test_the_first_of_every_kind_in_file_order() -> None:
    found = shown_problems({"a": samples("fpfpppf"), "b": samples("tppfpff")})
    assert [(p.kind, p.task_id) for p in found] == [
        ("Some arms pass", "t/2"),
        ("Some arms pass", "t/3"),
        ("Every arm passes", "t/1"),
        ("No arm passes", "t/0"),
    ]
    assert [(program.arm, program.verdict) for program in found[0].programs] == [
        ("a", "failed"),
        ("b", "passed"),
    ]


def test_only_problems_that_every_arm_answered() -> None:
    found = shown_problems({"a": samples("pf"), "b": samples("p")})
    assert [problem.task_id for problem in found] == ["t/0"]


def test_the_first_sample_of_a_problem_counts() -> None:
    rows = [Sample("t/0", n, name, "failed") for n, name in ((1, "second"), (0, "first"), (2, "third"))]
    found = shown_problems({"a": rows})
    assert [program.completion for program in found[0].programs] == ["first"]
    assert found[0].kind == "No arm passes"


def test_long_or_hostile_text_is_cut_and_spelt_out() -> None:
    program = shown_problems({"a": samples("p", "\x1b" + "x" * 5000)})[0].programs[0]
    assert program.completion.startswith(r"\x1bxxx")
    assert len(program.completion) < MAX_COMPLETION + 40
    assert program.completion.endswith("more characters")
