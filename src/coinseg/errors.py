"""Errors that a user can correct, and the exit codes of the command line.

The command line prints one line and exits with code 2 for a `UserError`, for an `OSError` with a number (a full disk, a missing
input) and when memory runs out. Any other exception is a defect of coinseg.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_DONE, EXIT_DEFECT, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED = 0, 1, 2, 130, 141, 143
"""Exit codes; as in a shell the last three are 128 + SIGINT, SIGPIPE (the reader of a pipe is gone) and SIGTERM."""
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENXIO)
_ADVICE = (
    ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "room on the disk", "free some or choose another output"),
    (LOCKED, "inputs that may be read and an output that may be written", "mend that"),
    (_GONE, "inputs and an output that stay where they are", "put it back"),
    ((errno.EMFILE, errno.ENFILE), "more open files", "raise `ulimit -n`"),
)
"""What the system requires and what to do, by error number."""
AGAIN = "give the same command again"
EXTRAS = {
    "dicom": ("DICOM in, DICOM SEG out", ("pydicom", "highdicom", "gdcm", "openjpeg", "jpeg_ls", "pylibjpeg")),
    "itk": ("NRRD and MetaImage (.nrrd, .mha, .mhd)", ("SimpleITK",)),
    "attribution": ("class activation maps (method layercam and its family)", ("pytorch_grad_cam",)),
    "timm": ("classifiers by their names in timm (classifier.name resnet18)", ("timm",)),
    "fid": ("the Frechet inception distance of reproduce", ("torch_fidelity",)),
    "tensorboard": ("event files for TensorBoard", ("tensorboard",)),
    "onnx": ("export --onnx", ("onnx", "onnxruntime", "onnxscript")),
    "review": ("the desk of coinseg review", ("starlette", "uvicorn")),
}
"""Extras of the package in pyproject.toml: what they are for, and the modules they bring."""


def plain(text: str, most: int = 2000) -> str:
    """Make text from data safe for a terminal or a log: one line without escape sequences, of about `most` characters at most."""
    shown = text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in shown)


class UserError(Exception):
    """A problem that the user can correct: what was found (with its path or value), what is required instead, what to do."""

    def __init__(self, got: str, required: str, do: str) -> None:
        self.got, self.required, self.do = got, required, do
        super().__init__("; ".join(map(plain, (got, f"required: {required}", do))))


def missing_extra(error: BaseException | None) -> UserError | None:
    """The error in the user's words where a module of an extra is not installed; None for everything else."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, (_, modules) in EXTRAS.items() if module in modules), None)
    if extra is None:
        return None
    return UserError(
        f"{module} is not installed", f"the extra {extra}, for {EXTRAS[extra][0]}", f"pip install 'coinseg[{extra}]'"
    )


class Terminated(KeyboardInterrupt):
    """The program received SIGTERM; Ctrl-C raises `KeyboardInterrupt`."""


def exit_code(error: BaseException | None) -> int:
    """Return the exit code for the exception that ended a command; None stands for success."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, KeyboardInterrupt):
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return EXIT_PIPE
    refused = (
        isinstance(error, UserError)
        or missing_extra(error) is not None
        or (isinstance(error, OSError) and error.errno is not None)
        or _is_loop(error)
    )
    return EXIT_USER if refused or out_of_memory(error) else EXIT_DEFECT


def one_line(error: BaseException) -> str:
    """Describe an error in the one line that the command line prints."""
    if isinstance(error, KeyboardInterrupt):
        word = "ended by SIGTERM" if isinstance(error, Terminated) else "interrupted"
        return f"{word}; the same command goes on from where it was"
    if isinstance(error, UserError):
        return str(error)
    if (missing := missing_extra(error)) is not None:
        return str(missing)
    if _is_loop(error):
        return str(UserError(str(error), "links that lead somewhere", "mend or remove them"))
    if out_of_memory(error):
        do = "lower data.size, classifier.batch, coin.batch or attribution.batch, or close other programs"
        return str(UserError(f"out of memory ({first_line(error)})", "room for what is worked on at a time", do))
    if isinstance(error, OSError) and exit_code(error) == EXIT_USER:
        return str(_refused_by_the_system(error))
    return plain(f"{type(error).__name__}: {error}")


def _is_loop(error: BaseException | None) -> bool:
    """Whether an error is that of pathlib for links that lead in a circle (a plain RuntimeError before Python 3.13)."""
    return isinstance(error, RuntimeError) and str(error).startswith("Symlink loop")


def _refused_by_the_system(error: OSError) -> UserError:
    if error.errno == errno.ENAMETOOLONG:
        longest = max(str(error.filename).split(os.sep), key=len)
        return UserError(f"a name of {len(longest)} characters ({longest[:20]}...)", "one that a disk can hold", "shorten it")
    names = " to ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    other = ((), "a disk that works and names it can hold", "mend that")
    _, required, do = next((row for row in _ADVICE if error.errno in row[0]), other)
    return UserError(f"{error.strerror or error}{f' ({names})' if names else ''}", required, f"{do}, then {AGAIN}")


@contextmanager
def names_that_fit() -> Iterator[None]:
    """Raise `UserError` in the place of the `OSError` for a name that no disk can hold, which tables and settings may have."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise _refused_by_the_system(error) from error


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, means that nothing more can be written to the disk."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, *LOCKED)
    return error is not None and is_full(error.__cause__)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, NumPy, torch (GPU or CPU) or the system means that memory ran out."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch is not imported here, so its errors are known by name and text; on the CPU it raises a plain RuntimeError.
    words = ("DefaultCPUAllocator", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    return type(error).__name__ == "OutOfMemoryError" or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))


def first_line(error: BaseException) -> str:
    """Describe an error of somebody else's code by its type and the first line of its text, cut at 160 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


@contextmanager
def memory_for(setting: str) -> Iterator[None]:
    """Raise a `UserError` that names the setting to lower when a training step runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        got = f"out of memory in training ({first_line(error)})"
        raise UserError(got, "room for one step", f"lower {setting} or data.size") from error


@contextmanager
def muted(logger: logging.Logger) -> Iterator[None]:
    """Keep a library from logging what the caller says in a line of its own."""
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
