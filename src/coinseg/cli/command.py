"""What a command is: one function, its arguments in a short table above it, and whether it takes settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .progress import ConsoleReport

Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """One call of a command: its words for manifests, its complete settings (None without), progress, and all commands.

    `given` are the settings that stand on the line or in its files, nested, without those that keep their values.
    """

    words: str
    settings: Any
    report: ConsoleReport
    commands: dict[str, str]
    given: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A command of the command line; see `command`."""

    name: str
    act: Callable[..., None]
    what: str
    example: str
    arguments: Callable[[], Sequence[Argument]]
    defaults: Callable[[], Any] | None
    groups: tuple[str, ...]


def command(
    what: str, example: str, arguments: Sequence[Argument] | Callable[[], Sequence[Argument]],
    defaults: Callable[[], Any] | None = None, groups: tuple[str, ...] = (),
) -> Callable[[Callable[..., None]], Command]:  # fmt: skip
    """Decorator: makes a function, which takes the `Call` and the arguments by name, a command of its name.

    Args:
        what: the command does, in a line.
        example: one call.
        arguments: its table, or a function that imports what it needs and returns it.
        defaults: returns the settings it takes, at their defaults; None where it takes none.
        groups: of settings that must fit one another for it; () is all.
    """
    table = arguments if callable(arguments) else lambda: arguments
    return lambda act: Command(act.__name__.replace("_", "-"), act, what, example, table, defaults, groups)


def arg(*names: str, **options: Any) -> Argument:
    """A row of the table: names and options as `ArgumentParser.add_argument` takes them."""
    return names, options


def path(*names: str, help: str, required: bool = True) -> Argument:
    """A row that takes a path; None where an option that is not required is not given."""
    needed = {"required": required} if names[0].startswith("-") else {}
    return arg(*names, type=Path, help=help, **needed)


def flag(name: str, help: str) -> Argument:
    """A row that is given or not."""
    return arg(name, action="store_true", help=help)


DATA = arg("data_path", metavar="data", type=Path, help="the data: a folder or a CSV (also as -i DATA)")
DATA_OF_RUN = path("--data-path", required=False, help="--data PATH: the data, if others made the run or they were moved")
JSON = flag("--json", "print JSON (docs/guide/manifest.md has the keys)")
OWN_CLASSIFIER = arg("--classifier", default=None, help="package.module:factory, where the model has a classifier of your own")
