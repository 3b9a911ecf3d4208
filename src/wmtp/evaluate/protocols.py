"""How a benchmark is prompted, decoded and judged, by the name that the results carry.

Numbers compare only under the same protocol. The facts of each are public: the papers named below and the task files
of two harnesses. Three things differ throughout, so that a problem is tested in the same way everywhere: line ends
are "\\n", an MBPP problem's setup runs before its tests, and limits are in processor seconds, not wall-clock ones.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from wmtp.config import Extraction
from wmtp.errors import WMTPError


@dataclass(frozen=True)
class Protocol:
    """One way to prompt for, sample and execute a task's answers.

    Attributes:
        name: what recipes and results call it.
        prompt: which of the task's prompts; `own` where it has one.
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
        task: the benchmark, as recipes call it; known where the protocol was looked up.
        about: what it is, in a line.
    """

    name: str
    prompt: str = "own"
    temperatures: Mapping[int, tuple[float, ...]] = field(default_factory=lambda: {1: (0.0,)})
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
    task: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        if max(self.k) > self.samples:
            raise WMTPError(
                f"evaluate.k: pass@{max(self.k)} needs samples >= {max(self.k)}, not {self.samples} "
                f"(protocol {self.name})"
            )
        if self.samples > 1 and 0 in self.all_temperatures:
            raise WMTPError(
                "evaluate.samples: several samples at temperature 0 are all the same; set temperature above 0"
            )
        if self.system is not None and not self.chat:
            raise WMTPError("evaluate.system is a message of a chat; set chat=true too, or leave it out")

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

    def as_values(self) -> dict[str, Any]:
        """What results say of it: all but `about`, which is no setting."""
        return {name: value for name, value in asdict(self).items() if name != "about"}

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


@dataclass(frozen=True)
class TaskSettings:
    """What of a recipe's `evaluate` a task takes.

    Attributes:
        protocols: by which it can be evaluated; the first one unless another is named.
        splits: that it is divided into. Where the recipe names none, the protocol's, which is `test` unless it says
            otherwise; the first one where that is none of them.
        reads_data: whether `evaluate.data` is the file of its problems.
        has_dates: whether its problems have dates, so that `start_date` and `end_date` choose among them.
    """

    protocols: tuple[Protocol, ...]
    splits: tuple[str, ...] = ()
    reads_data: bool = True
    has_dates: bool = False


# What several tasks share of a protocol. Each task adds its prompt, where an answer ends, and its limits.

GREEDY = Protocol("greedy", about="one greedy completion, from a task's only prompt")

LM_EVAL = Protocol("lm-eval", about="lm-evaluation-harness: greedy; MBPP from three solved problems")
"""EleutherAI/lm-evaluation-harness, lm_eval/tasks/{mbpp,humaneval}/*.yaml."""

BIGCODE = Protocol(
    "bigcode",
    top_p=0.95,
    max_new_tokens=512,
    about="bigcode-evaluation-harness: sampled; MBPP from a docstring with one test",
)
"""bigcode-project/bigcode-evaluation-harness, bigcode_eval/tasks/{mbpp,humaneval}.py and docs/README.md."""

CHAT = Protocol(
    "chat",
    "instruct",
    extraction="fenced",
    chat=True,
    max_new_tokens=1024,
    about="for instruct models: one greedy answer to a chat message; its fenced code is executed",
)

_LOW, HIGH = (0.1, 0.2), (0.5, 0.6, 0.7, 0.8, 0.9)
META_MTP = Protocol(
    "meta-mtp",
    temperatures={1: _LOW, 10: HIGH, 100: HIGH},
    samples=200,
    top_p=0.95,
    max_new_tokens=512,
    about="Gloeckle et al. 2024: the best of several temperatures for each k (an oracle)",
)
"""arXiv 2404.19737, section 3.1 and appendix F, whose list of temperatures it is. The paper does not word its
prompts; these are the usual ones."""
