"""Entry points that tests call in a program: a function, or a method of a class."""


def is_entry_point(name: str) -> bool:
    """Whether this names a function (`f`) or a method (`Solution.f`)."""
    return all(part.isidentifier() for part in name.split("."))


def as_function(entry_point: str) -> tuple[str, str]:
    """How tests call a program's entry point.

    Args:
        entry_point: `f`, or `Solution.f`: the method of a new object for each call.

    Returns:
        Name of a function, and the code behind the program that defines it; empty where the program itself does.
    """
    owner, dot, method = entry_point.rpartition(".")
    if not dot:
        return entry_point, ""
    name = entry_point.replace(".", "_")
    return name, f"\n\ndef {name}(*args, **kwargs):\n    return {owner}().{method}(*args, **kwargs)\n"
