"""How a benchmark is prompted, decoded and judged, by the name that the results carry.

Numbers compare only under the same protocol. The facts of each are public: the papers named below and the task files
of two harnesses. Three things differ throughout, so that a problem is tested in the same way everywhere: line ends
are "\\n", an MBPP problem's setup runs before its tests, and limits are in processor seconds, not wall-clock ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from wmtp.errors import WMTPError
from wmtp.registry import did_you_mean

Prompt = Literal["own", "published", "stripped", "3-shot", "docstring", "instruct"]
Extraction = Literal["none", "fenced"]

CODE_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a HumanEval completion ends (Chen et al. 2021, arXiv 2107.03374, section 2.1)."""


@dataclass(frozen=True)
class Protocol:
    """One task under one protocol.

    Attributes:
        name: what recipes and results call it.
        task: the benchmark.
        prompt: which of the task's prompts.
        temperatures: by k, where pass@k is looked for: the best of several is an oracle over temperature.
        samples: completions of each problem at each temperature.
        stop: strings that end a completion and are no part of it.
        extraction: what of a completion is executed: all of it, or the program in an answer with Markdown's fences.
        chat: whether the prompt is a user's message, put into the tokenizer's chat template.
        system: what the chat's system message says; None for no such message.
        top_p: nucleus that is sampled from.
        max_new_tokens: length of a completion at most.
        submissions: n of n@k.
        cpu_seconds, wall_seconds, memory_mib: of one program; seconds, MiB.
        output_mib: of one result, or of what a script writes beyond 16 times the size of what is expected.
        processes: that a program may start, threads included; scripts of contests start one for a deep recursion.
        split: of the benchmark, where it has several.
        limit: problems that are evaluated, from the first; None for all.
        start_date, end_date: of the contests whose problems are evaluated, both days included; None for no bound.
        changed: `key=value` of what a recipe sets otherwise.
    """

    name: str
    task: str
    prompt: Prompt
    temperatures: Mapping[int, tuple[float, ...]]
    samples: int = 1
    stop: tuple[str, ...] = ()
    extraction: Extraction = "none"
    chat: bool = False
    system: str | None = None
    top_p: float = 1.0
    max_new_tokens: int = 256
    submissions: tuple[int, ...] = ()
    cpu_seconds: float = 3.0
    wall_seconds: float = 30.0
    memory_mib: int = 512
    output_mib: int = 16
    processes: int = 0
    split: str = "test"
    limit: int | None = None
    start_date: str | None = None
    end_date: str | None = None
    changed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if max(self.k) > self.samples:
            raise WMTPError(
                f"pass@{max(self.k)} needs samples >= {max(self.k)}, not {self.samples} (protocol {self.name})"
            )
        if self.samples > 1 and 0 in self.all_temperatures:
            raise WMTPError("several samples at temperature 0 are all the same; set temperature above 0")
        if self.system is not None and not self.chat:
            raise WMTPError("system is a message of a chat; set chat=true too, or leave it out")

    @property
    def label(self) -> str:
        """The name, and what was changed."""
        return f"{self.name} (changed: {', '.join(self.changed)})" if self.changed else self.name

    @property
    def k(self) -> list[int]:
        """Every k of pass@k, ascending."""
        return sorted(self.temperatures)

    @property
    def all_temperatures(self) -> list[float]:
        """Every temperature, each once, ascending."""
        return sorted({t for group in self.temperatures.values() for t in group})

    def with_changes(self, changes: Mapping[str, Any]) -> "Protocol":
        """This protocol but for what a recipe sets; `changed` names what then differs.

        Args:
            changes: by key of the recipe's `evaluate`, without those that are not set. A new k takes the temperatures
                of the nearest smaller one, or else of the smallest.
        """
        temperatures = {k: self._temperatures_of(k) for k in sorted(set(changes.get("k", self.k)))}
        own = {field.name: getattr(self, field.name) for field in fields(self)} | {"k": self.k}
        alike = set(temperatures.values())
        own["temperature"] = list(*alike) if len(alike) == 1 else None
        listed = ("k", "temperature")
        wanted = {key: sorted(set(value)) if key in listed else value for key, value in changes.items()}
        differing = {key: value for key, value in wanted.items() if value != own[key]}
        if not differing:
            return self
        if "temperature" in differing:
            temperatures = dict.fromkeys(temperatures, tuple(differing["temperature"]))
        kept: dict[str, Any] = {key: value for key, value in differing.items() if key not in listed}
        changed = tuple(f"{key}={_shown(value)}" for key, value in differing.items())
        return replace(self, **kept, temperatures=temperatures, changed=changed)

    def _temperatures_of(self, k: int) -> tuple[float, ...]:
        smaller = [known for known in self.k if known <= k]
        return self.temperatures[max(smaller) if smaller else min(self.k)]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return value_text(value[0]) if len(value) == 1 else f"[{', '.join(map(value_text, value))}]"
    return value_text(value)


def value_text(value: object) -> str:
    """A number as short as it goes: 0.8, 3, 1000."""
    return f"{value:g}" if isinstance(value, float) else str(value)


GREEDY: Mapping[int, tuple[float, ...]] = {1: (0.0,)}
_LOW, _HIGH = (0.1, 0.2), (0.5, 0.6, 0.7, 0.8, 0.9)

ABOUT = {
    "tinycode-greedy": "one greedy completion, from the one-line prompt of the training data",
    "greedy": "one greedy completion, from a task's only prompt",
    "lm-eval": "lm-evaluation-harness: greedy; MBPP from three solved problems",
    "bigcode": "bigcode-evaluation-harness: sampled; MBPP from a docstring with one test",
    "humaneval-paper": "Chen et al. 2021: pass@1 at temperature 0.2, pass@10 and pass@100 at 0.8, of 200 samples",
    "mbpp-paper": "Austin et al. 2021: 80 samples at temperature 0.5, from three solved problems",
    "meta-mtp": "Gloeckle et al. 2024: the best of several temperatures for each k (an oracle)",
    "chat": "for instruct models: one greedy answer to a chat message; its fenced code is executed",
    "evalplus": "EvalPlus: one greedy completion of the prompt in its file",
    "codecontests": "100 samples of a script, from the statement as a docstring",
    "livecodebench": "Jain et al. 2024: 10 samples at temperature 0.2, from the question and how to answer",
}
"""What each protocol is, in a line."""

EVALPLUS_STOPS = ("\nif __name__", "\ndef main(", "\nprint(")
_PLUS_SECONDS = 20.0
"""Of a program of HumanEval+ or MBPP+, for all inputs together: several published solutions take 2 to 4 s."""
_PLUS_OUTPUT_MIB = 64
"""The results of three problems of HumanEval+ are larger than 1 MiB."""
_MBPP_SECONDS = 6.0
"""Of an MBPP program: the published solution of problem 123 takes 2 to 3 s, by how busy the machine is."""

_PROTOCOLS = [
    Protocol("tinycode-greedy", "tinycode", "own", GREEDY),
    # EleutherAI/lm-evaluation-harness, lm_eval/tasks/{mbpp,humaneval}/*.yaml
    Protocol("lm-eval", "mbpp", "3-shot", GREEDY, stop=("[DONE]",), cpu_seconds=_MBPP_SECONDS),
    Protocol("lm-eval", "humaneval", "published", GREEDY, stop=CODE_STOPS, max_new_tokens=1024),
    # bigcode-project/bigcode-evaluation-harness, bigcode_eval/tasks/{mbpp,humaneval}.py and docs/README.md
    Protocol(
        "bigcode",
        "mbpp",
        "docstring",
        {1: (0.1,)},
        samples=15,
        stop=("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
        top_p=0.95,
        max_new_tokens=512,
        cpu_seconds=_MBPP_SECONDS,
    ),
    Protocol(
        "bigcode",
        "humaneval",
        "stripped",
        {1: (0.2,), 10: (0.2,), 100: (0.2,)},
        samples=200,
        stop=("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
        top_p=0.95,
        max_new_tokens=512,
    ),
    Protocol(
        "chat",
        "mbpp",
        "instruct",
        GREEDY,
        extraction="fenced",
        chat=True,
        max_new_tokens=1024,
        cpu_seconds=_MBPP_SECONDS,
    ),
    Protocol("chat", "humaneval", "instruct", GREEDY, extraction="fenced", chat=True, max_new_tokens=1024),
    # evalplus/evalplus, evalplus/provider/{base,utility}.py
    Protocol(
        "evalplus",
        "humanevalplus",
        "published",
        GREEDY,
        stop=(*EVALPLUS_STOPS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "),
        max_new_tokens=768,
        cpu_seconds=_PLUS_SECONDS,
        wall_seconds=60.0,
        memory_mib=1024,
        output_mib=_PLUS_OUTPUT_MIB,
    ),
    Protocol(
        "evalplus",
        "mbppplus",
        "docstring",
        GREEDY,
        stop=(*EVALPLUS_STOPS, '\n"""', "\nassert"),
        max_new_tokens=768,
        cpu_seconds=_PLUS_SECONDS,
        wall_seconds=60.0,
        memory_mib=1024,
        output_mib=_PLUS_OUTPUT_MIB,
    ),
    # arXiv 2107.03374, sections 2.1 and 3.2 to 3.4
    Protocol(
        "humaneval-paper",
        "humaneval",
        "published",
        {1: (0.2,), 10: (0.8,), 100: (0.8,)},
        samples=200,
        stop=CODE_STOPS,
        top_p=0.95,
        max_new_tokens=512,
    ),
    # arXiv 2108.07732, sections 2.1 and 4
    Protocol(
        "mbpp-paper",
        "mbpp",
        "3-shot",
        {1: (0.5,), 80: (0.5,)},
        samples=80,
        stop=("[DONE]",),
        max_new_tokens=512,
        cpu_seconds=_MBPP_SECONDS,
    ),
    Protocol(
        "codecontests",
        "codecontests",
        "docstring",
        {1: (0.8,), 10: (0.8,), 100: (0.8,)},
        samples=100,
        stop=('\n"""',),
        top_p=0.95,
        max_new_tokens=1024,
        submissions=(1, 10),
        cpu_seconds=10.0,
        wall_seconds=60.0,
        memory_mib=1024,
        processes=1,
    ),
    # LiveCodeBench/LiveCodeBench, lcb_runner/runner/parser.py, evaluation/ and prompts/code_generation.py
    Protocol(
        "livecodebench",
        "livecodebench",
        "published",
        {1: (0.2,), 5: (0.2,), 10: (0.2,)},
        samples=10,
        stop=("###",),
        extraction="fenced",
        top_p=0.95,
        max_new_tokens=2000,
        cpu_seconds=6.0,
        wall_seconds=60.0,
        memory_mib=1024,
        processes=1,
    ),
    # arXiv 2404.19737, section 3.1 and appendix F, whose list of temperatures it is. The paper does not word its
    # prompts; these are the usual ones.
    Protocol(
        "meta-mtp",
        "mbpp",
        "3-shot",
        {1: _LOW, 10: _HIGH, 100: _HIGH},
        samples=200,
        stop=("[DONE]",),
        top_p=0.95,
        max_new_tokens=512,
        cpu_seconds=_MBPP_SECONDS,
    ),
    Protocol(
        "meta-mtp",
        "humaneval",
        "published",
        {1: _LOW, 10: _HIGH, 100: _HIGH},
        samples=200,
        stop=CODE_STOPS,
        top_p=0.95,
        max_new_tokens=512,
    ),
    Protocol(
        "meta-mtp",
        "codecontests",
        "docstring",
        {1: _HIGH, 10: _HIGH, 100: _HIGH, 1000: _HIGH},
        samples=1000,
        stop=('\n"""',),
        max_new_tokens=1024,
        submissions=(1, 10),
        cpu_seconds=10.0,
        wall_seconds=60.0,
        memory_mib=1024,
        processes=1,
    ),
]

PROTOCOLS: dict[str, dict[str, Protocol]] = {}
"""By task, in order: the first is the one that a task has unless another is named."""
for _protocol in _PROTOCOLS:
    PROTOCOLS.setdefault(_protocol.task, {})[_protocol.name] = _protocol


def find_protocol(task: str, name: str | None) -> Protocol:
    """A task's protocol of that name, or its first; `greedy` is the only one of a task that is not built in.

    Raises:
        WMTPError: the task has no such protocol.
    """
    known = PROTOCOLS.get(task) or {"greedy": Protocol("greedy", task, "own", GREEDY)}
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise WMTPError(f"protocol {name!r}: not one of task {task!r}; {did_you_mean(name, list(known))}")
    return known[name]


def result_name(task: str, protocol: str) -> str:
    """What files of a result are called: the task, and the protocol where it is not the task's first.

    Args:
        protocol: a name, or a label with changes.
    """
    name = protocol.partition(" ")[0]
    return task if name == find_protocol(task, None).name else f"{task}-{name}"
