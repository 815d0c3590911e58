"""Ctrl-C and SIGTERM: what must be finished is, once; the next signal ends at once.

A training is `patient`: the first signal only asks, and is obeyed when the step is done and its checkpoint is written. Everywhere
else, and for the second signal, the signal is raised where the program stands. One more and the system ends the process.
kill -9 leaves nothing behind that the others would not (docs/decisions/0006-nothing-lost.md); they are kinder to open work.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from coinseg.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Heard:
    """The signal that waits to be obeyed, and how many patient ones are at work."""

    signal: KeyboardInterrupt | None = None
    patient = 0


@contextmanager
def signals_heard() -> Iterator[None]:
    """Take both signals while the block runs; one that the caller ignores (nohup, a shell's background job) stays ignored.

    Where this is not the main thread nothing is taken, as Python has it.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _take)
    try:
        yield
    finally:
        _Heard.signal, _Heard.patient = None, 0
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def patient() -> Iterator[None]:
    """While the block runs a first signal only asks (`asked`)."""
    _Heard.patient += 1
    try:
        yield
    finally:
        _Heard.patient = max(0, _Heard.patient - 1)


def asked() -> bool:
    """Whether a signal waits to be obeyed."""
    return _Heard.signal is not None


def obey() -> None:
    """Raise the signal that waits, if any: `KeyboardInterrupt`, or `Terminated` of SIGTERM."""
    if _Heard.signal is not None:
        raise _Heard.signal


def _take(number: int, frame: FrameType | None) -> None:
    heard = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if _Heard.patient and _Heard.signal is None:
        _Heard.signal = heard
        return
    for each in SIGNALS:
        if signal.getsignal(each) is _take:
            signal.signal(each, signal.SIG_DFL)
    raise heard
