"""The error that means: the user can put this right; and what other errors say in a line."""


class WMTPError(ValueError):
    """A mistake in what was asked, as one line: what is wrong, where (file and key), what would be right.

    The command line prints it without a traceback and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """What went wrong, without what follows the first line; the type of an error that says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
