"""How progress is told: a function that the command line or a notebook gives, or nobody."""

from collections.abc import Callable, Mapping

Report = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with the name of the stage ("coin", or "coin of teacher-2"), steps done, steps in all and the latest losses."""


def silent(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
    """The default report: the library says nothing."""
