"""The one exception a user is meant to read.

Everything a user can cause (a missing folder, a corrupt file, an unknown setting) is raised as `UserError`
with one line that says what was got, what is required and what to do. The command line prints that line and
exits with code 2; any other exception is a defect of coinseg.
"""

from __future__ import annotations

import errno
import os

EXIT_DONE, EXIT_DEFECT, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141
"""What the command line returns; 141 where the reader of its output went away (128 + SIGPIPE, as the shell has it)."""


def plain(text: str, most: int = 2000) -> str:
    """Text for a terminal or a log: names and cells of somebody's data can bring neither lines nor escape sequences, nor fill it."""
    shown = text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in shown)


class UserError(Exception):
    """A problem with the input or the settings, worded for the person who can mend it.

    Args:
        got: what was found, with the path or value in it.
        required: what coinseg needs instead.
        do: the next step for the user.
    """

    def __init__(self, got: str, required: str, do: str) -> None:
        self.got, self.required, self.do = got, required, do
        super().__init__("; ".join(map(plain, (got, f"required: {required}", do))))


def exit_code(error: BaseException | None) -> int:
    """The exit code a command ends with: of what stopped it, or of None for a good end."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return EXIT_PIPE
    # A full or read-only disk is the user's to mend.
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG)
    return EXIT_USER if full or isinstance(error, UserError) else EXIT_DEFECT


def one_line(error: BaseException) -> str:
    """What a person is told of an error."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on from the last checkpoint"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        longest = max(map(len, str(error.filename).split(os.sep)))
        return f"a name of {longest} characters; required: one that a disk can hold; shorten it"
    if isinstance(error, OSError) and exit_code(error) == EXIT_USER:
        return plain(
            f"{error.strerror} ({error.filename}); required: a writable disk with room; free some space or choose another output"
        )
    return str(error) if isinstance(error, UserError) else plain(f"{type(error).__name__}: {error}")
