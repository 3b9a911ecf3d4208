"""The error that means: the user can put this right; and what other errors say in a line."""

_SIGNS_OF_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "alloc_failed",
    "outofmemoryerror",
)


class WMTPError(ValueError):
    """A mistake in what was asked, as one line: what is wrong, where (file and key), what would be right.

    The command line prints it without a traceback and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """What went wrong, without what follows the first line; the type of an error that says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def joined_lines(error: BaseException) -> str:
    """All that an error says, on one line."""
    return " ".join(str(error).split())


def type_and_message(error: BaseException) -> str:
    """The type of an error and all that it says, on one line: for errors of other people's code."""
    return f"{type(error).__name__}: {joined_lines(error)}".strip().removesuffix(":")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the host or on a GPU (torch raises a RuntimeError), in Python or below it."""
    if isinstance(error, MemoryError):
        return True
    text = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS_OF_NO_MEMORY)
