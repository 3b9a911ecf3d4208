"""The error that means: the user can put this right."""


class WMTPError(ValueError):
    """A mistake in what was asked, as one line: what is wrong, where (file and key), what would be right.

    The command line prints it without a traceback and exits with status 2.
    """
