"""Which scorer a recipe means, also in the keys of before, when settings were in sections beside `train`."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wmtp.config.base import on_a_line
from wmtp.errors import WMTPError, one_line
from wmtp.registry import did_you_mean

ALGORITHMS = {"mtp-baseline": "uniform", "rho1-wmtp": "rho1-excess-v1", "critic-wmtp": "critic-delta-v1"}
"""What `train.algo` said, to the scorer that it trained with."""
SECTIONS = {
    "rho1": ("rho1-excess-v1", ["excess", "percentile_top_p"]),
    "entropy": ("entropy-v1", ["prefer"]),
    "grad_norm": ("grad-norm-v1", ["smoothing"]),
    "grpo": ("grpo-v1", ["clip"]),
    "learned": ("learned-v1", ["clean", "rows", "hidden", "lr"]),
}
"""Sections of before: whose settings they held, and which."""
RENAMED = {
    "train.algo": "scorer.name",
    "train.scorer": "scorer.name",
    "rho1.percentile_top_p": "loss.top_p",
    "blend": "scorer.parts",
    **dict.fromkeys(SECTIONS, "scorer"),
}

Path = tuple[str, ...]
Change = tuple[Path, Any]
"""The parts of a key, and the value that it gets."""


def current_key(key: str) -> str:
    """What a dotted key of before is called now; any other is called as ever."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def concerns_scorer(key: str) -> bool:
    """Whether a dotted key is one that `ScorerChoice` reads."""
    return key.split(".")[0] == "scorer" or current_key(key) != key


class ScorerChoice:
    """The scorer and its settings, read layer by layer of a recipe; what is read later goes before.

    Settings are kept by scorer: one that is named later has those that were given for it, and no other's.
    """

    def __init__(self) -> None:
        self.top_p: Any = None
        self.old_keys: dict[str, str | None] = {}
        """Keys of before that were read, to the scorer that they set something of; None: to none in particular."""
        self._name: Any = None
        self._algorithm = "uniform"
        self._settings: dict[str, dict[str, Any]] = {}
        self._of_sections: dict[str, dict[str, Any]] = {}

    def read(self, layer: Iterable[Change], where: str) -> None:
        """Take what a layer says, whatever else it holds.

        Raises:
            WMTPError: it says two things of one, or sets what was no setting before.
        """
        layer = list(_expanded(layer))
        now = {path[1:] or ("name",): value for path, value in layer if path[0] == "scorer"}
        before = [(path, v) for path, v in layer if path[0] != "scorer" and concerns_scorer(".".join(path))]
        if not now.get(("name",), True):
            raise WMTPError(f"{where}: scorer: should name a scorer, not {now['name',]!r}")
        self._name = self._named(now.pop(("name",), None), before, where) or self._name
        for path, value in before:
            if path[0] != "train":
                self._take_old(path, value, now, where)
        if self.name == "blend" and ("parts",) in now:
            self._leave_settings_behind(now["parts",])
        for path, value in now.items():
            _put(self._settings.setdefault(self.name, {}), path, value)

    @property
    def name(self) -> str:
        """Of the scorer."""
        return str(self._name or "uniform")

    def section(self) -> dict[str, Any]:
        """`scorer` as it is written now."""
        settings = copy.deepcopy(self._settings.get(self.name, {}))
        if self.name == "blend":
            for part in self._parts & self._of_sections.keys():
                given = settings.setdefault("settings", {})
                given[part] = self._of_sections[part] | given.get(part, {})
        return {"name": self._name or "uniform", **settings}

    def of_arm(self, overrides: Mapping[str, Any], where: str) -> tuple["ScorerChoice", dict[str, Any]]:
        """What the overrides of a recipe make of this choice, and those overrides in today's keys."""
        own = copy.deepcopy(self)
        own.old_keys = {}
        own.read(((tuple(str(key).split(".")), value) for key, value in overrides.items()), where)
        today = {key: value for key, value in overrides.items() if not concerns_scorer(str(key))}
        today |= {"loss.top_p": own.top_p} if own.top_p != self.top_p else {}
        return own, today | {"scorer": own.section()} if len(today) < len(overrides) else today

    def uses(self, scorer: str | None) -> bool:
        """Whether it is that scorer, or a mixture with it."""
        return scorer in (None, self.name) or scorer in self._parts

    @property
    def _parts(self) -> set[str]:
        parts = self._settings.get("blend", {}).get("parts")
        return set(parts) if self.name == "blend" and isinstance(parts, dict) else set()

    def _named(self, name: Any, before: list[Change], where: str) -> Any:
        name = _resolved(name, where)
        old = {path[1]: _resolved(value, where) for path, value in before if path[0] == "train"}
        if "algo" in old:
            algo = str(old["algo"])
            if algo not in ALGORITHMS:
                raise WMTPError(
                    f"{where}: train.algo: unknown algo {algo!r}; {did_you_mean(algo, list(ALGORITHMS))}"
                )
            self._algorithm = ALGORITHMS[algo]
        meant = old.get("scorer") or self._algorithm if old else None
        if name and meant and name != meant:
            raise WMTPError(
                f"{where}: {' and '.join(f'train.{key}' for key in old)}: the scorer {meant}, but scorer.name is "
                f"{name}; keep scorer.name"
            )
        self.old_keys |= {f"train.{key}": None for key, value in old.items() if value is not None}
        return name or meant

    def _leave_settings_behind(self, parts: Any) -> None:
        """Forget what was set of the parts of a mixture that other parts take the place of."""
        blend = self._settings.get("blend", {})
        if isinstance(blend.get("settings"), dict) and isinstance(parts, dict):
            blend["settings"] = {name: own for name, own in blend["settings"].items() if name in parts}

    def _take_old(self, path: Path, value: Any, now: Mapping[Path, Any], where: str) -> None:
        scorer, key = "blend", ("parts", *path[1:])
        if path[0] != "blend":
            (scorer, known), key = SECTIONS[path[0]], path[1:]
            if not key:
                raise WMTPError(f"{where}: {path[0]}: should be settings, not {value!r}")
            if key[0] not in known:
                raise WMTPError(f"{where}: unknown key {'.'.join(path)!r}; {did_you_mean(key[0], known)}")
        if key == ("percentile_top_p",):
            self.top_p = value
            self.old_keys.pop(".".join(path), None)
            self.old_keys |= {} if value is None else {".".join(path): None}
            return
        if scorer == self.name and now.get(key, value) != value:
            raise WMTPError(
                f"{where}: {'.'.join(path)} is {value}, and scorer.{'.'.join(key)}, as it is called now, "
                f"{now[key]}; keep the latter"
            )
        self.old_keys[".".join(path[:2])] = scorer
        if path == ("blend",):
            self._leave_settings_behind(value)
        for settings in (self._settings, self._of_sections):
            _put(settings.setdefault(scorer, {}), key, value)
        if scorer in self._parts:
            _put(self._settings["blend"], ("settings", scorer, *key), value)


def drop_old_keys(values: dict[str, Any]) -> None:
    """Take the keys of before out of a recipe's values; a `ScorerChoice` has read them."""
    for section in (*SECTIONS, "blend"):
        values.pop(section, None)
    if isinstance(train := values.get("train"), dict):
        for key in ("algo", "scorer"):
            train.pop(key, None)


def arms_in_todays_keys(values: dict[str, Any], choice: ScorerChoice, where: str) -> dict[str, ScorerChoice]:
    """Put today's keys into the overrides of a comparison; what each of those that concern the scorer chooses."""
    found = {}
    compare = values.get("compare")
    compare = compare if isinstance(compare, dict) else {}
    arms = compare.get("arms")
    places = [(arms, name, f"compare.arms.{name}") for name in arms] if isinstance(arms, dict) else []
    for holder, name, key in [*places, (compare, "reference", "compare.reference")]:
        overrides = holder.get(name)
        if isinstance(overrides, dict) and any(concerns_scorer(str(key)) for key in overrides):
            found[key], holder[name] = choice.of_arm(overrides, f"{where}: {key}")
    return found


def refuse_unread(
    keys: Iterable[str], choice: ScorerChoice, arms: Iterable[ScorerChoice], where: str
) -> None:
    """Refuse to change a setting, by its key of before, of a scorer that neither recipe nor arms choose."""
    choices = [choice, *arms]
    for key in keys:
        for old, scorer in choice.old_keys.items():
            is_changed = old == key or old.startswith(f"{key}.") or key.startswith(f"{old}.")
            if is_changed and not any(one.uses(scorer) for one in choices):
                names = ", ".join(sorted({one.name for one in choices}))
                raise WMTPError(
                    f"{where}: {key} is a setting of the scorer {scorer}, and scorer.name is {names}"
                )


def what_became(choice: ScorerChoice, arms: Mapping[str, ScorerChoice]) -> str:
    """Of keys of before, those that matter and what stands for them now; nothing where there were none."""
    lines = []
    for key, chosen in {"": choice, **arms}.items():
        old = [k for k, scorer in chosen.old_keys.items() if chosen.uses(scorer)]
        top_p = {"loss": {"top_p": chosen.top_p}} if "rho1.percentile_top_p" in old else {}
        now = ({"scorer": chosen.section()} if len(old) > len(top_p) else {}) | top_p
        lines += [f"{key and f'{key}: '}{', '.join(old)}: now {on_a_line(now)[1:-1]}"] if old else []
    return "; ".join(lines)


def _expanded(layer: Iterable[Change]) -> Iterator[Change]:
    """Sections as their keys; a scorer that is a text is a name."""
    for path, value in layer:
        if path in (("train",), ("scorer",), *((name,) for name in SECTIONS)) and isinstance(value, Mapping):
            yield from (((*path, str(key)), inner) for key, inner in value.items())
        elif path != ("train",):
            yield path, value


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[path[-1]] = copy.deepcopy(value)


def _resolved(value: Any, where: str) -> Any:
    """A name that stands in the environment; other interpolations are resolved with the whole recipe."""
    try:
        return OmegaConf.create({"it": value}).it if isinstance(value, str) else value
    except OmegaConfBaseException as error:
        raise WMTPError(f"{where}: the scorer's name {value!r}: {one_line(error)}") from None
