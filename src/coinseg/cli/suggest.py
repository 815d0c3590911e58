"""What somebody may have meant who typed a command or an option there is none of; nothing where it is far from everything."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from coinseg.config.declare import declarations
from coinseg.config.reading import NEAR, Fault, unknown
from coinseg.config.schema import Settings
from coinseg.errors import UserError

from .command import Command

COMMAND_SYNONYMS = {
    "train": "run", "fit": "run", "start": "run", "all": "run", "pipeline": "run",
    "predict": "segment", "infer": "segment", "inference": "segment", "apply": "segment", "mask": "segment", "masks": "segment",
    "test": "evaluate", "eval": "evaluate", "score": "evaluate", "validate": "inspect", "check": "inspect", "look": "inspect",
    "try": "demo", "example": "demo", "selftest": "doctor", "self-test": "doctor", "env": "doctor", "version": "--version",
    "help": "--help", "settings": "info", "list": "info", "save": "export", "onnx": "export", "dicom": "export-seg",
    "nnunet": "export-nnunet", "prepare-data": "prepare", "preprocess": "prepare", "completions": "completion",
}  # fmt: skip
"""Words of other programs and what they are here."""
SETTING_SYNONYMS = {
    "device": ("engine.accelerator",), "gpu": ("engine.accelerator",), "gpus": ("engine.accelerator",),
    "cpu": ("engine.accelerator",), "cuda": ("engine.accelerator",), "accelerator": ("engine.accelerator",),
    "amp": ("engine.precision",), "fp16": ("engine.precision",), "half": ("engine.precision",),
    "workers": ("engine.threads",), "num-workers": ("engine.threads",), "jobs": ("engine.threads",), "cores": ("engine.threads",),
    "epochs": ("classifier.steps", "coin.steps", "student.steps"), "epoch": ("classifier.steps", "coin.steps", "student.steps"),
    "iterations": ("classifier.steps", "coin.steps", "student.steps"), "max-steps": ("classifier.steps", "coin.steps"),
    "learning-rate": ("classifier.lr", "coin.lr", "student.lr"), "batch-size": ("classifier.batch", "coin.batch"),
    "image-size": ("data.size",), "img-size": ("data.size",), "imgsz": ("data.size",), "resolution": ("data.size",),
    "tiles": ("data.tile",), "tile-size": ("data.tile",), "patch-size": ("data.tile",),
    "backbone": ("classifier.name",), "arch": ("classifier.name",), "architecture": ("classifier.name",),
    "labels": ("data.layout",), "organs": ("data.organ",), "classes": ("data.lesion",), "tumor": ("data.lesion",),
    "random-seed": ("seed",), "threshold": ("masks.threshold",), "folds": ("data.validation",), "val": ("data.validation",),
}  # fmt: skip
"""Options of other programs, without dashes, and the settings that do this here."""
OPTION_SYNONYMS = {
    "output": "-o", "output-dir": "-o", "out-dir": "-o", "outdir": "-o", "save-dir": "-o", "dest": "-o", "results": "-o",
    "input": "-i", "image": "-i", "images": "-i", "source": "-i", "src": "-i", "in": "-i", "scan": "-i",
    "checkpoint": "--model", "ckpt": "--model", "weights": "--model", "run": "--model",
    "force": "--overwrite", "overwrite-output": "--overwrite", "exist-ok": "--overwrite", "yes": "--overwrite",
    "dryrun": "--dry-run", "debug": "-v", "silent": "-q", "log": "--log-file", "logfile": "--log-file", "organs": "--organ",
}  # fmt: skip
"""Likewise for arguments of commands."""
SAME = ("resume", "continue", "resume-from", "restart")
"""Options for what the same command does by itself."""


def command_error(name: str, commands: Iterable[str]) -> UserError:
    """The error for a command there is none of."""
    known = list(commands)
    near = next(iter(get_close_matches(name.lower(), [*known, *COMMAND_SYNONYMS], 1, 0.65)), "")
    meant = COMMAND_SYNONYMS.get(name.lower()) or COMMAND_SYNONYMS.get(near, near)
    return UserError(
        f"unknown command '{name}'", f"one of {', '.join(known)}", f"did you mean {meant}?" if meant else "see --help"
    )


def setting_fault(name: str, base: object, command: Command) -> Fault:
    """The fault of an option that is neither a setting of `base`, which the command takes, nor one of its arguments."""
    taken = [each.name for each in declarations(base)]
    got = f"unknown option --{name}"
    if name.lower() in SAME:
        return Fault((name,), got, "the same command again", "leave it out: what was begun is continued")
    everywhere = [each.name for each in declarations(Settings())]
    if name in everywhere:  # of another command
        required = "settings that this command reads"
        do = (
            "leave it out: a trained model brings its own"
            if command.name == "segment"
            else f"see `coinseg {command.name} --help`"
        )
        return Fault((name,), f"{command.name} takes no --{name}", required, do)
    meant = [each for each in SETTING_SYNONYMS.get(_plain(name), ()) if each in taken]
    meant = meant or [each for each in taken if each.rpartition(".")[2] == name.replace("-", "_")]
    own = [each for row, _ in command.arguments() for each in row if each.startswith("-")]
    word = OPTION_SYNONYMS.get(_plain(name))
    if not meant and (word := word if word in own else next(iter(get_close_matches(f"--{name}", own, 1, NEAR)), None)):
        return Fault((name,), got, "an option that --help shows", f"did you mean {word}?")
    if meant:
        return Fault((name,), got, "a name that --help-all shows", f"did you mean {' or '.join('--' + each for each in meant)}?")
    return unknown(name, taken)


def argument_error(
    message: str, command: Command | None, commands: Mapping[str, Command], lists: Sequence[str] = ()
) -> UserError:
    """The error for a line of words that the parser refuses, in the words that are typed; `lists` took several of them."""
    see = f"see `coinseg {command.name} --help`" if command else "see `coinseg --help`"
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = {name.strip().rpartition(".")[2] for name in missing[1].split(",")}
        rows = command.arguments() if command else ()
        needed = [as_typed(row, options) for row, options in rows if _dest(row, options) in names]
        missed = " and ".join(needed or names)
        do = f"put {missed} before {lists[-1]}, which takes every word up to the next option" if lists else see
        got = f"{command.name if command else 'coinseg'} was given without {missed}"
        return UserError(got, command.example if command else "a command", do)
    if left := re.fullmatch(r"(?:Subcommand .*?: )?unrecognized arguments: (.*)", message):
        return _left_over(left[1].split(), command, commands, see)
    if wrong := re.match(r'Parser key "([^"]*)": Expected an? <class \'(\w+)\'>\. Got value: (.*)', message):
        kinds = {"int": "a whole number", "float": "a number"}
        return UserError(f"--{wrong[1]} is {wrong[3]}"[:300], kinds.get(wrong[2], wrong[2]), "mend it")
    return UserError(message, "arguments that --help lists", see)


def _left_over(words: Sequence[str], command: Command | None, commands: Mapping[str, Command], see: str) -> UserError:
    """The error for words behind a command that it does not take: another's options, typed wrong, or values by themselves."""
    own, word = command.name if command else "coinseg", words[0].partition("=")[0]
    rows = command.arguments() if command else ()
    known = [name for row, _ in rows for name in row if name.startswith("-")]
    if not word.startswith("-"):
        do = f"did you mean -i {word}?" if "-i" in known else see
        return UserError(f"{own} was given {word}, and nothing says what it is", "an option before each value", do)
    got, required = f"{own} takes no {word}", "options of this command"
    name = word.lstrip("-")
    if name in {each.name for each in declarations(Settings())}:
        return UserError(got, required, "leave it out: it is a setting of `run`")
    meant = OPTION_SYNONYMS.get(_plain(name))
    if near := [meant] if meant in known else get_close_matches(f"--{name}", known, 1, NEAR):
        return UserError(got, required, f"did you mean {near[0]}?")
    others = sorted({each.name for each in commands.values() for row, _ in each.arguments() if word in row})
    have = f", which {' and '.join(others)} {'has' if len(others) == 1 else 'have'}" if others else ""
    return UserError(got + have, required, see)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _dest(row: Sequence[str], options: Mapping[str, object]) -> str:
    return str(options.get("dest") or row[-1].lstrip("-").replace("-", "_"))


def as_typed(row: Sequence[str], options: Mapping[str, object]) -> str:
    """An argument as it is typed: `-o OUT`, `DATA`."""
    name = _dest(row, options).removesuffix("_path").upper()
    if options.get("action") == "store_true":
        return row[0]
    return f"{row[0]} {name}" if row[0].startswith("-") else str(options.get("metavar") or name).upper()
