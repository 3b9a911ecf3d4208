"""Code in answers: what is executed of them, by shape."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.evaluate.extraction import extract
from wmtp.evaluate.tasks import Problem
from wmtp.sandbox import Limits, Program, Verdict, execute

HEADER = 'import math\n\ndef twice(x):\n    """Twice x."""\n'
CODE = "def twice(x):\n    return 2 * x\n"
TESTS = ("assert twice(2) == 4",)
COMPLETE = Problem(
    "c", HEADER, lambda code: Program("c", HEADER + code, TESTS), prefix=HEADER, entry_points=("twice",)
)
WHOLE = Problem("w", "", lambda code: Program("w", code, TESTS), entry_points=("twice",))
SCRIPT = Problem("s", "", lambda code: Program("s", code, TESTS))

SHAPES = {
    "one block": f"```python\n{CODE}```",
    "prose around": f"Sure! Here it is:\n\n```python\n{CODE}```\n\nIt doubles x. Isn't that nice?",
    "tildes": f"~~~py\n{CODE}~~~\nDone.",
    "a long fence around a short one": f"````python\n# ```\n{CODE}````",
    "no language": f"Here:\n```\n{CODE}```",
    "capital letters and attributes": f'```Python title="solution.py"\n{CODE}```',
    "braces": f"```{{.python .numberLines}}\n{CODE}```",
    "Windows line ends": f"Here:\n\n```python\n{CODE}```\nDone.\n".replace("\n", "\r\n"),
    "not closed": f"Here:\n```python\n{CODE}",
    "not closed, cut in an example": f"```python\n{CODE}\nif __name__ == '__main__':\n    print(twice(",
    "in a list": f"1. Write it:\n\n   ```python\n   {CODE.replace(chr(10), chr(10) + '   ')}\n   ```\n2. Done.",
    "on the line of a list": f"- ```python\n  {CODE.replace(chr(10), chr(10) + '  ')}\n  ```",
    "fence behind prose": f"The code is: ```python\n{CODE}```",
    "fence behind code": f"```python\n{CODE.rstrip()}```\nUse it as follows:\n```python\ntwice(3)\n```",
    "a shell block and output": f"```bash\npip install x\n```\n```python\n{CODE}```\nOutput:\n```\n4 apples\n```",
    "an example behind": f"```python\n{CODE}```\nExample:\n```python\nassert twice(2) == 5\n```",
    "an example in front": f"```python\n>>> twice(2)\n4\n```\nSo:\n```python\n{CODE}```",
    "a draft in front": f"```python\ndef twice(x):\n    return x\n```\nBetter:\n```python\n{CODE}```",
    "in pieces": "```python\nimport math\ndef half(x):\n    return x / math.sqrt(4)\n```\nThen:\n"
    "```python\ndef twice(x):\n    return 4 * half(x)\n```",
    "reasoning": f"<think>\nMaybe\n```python\ndef twice(x):\n    return x\n```\n</think>\n\n```python\n{CODE}```",
    "reasoning that the prompt began": f"Hm. ```python\ndef twice(x): 1\n``` no.\n</think>\n\n```python\n{CODE}```",
    "an end of reasoning in the code": f"```python\nMARK = '</think>'\n{CODE}```",
    "block begun by the prompt": f"{CODE}```\n\nThis doubles x.",
    "nested in markdown": f"```markdown\n```python\n{CODE}```\n```",
    "fence in a docstring": '```python\ndef twice(x):\n    """\n    ```\n    twice(1)\n    ```\n    """\n'
    "    return 2 * x\n```",
    "no fence": CODE,
    "no fence, prose around": f"Sure, here is the function:\n\n{CODE}\nIt doubles x, as you can see.",
    "no fence, indented": "Sure:\n\n    def twice(x):\n        return 2 * x\n\nThat is all.",
    "wholly indented block": "```python\n    def twice(x):\n        return 2 * x\n```",
    "indented fence": "Do this:\n    ```python\n    def twice(x):\n        return 2 * x\n    ```",
    "with the imports and docstring": f"```python\n{HEADER}    return 2 * x\n```",
    "code that needs an import": "```python\nimport math\n\ndef twice(x):\n    return math.prod([2, x])\n```",
}
BODIES = {
    "body": "    return 2 * x\n",
    "body and prose": "    return 2 * x\n\nThis doubles x.",
    "body in a block": "```python\n    return 2 * x\n```",
    "body at the margin": "Here:\n```python\ny = x\nreturn 2 * y\n```\nDone.",
    "body at the margin without a fence": "return 2 * x",
    "body, then an example": "```python\n    return 2 * x\n```\nExample:\n```python\nprint(twice(3))\n```",
    "body with a fence behind": "    return 2 * x\n```\n\nThis doubles x.",
    "body with a function in it": "    def twice(y):\n        return y + y\n\n    return twice(x)\n",
}


def passes(problem: Problem, answer: str) -> bool:
    return execute(problem.program(extract(answer, problem, "fenced")), Limits()).verdict is Verdict.PASSED


@pytest.mark.parametrize("shape", SHAPES)
def test_the_program_in_an_answer_is_found_whatever_its_shape(shape: str) -> None:
    for problem in (WHOLE, COMPLETE):
        code = problem.program(extract(SHAPES[shape], problem, "fenced")).code
        namespace: dict[str, object] = {}
        exec(compile(code, shape, "exec"), namespace)
        assert namespace["twice"](2) == 4  # type: ignore[operator]


@pytest.mark.parametrize("shape", BODIES)
@pytest.mark.parametrize("header", [HEADER, HEADER.strip(), "def twice(x):\n"])
def test_a_body_stands_behind_its_header(shape: str, header: str) -> None:
    problem = Problem(
        "c", header, lambda code: Program("c", header + code, TESTS), prefix=header, entry_points=("twice",)
    )
    namespace: dict[str, object] = {}
    exec(problem.program(extract(BODIES[shape], problem, "fenced")).code, namespace)
    assert namespace["twice"](2) == 4  # type: ignore[operator]
    whole = problem.program(extract(f"```python\n{CODE}```", problem, "fenced")).code
    exec(whole, namespace)
    assert namespace["twice"](3) == 6  # type: ignore[operator]


def test_scripts_are_the_last_block_or_the_longest_run() -> None:
    script = "n = int(input())\nprint(2 * n)\n"
    draft = "```python\nprint(input())\n```\nThat is wrong.\n"
    assert extract(f"{draft}```python\n{script}```\nInput:\n```\n3\n```", SCRIPT, "fenced") == script
    assert (
        extract(f"Here it is:\n\n{script}\nIt reads n, and prints it.", SCRIPT, "fenced").strip()
        == script.strip()
    )
    assert extract(script, SCRIPT, "fenced").strip() == script.strip()


def test_reasoning_that_does_not_end_is_no_answer() -> None:
    assert extract(f"<think>\n```python\n{CODE}```\nBut", WHOLE, "fenced") == ""


def test_what_is_wrong_stays_wrong() -> None:
    closed = "def twice(x):\n    return 2 * (x\n"
    assert extract(f"```python\n{closed}```", WHOLE, "fenced") == closed
    assert extract("I cannot do that.", WHOLE, "fenced") == "I cannot do that."
    assert not passes(WHOLE, "```python\ndef twice(x):\n    if x:\n        return (2 *")


def test_answers_are_judged_in_the_sandbox_as_extracted() -> None:
    assert passes(WHOLE, SHAPES["prose around"])
    assert passes(COMPLETE, SHAPES["with the imports and docstring"])
    assert not passes(WHOLE, SHAPES["prose around"].replace("2 *", "3 *"))


@given(st.text(alphabet="`~ \n\r#a:(\"'<>/think", max_size=60))
def test_no_rule_changes_nothing_and_any_text_gives_a_program(text: str) -> None:
    assert extract(text, COMPLETE, "none") == text
    for problem in (WHOLE, COMPLETE, SCRIPT):
        extract(text, problem, "fenced")


@given(st.sampled_from(["", "Here you are:\n\n"]), st.sampled_from(["```", "~~~~"]), st.integers(0, 3))
def test_blocks_give_their_lines_exactly(prose: str, fence: str, margin: int) -> None:
    source = ast.unparse(ast.parse(CODE + "class A:\n  x = '`'\n")) + "\n"
    lines = [f"{fence}python", *source.splitlines(), fence]
    answer = prose + "\n".join(" " * margin + line for line in lines)
    assert extract(answer, WHOLE, "fenced") == source
