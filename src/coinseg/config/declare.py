"""How a setting is declared: default, meaning, range and unit in one call, which the help, `coinseg info` and the checks read."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Range:
    """The numbers a setting may be, so that no stranger's file fills the machine; `above` excludes `low`; unit such as "px"."""

    low: float
    high: float
    unit: str = ""
    above: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range; NaN never does."""
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.above:
            return f"a {'share' if self.unit == 'share' else 'number'} in ({self.low:g}, {self.high:g}]"
        return f"{self.low:g} to {self.high:g}"


SHARE, FACTOR, STEPS, BATCH = Range(0, 1, "share"), Range(0, 1e6), Range(1, 10**9, "steps"), Range(1, 8192, "images")
SIDE, PIXELS = Range(0, 255, "px"), Range(0, 2**31, "px")


@dataclass(frozen=True)
class Declaration:
    """One setting: dotted name ("coin.width"), type, value or default, meaning, and the range of a number."""

    name: str
    hint: Any
    value: Any
    about: str
    range: Range | None


def setting(default: Any, about: str, limits: Range | None = None) -> Any:
    """A field of a settings class: its default, its meaning and, of a number, its range."""
    return field(default=default, metadata={"about": " ".join(about.split()), "range": limits})


def group(kind: type, about: str) -> Any:
    """A field of a settings class that holds another one, at its defaults."""
    return field(default_factory=kind, metadata={"about": about})


def described(kind: type[Kind]) -> type[Kind]:
    """Class decorator: completes the docstring by `Args:`, with meaning and range of every setting, which the help shows."""
    lines = []
    for f in fields(kind):  # type: ignore[arg-type]
        limits = f.metadata.get("range")
        unit = f" {limits.unit}" if limits and limits.unit not in ("", "share") else ""
        lines.append(f"    {f.name}: {f.metadata['about']}" + (f" [{limits}{unit}]" if limits else ""))
    kind.__doc__ = f"{kind.__doc__}\n\nArgs:\n" + "\n".join(lines)
    return kind


def declarations(base: Any, prefix: str = "") -> Iterator[Declaration]:
    """Every setting of a settings object in order, those of its groups by dotted names."""
    hints = get_type_hints(type(base))
    for f in fields(base):
        value = getattr(base, f.name)
        if is_dataclass(value):
            yield from declarations(value, f"{prefix}{f.name}.")
        else:
            yield Declaration(prefix + f.name, hints[f.name], value, f.metadata.get("about", ""), f.metadata.get("range"))


def choices_of(hint: Any) -> list[str] | None:
    """The words of a `Literal`, also inside a union; None where there are none."""
    literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    return list(get_args(literals[0])) if literals else None
