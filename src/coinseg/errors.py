"""The one exception a user is meant to read, and what a command ends with.

Everything a user can cause (a missing folder, a corrupt file, an unknown setting) is raised as `UserError`
with one line that says what was got, what is required and what to do. The command line prints that line and
exits with code 2; so it does for what the system refuses (`OSError`: a full disk, an input that is gone) and for memory that
does not suffice. Any other exception is a defect of coinseg.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_DONE, EXIT_DEFECT, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED = 0, 1, 2, 130, 141, 143
"""What the command line returns; the last three are 128 + SIGINT, SIGPIPE (its reader went away) and SIGTERM, as the shell has it."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENXIO)
AGAIN = "give the same command again"


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


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Python has `KeyboardInterrupt` for Ctrl-C."""


def exit_code(error: BaseException | None) -> int:
    """The exit code a command ends with: of what stopped it, or of None for a good end."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, KeyboardInterrupt):
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return EXIT_PIPE
    refused = isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None)
    return EXIT_USER if refused or out_of_memory(error) else EXIT_DEFECT


def one_line(error: BaseException) -> str:
    """What a person is told of an error."""
    if isinstance(error, KeyboardInterrupt):
        word = "ended by SIGTERM" if isinstance(error, Terminated) else "interrupted"
        return f"{word}; the same command goes on from where it was"
    if isinstance(error, UserError):
        return str(error)
    if out_of_memory(error):
        do = "lower data.size, classifier.batch, coin.batch or attribution.batch, or close other programs"
        return str(UserError(f"out of memory ({_first_line(error)})", "room for what is worked on at a time", do))
    if isinstance(error, OSError) and exit_code(error) == EXIT_USER:
        return str(_refused_by_the_system(error))
    return plain(f"{type(error).__name__}: {error}")


def _refused_by_the_system(error: OSError) -> UserError:
    if error.errno == errno.ENAMETOOLONG:
        longest = max(map(len, str(error.filename).split(os.sep)))
        return UserError(f"a name of {longest} characters", "one that a disk can hold", "shorten it")
    place = " to ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    got = f"{error.strerror or error}{f' ({place})' if place else ''}"
    if error.errno in FULL:
        return UserError(got, "room on the disk", f"free some or choose another output, then {AGAIN}")
    if error.errno in LOCKED:
        return UserError(got, "inputs that may be read and an output that may be written", f"mend that, then {AGAIN}")
    if error.errno in GONE:
        return UserError(got, "inputs and an output that stay where they are", f"put it back, then {AGAIN}")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return UserError(got, "more open files", f"raise `ulimit -n`, then {AGAIN}")
    return UserError(got, "a disk that works and names it can hold", f"mend that, then {AGAIN}")


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, says that nothing more can be written to the disk."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, *LOCKED)
    return error is not None and is_full(error.__cause__)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: Python's, NumPy's, torch's on a GPU or on the CPU, or the system's."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # By its name and its words, because torch is not imported here; on the CPU it raises a plain RuntimeError.
    words = ("DefaultCPUAllocator", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    said = str(error) if isinstance(error, RuntimeError) else ""
    return type(error).__name__ == "OutOfMemoryError" or any(word in said for word in words)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


@contextmanager
def memory_for(setting: str) -> Iterator[None]:
    """Say which setting to lower when the memory does not suffice for a training step."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        got = f"out of memory in training ({_first_line(error)})"
        raise UserError(got, "room for one step", f"lower {setting} or data.size") from error
