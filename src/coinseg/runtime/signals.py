"""Ctrl-C and SIGTERM: the first signal lets a training finish its step, the second one ends it at once.

In a `patient` block the first signal waits until the step is done and its checkpoint is written. The second signal, and every
signal elsewhere, is raised where the program stands; after that the system ends the process. kill -9 leaves no other files behind
(docs/decisions/0006-nothing-lost.md), but loses the open step.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from coinseg.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """The waiting signal, and the number of open `patient` blocks."""

    signal: KeyboardInterrupt | None = None
    patient = 0


@contextmanager
def signals_heard() -> Iterator[None]:
    """Handle both signals while the block runs, in the main thread only, as Python requires.

    A signal that the caller ignores (nohup, a background job of a shell) stays ignored.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        _State.signal, _State.patient = None, 0
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def patient() -> Iterator[None]:
    """Let the first signal wait (`asked`) while the block runs."""
    _State.patient += 1
    try:
        yield
    finally:
        _State.patient = max(0, _State.patient - 1)


def asked() -> bool:
    """Return whether a signal waits."""
    return _State.signal is not None


def obey() -> None:
    """Raise the waiting signal, if any: `KeyboardInterrupt`, or `Terminated` for SIGTERM."""
    if _State.signal is not None:
        raise _State.signal


def _on_signal(number: int, frame: FrameType | None) -> None:
    error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if _State.patient and _State.signal is None:
        _State.signal = error
        return
    for each in SIGNALS:
        if signal.getsignal(each) is _on_signal:
            signal.signal(each, signal.SIG_DFL)
    raise error
