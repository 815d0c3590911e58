"""How much a command says, and where: -v, -q and --log-file, which stand anywhere on the line of every command."""

import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from coinseg.errors import UserError

HEAD = "coinseg log\n"
"""The first line of a log; nothing is added to a file that has another one."""
VERBOSE, QUIET, LOG_FILE = ("-v", "--verbose"), ("-q", "--quiet"), "--log-file"


@dataclass(frozen=True)
class Talk:
    """`level` is -1 (quiet), 0 or 1 (verbose); `log` is a file that everything said is added to, or None."""

    level: int = 0
    log: Path | None = None


def parted(words: Sequence[str]) -> tuple[list[str], Talk]:
    """Take these options out of a command line.

    Raises:
        UserError: both are given, or no file behind --log-file.
    """
    rest: list[str] = []
    levels, log, coming = set(), None, list(words)
    while coming:
        word = coming.pop(0)
        if word in (*VERBOSE, *QUIET):
            levels.add(1 if word in VERBOSE else -1)
        elif word == LOG_FILE or word.startswith(f"{LOG_FILE}="):
            value = word.partition("=")[2] if "=" in word else (coming.pop(0) if coming else "")
            if not value or value.startswith("-"):
                raise UserError(f"{LOG_FILE} was given without a file", "a file behind it", "name one")
            log = Path(value)
        else:
            rest.append(word)
    if len(levels) > 1:
        raise UserError("-v and -q were given", "one of the two", "leave one out")
    return rest, Talk(next(iter(levels), 0), log)


@contextmanager
def talking(talk: Talk, command: str) -> Iterator[None]:
    """Send what the library logs to the standard error (warnings; with -v everything), and to the log.

    Raises:
        UserError: the log is no log of coinseg, or cannot be written.
    """
    logger = logging.getLogger("coinseg")
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.DEBUG if talk.level > 0 else logging.WARNING)
    console.setFormatter(logging.Formatter("coinseg: %(message)s"))
    console.addFilter(lambda record: record.name != SAID.name)
    handlers: list[logging.Handler] = [console]
    if talk.log is not None:
        handlers.append(_file(talk.log))
    before = logger.level
    logger.setLevel(logging.DEBUG)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        SAID.info("coinseg %s, Python %s, %s: %s", version("coinseg"), platform.python_version(), sys.platform, command)
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(before)


SAID = logging.getLogger("coinseg.said")
"""For what was said already where people look: it goes to the log alone."""


def _file(path: Path) -> logging.Handler:
    if path.exists():
        start = b"?"
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(len(HEAD))
        if start not in (HEAD.encode(), b""):
            raise UserError(f"{path} is no log of coinseg", "a new file, or an earlier log", f"choose another {LOG_FILE}")
    new = not path.exists() or path.stat().st_size == 0
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="replace")
    if new and handler.stream:
        handler.stream.write(HEAD)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s"))
    handler.setLevel(logging.DEBUG)
    return handler
