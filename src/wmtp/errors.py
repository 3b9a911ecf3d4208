"""The error for mistakes that the user can fix, and one-line descriptions of other errors."""

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
    """A user's mistake, as one line: what is wrong, where (file and key), and what would be right.

    The command line prints it without a traceback and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """First line of an error's message; its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def joined_lines(error: BaseException) -> str:
    """An error's whole message, on one line."""
    return " ".join(str(error).split())


def type_and_message(error: BaseException) -> str:
    """An error's type and whole message, on one line, for errors from other people's code."""
    return f"{type(error).__name__}: {joined_lines(error)}".strip().removesuffix(":")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the host or on a GPU (torch raises a RuntimeError), in Python or below it."""
    if isinstance(error, MemoryError):
        return True
    text = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS_OF_NO_MEMORY)
