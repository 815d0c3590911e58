"""The size that a run takes where nobody says one, and the time that it may take."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coinseg.errors import UserError, plain

from .command import Call

UNITS = {"": 1, "m": 1, "min": 1, "minutes": 1, "h": 60, "hours": 60}
"""Of --budget, in minutes."""


def within(call: Call, budget: str) -> Call:
    """The call with data.minutes as --budget says; `UserError` for no time, or beside a size that is given."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d*)?) ?([a-z]*)", budget.strip().lower())
    minutes = round(float(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else 0
    if not 1 <= minutes <= 10**6:
        raise UserError(f"--budget {budget}", "minutes or hours, such as 20m or 2h", "mend it")
    own = call.given.get("data", {})
    if own.get("size", "auto") != "auto" or "minutes" in own:
        got = f"--budget beside {'data.minutes' if 'minutes' in own else 'data.size'}"
        raise UserError(got, "the time or the size", "leave one of them out: the budget chooses the size")
    return replace(call, settings=replace(call.settings, data=replace(call.settings.data, size="auto", minutes=minutes)))


def sized(call: Call, data: Path | None, out: Path, words: Sequence[str]) -> Call:
    """The call with numbers in the place of "auto" (data.size, data.tile); says which."""
    if "auto" not in (call.settings.data.size, call.settings.data.tile):
        return call
    from coinseg.pipeline import sizes  # imports torch, which takes seconds
    from coinseg.pipeline.run_folder import data_of

    settings, lines = sizes.sized(call.settings, data or data_of(out, words), out)
    print("\n".join(map(plain, lines)), end="\n" if lines else "")
    return replace(call, settings=settings)
