"""Removes what a program leaves in its directory."""

import errno
import os
import secrets


def remove_tree(top: str) -> None:
    """Remove a directory that resists: unreadable, nested beyond what paths can name, or replaced by a link.

    Directories inside directories are moved up to the top until there are none.
    """
    while True:
        try:
            os.rmdir(top)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            os.unlink(top)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            os.chmod(top, 0o700)
        else:
            return
        for entry in list(os.scandir(top)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)
                    os.rename(inner.path, os.path.join(top, secrets.token_hex(16)))
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)
