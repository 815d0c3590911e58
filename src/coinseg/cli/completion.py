"""`coinseg completion SHELL`: the script by which a shell completes commands, options and their choices (made by shtab)."""

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from coinseg.config.declare import choices_of, declarations

from .command import Command
from .help import GENERAL

SHELLS = ("bash", "zsh", "tcsh")


def script(shell: str, commands: Mapping[str, Command]) -> str:
    """The script for one of `SHELLS`, of all commands with their arguments and settings."""
    import shtab

    parser = ArgumentParser(prog="coinseg")
    parser.add_argument("--version", action="store_true", help="the version")
    added = parser.add_subparsers(metavar="COMMAND")
    for name, command in commands.items():
        sub = added.add_parser(name, help=command.what, description=command.what)
        sub.add_argument("--help-all", action="store_true", help="every setting")
        for option, about in GENERAL:
            sub.add_argument(
                *option.removesuffix(" FILE").split(", "), help=about, action="store" if option.endswith("FILE") else "store_true"
            )
        for names, options in command.arguments():
            kept: dict[str, Any] = {key: options[key] for key in ("help", "choices", "action", "nargs", "dest") if key in options}
            made = sub.add_argument(*names, **kept)
            if options.get("type").__class__ is type and "Path" in options["type"].__name__:
                made.complete = shtab.FILE  # type: ignore[attr-defined]
        for each in declarations(command.defaults()) if command.defaults else ():
            sub.add_argument(f"--{each.name}", choices=choices_of(each.hint), help=" ".join(each.about.split())[:80])
    return str(shtab.complete(parser, shell))
