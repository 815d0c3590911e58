"""Ctrl-C and SIGTERM: in a `patient` block the first one waits until the step is done and its checkpoint is written.

The second signal, and every signal elsewhere, is raised where the program stands (docs/decisions/0006-nothing-lost.md).
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
    """Handle both signals in the main thread while the block runs; a signal that the caller ignores (nohup) stays ignored."""
    here = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, _on_signal) for number in here if signal.getsignal(number) is not signal.SIG_IGN}
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
