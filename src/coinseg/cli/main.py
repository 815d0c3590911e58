"""The command line: parse, call, print. Every setting of `coinseg.config.schema` is an option; exit codes are in `errors`."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from coinseg.config.declare import declarations
from coinseg.config.parsing import PRESETS, require_named, stored_settings
from coinseg.config.reading import refuse
from coinseg.config.rules import judged
from coinseg.config.schema import Settings
from coinseg.errors import EXIT_DEFECT, EXIT_DONE, EXIT_USER, UserError, exit_code, one_line
from coinseg.runtime.records import read_settings
from coinseg.runtime.signals import signals_heard

from . import commands, export_commands, review_commands, stage_commands
from .command import Call, Command
from .help import START, overview, short_help
from .progress import ConsoleReport
from .setting_words import given, split
from .suggest import argument_error, command_error, setting_fault
from .talk import SAID, parted, talking
from .typed import typed

DESCRIPTION = """Yes/no labels of images in, segmentation masks out (counterfactual inpainting). Not a medical device.

  coinseg COMMAND --help says what a command takes; coinseg by itself says how to begin."""
COMMANDS: dict[str, Command] = {each.name: each for each in (
    stage_commands.run, commands.segment, commands.inspect, commands.demo, commands.doctor, commands.phantom,
    review_commands.review, review_commands.review_page, review_commands.review_export, review_commands.review_import,
    stage_commands.prepare, stage_commands.train_classifier, stage_commands.train_coin, stage_commands.evaluate,
    stage_commands.report, stage_commands.reproduce, export_commands.export, export_commands.export_seg,
    export_commands.export_nnunet, commands.info, commands.completion,
)}  # fmt: skip


class Parser(ArgumentParser):
    """An argument parser whose errors are `UserError`s, so that every bad input ends in the same kind of line."""

    called = ""
    """The command whose words are parsed."""
    lists: Sequence[str] = ()
    """Its settings that took several words."""

    @property
    def default_env(self) -> bool:
        """Never: no variable of the environment is read as an option, or as a file of settings."""
        return False

    @default_env.setter
    def default_env(self, default_env: bool) -> None:
        self._default_env = False

    def error(self, message: str, ex: Exception | None = None) -> Any:  # type: ignore[override]
        """Raise instead of printing the usage."""
        raise argument_error(" ".join(message.split()), COMMANDS.get(self.called), COMMANDS, self.lists)


class _Formatter(DefaultHelpFormatter):
    """Keeps the line breaks of a description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())


def _starting_settings(name: str, words: list[str]) -> Any:
    """The settings of a call without its options: those of an existing run folder, else of the preset that is named."""
    base = COMMANDS[name].defaults
    if base is None or name in ("phantom", "inspect", "segment"):
        return base and base()
    folder = given(words, "-o", "--out") if name in ("run", "prepare", "reproduce") else None
    folders = [folder] if folder else [word for word in words if not word.startswith("-") and word != given(words, "--data-path")]
    preset, file = given(words, "--preset"), Path(*folders[:1]) / "settings.yaml"
    if folders and preset is None and file.is_file():
        return stored_settings(read_settings(file, "settings")["settings"])
    if name == "reproduce":
        from coinseg.thesis.rows import SCALES

        return SCALES.get(given(words, "--scale") or "small", PRESETS["default"])
    if preset is not None and preset not in PRESETS:
        raise UserError(f"unknown preset '{preset}'", f"one of {', '.join(PRESETS)}", "choose one")
    return PRESETS[preset or "default"]


def build_parser(words: list[str], settings: Any = None) -> Parser:
    """The parser of all commands; only the one that is called by `words` gets its arguments, which keeps `--help` quick.

    Settings are never parsed here; where they are given, --help and --print_config show them as defaults.
    """
    parser = Parser(prog="coinseg", description=DESCRIPTION, formatter_class=_Formatter)
    parser.add_argument("--version", action="version", version=f"coinseg {version('coinseg')}")
    Parser.called = words[0] if words else ""
    added = parser.add_subcommands(required=True, metavar="COMMAND", dest="command")
    called = words[0] if words else ""
    for name, each in COMMANDS.items():
        about = f"{each.what[0].upper()}{each.what[1:]}.\n\n  example: {each.example}"
        sub = Parser(description=about, formatter_class=_Formatter)
        if name == called:
            for names, options in each.arguments():
                sub.add_argument(*names, **options)
            if each.defaults is not None:
                sub.add_argument("--config", action="config", help="YAML file of settings; options after it override it")
            if settings is not None:
                sub.add_class_arguments(type(settings), None)
                sub.set_defaults({setting.name: setting.value for setting in declarations(settings)})
        added.add_subcommand(name, sub, help=each.what)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # Where a scheduler closed them there are none, and the next file that is opened would take their place.
    nowhere = lambda: open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = sys.stdout or nowhere(), sys.stderr or nowhere()
    try:
        try:
            with signals_heard():
                _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
        return EXIT_DONE
    except BrokenPipeError as error:
        # The reader (`| head`) has what it wanted; Python's own last flush must not meet the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_code(error)
    except (UserError, OSError, KeyboardInterrupt, MemoryError, RuntimeError, ModuleNotFoundError) as error:
        if exit_code(error) == EXIT_DEFECT:
            raise
        print(f"coinseg: {'error: ' if exit_code(error) == EXIT_USER else ''}{one_line(error)}", file=sys.stderr)
        return exit_code(error)


def _run(words: list[str]) -> None:
    words, talk = parted(words)
    if not words or words == ["help"]:
        print(START)
        return
    if words[0] == "help":
        words = [*words[1:2], "--help"]
    called = COMMANDS.get(words[0])
    if called is None:
        if not words[0].startswith("-"):
            raise command_error(words[0], COMMANDS)
        if {"-h", "--help"} & {*words}:
            print(overview(COMMANDS))
            return
        build_parser(words).parse_args(words)  # --version
        return
    words = typed(words, called)
    with talking(talk, shlex.join(["coinseg", *words])):
        try:
            _call(words, called, talk.level)
        except BaseException as error:
            SAID.error(
                "%s", one_line(error) if isinstance(error, Exception | KeyboardInterrupt) else error, exc_info=talk.level > 0
            )
            raise


def _call(words: list[str], called: Command, level: int) -> None:
    """Run a command: part its settings from its other words, check them, parse these, call it."""
    rest, settings, values, Parser.lists = words[1:], None, {}, ()
    if called.defaults is not None:
        base = called.defaults()
        own = [options.get("dest", names[-1].lstrip("-").replace("-", "_")) for names, options in called.arguments()]
        parts = split(rest, base, own, lambda name, _: setting_fault(name, base, called))
        settings, faults = judged(parts.values, _starting_settings(called.name, rest), called.groups)
        refuse([*parts.faults, *faults])
        if isinstance(settings, Settings):  # a module that a file names is run only when the command line names it, too
            require_named(settings.classifier, given(rest, "--classifier.name"), "--classifier.name")
        rest, values, Parser.lists = parts.rest, parts.values, parts.lists
    if any(not word or re.fullmatch("--[^=]+=", word) for word in rest):  # `Path` takes it for the folder the command runs in
        do = "set the variable of the shell that is empty, or give . for the folder you are in"
        raise UserError("an empty word stands where a path is needed", "a path", do)
    if {"-h", "--help"} & set(rest):
        print(short_help(called, settings))
        return
    rest = ["--help" if word == "--help-all" else word for word in rest]
    shown = settings if any(re.match("--(help|print_config)", word) for word in rest) else None
    options = build_parser(words, shown).parse_args([called.name, *rest])[called.name].as_dict()
    options.pop("config", None)
    with ConsoleReport(level) as report:
        about = {command: each.what for command, each in COMMANDS.items()}
        called.act(Call(shlex.join(["coinseg", *words]), settings, report, about, values), **options)
