"""The command line: parse, call, print. Every setting of `coinseg.config.schema` is an option.

Exit codes: 0 done; 2 the input, the settings or the machine are at fault (one line says what and what to do); 130 Ctrl-C; 141 the
reader of the output went away; 143 SIGTERM.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from coinseg.config.parsing import PRESETS, require_named, setting_names, settings_from, unknown_setting
from coinseg.config.schema import ClassifierSettings, Settings
from coinseg.errors import EXIT_DEFECT, EXIT_DONE, EXIT_USER, UserError, exit_code, one_line
from coinseg.runtime.files import read_yaml
from coinseg.runtime.signals import signals_heard

from . import commands
from .progress import ConsoleReport

DESCRIPTION = """coinseg turns image-level labels (normal / abnormal) into segmentation masks by counterfactual inpainting.

  coinseg phantom out/phantom                      make a cohort to try it on
  coinseg run DATA -o OUT                          slices, classifier, COIN, scores, masks, report
  coinseg segment -i scan.nii.gz -o mask.nii.gz --model OUT

Research software, not a medical device."""
COMMANDS = {
    "phantom": ("make a procedural CT cohort in TotalSegmentator layout", "coinseg phantom out/phantom --patients 24 --lesions masses"),
    "run": ("the whole path: data in, masks and a report out; the same command resumes", "coinseg run my_images -o out/run --data.size 96"),
    "prepare": ("read a data set and cut it into slices", "coinseg prepare my_images -o out/run --data.size 96"),
    "train-classifier": ("train the classifier f of a run folder", "coinseg train-classifier out/run"),
    "train-coin": ("train the generator of a run folder against its classifier", "coinseg train-coin out/run"),
    "evaluate": ("score a run folder on its held-out patients", "coinseg evaluate out/run"),
    "report": ("write masks, manifest.json and report.html of a run folder", "coinseg report out/run"),
    "reproduce": ("a table of the thesis: every row trained and scored, in the thesis' protocol and an honest one", "coinseg reproduce table2 --data my_images -o out/tables --seeds 3"),
    "segment": ("segment a scan, an image or a folder of them", "coinseg segment -i scan.nii.gz -o mask.nii.gz --model out/run"),
    "inspect": ("say what is recognised in a data set; nothing is written", "coinseg inspect my_images --json"),
    "info": ("list commands, methods, layouts, presets and every setting", "coinseg info --json"),
    "export": ("a run in one folder that loads anywhere, without the data", "coinseg export out/run -o out/model --onnx"),
    "export-seg": ("a mask as DICOM segmentation of the series its scan comes from", "coinseg export-seg mask.nii.gz --dicom series -o mask.dcm"),
    "export-nnunet": ("masks as nnU-Net training data, uncertain pixels marked ignore", "coinseg export-nnunet out/run -o Dataset101_lesion --band 2"),
}  # fmt: skip
TELLING = ("inspect", "info", "export", "export-seg", "export-nnunet")


class Parser(ArgumentParser):
    """An argument parser whose errors are `UserError`s, so that every bad input ends in the same kind of line."""

    def error(self, message: str, ex: Exception | None = None) -> Any:  # type: ignore[override]
        """Raise instead of printing the usage; an unknown option gets the nearest known one."""
        known = setting_names()
        words = (word.strip("'\":,.").lstrip("-").split("=")[0] for word in message.split())
        if re.search("nrecognized|not expected|does not exist|not found|No action for key", message):
            wrong = next((w for w in words if w and w not in known and (f"--{w}" in message or w.split(".")[0] in _GROUPS)), None)
            if wrong:
                raise unknown_setting(wrong, known)
        raise UserError(" ".join(message.split()), "arguments that --help lists", "see `coinseg COMMAND --help`")


_GROUPS = set(PRESETS["default"].as_dict())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


class _Formatter(DefaultHelpFormatter):
    """Keeps the line breaks of a description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())


def joined_lists(arguments: list[str]) -> list[str]:
    """`--data.organ a b` as the one word jsonargparse wants for a list."""
    lists = {f"--{name}" for name, value in _flat(PRESETS["default"].as_dict()).items() if isinstance(value, tuple)}
    joined: list[str] = []
    items: list[str] | None = None
    for word in [*arguments, "--"]:
        if items is not None and word.startswith("--"):
            joined[-1] += f"={json.dumps(items)}"
            items = None
        if items is not None:
            items += word.split(",")
        else:
            joined.append(word)
            items = [] if word in lists else None
    return joined[:-1]


def _starting_settings(name: str, arguments: list[str]) -> Settings:
    """The defaults of the options: those of an existing run folder, else of the preset that is named."""

    def after(*options: str) -> list[str]:
        return [b for a, b in zip(arguments, arguments[1:], strict=False) if a in options]

    folders = after("-o", "--out") if name in ("run", "prepare", "reproduce") else [a for a in arguments if not a.startswith("-")]
    stored = [Path(folder) / "settings.yaml" for folder in folders[:1]]
    named = after("--preset")
    if not named and stored and stored[0].is_file():
        return settings_from(read_yaml(stored[0], "settings")["settings"])
    if name == "reproduce":
        from coinseg.thesis.rows import SCALES

        scale = (after("--scale") or ["small"])[0]
        return SCALES.get(scale, PRESETS["default"])
    if named and named[0] not in PRESETS:
        raise UserError(f"unknown preset '{named[0]}'", f"one of {', '.join(PRESETS)}", "choose one")
    return PRESETS[named[0] if named else "default"]


def _fill(sub: Parser, name: str, arguments: list[str]) -> None:
    """Add the arguments of one command."""
    if name in TELLING:
        _fill_telling(sub, name)
        return
    if name == "phantom":
        from coinseg.data.phantom.cohort import PhantomSettings

        sub.add_argument("out", type=Path, help="folder to write")
        sub.add_argument("--config", action="config", help="YAML file of the settings below")
        sub.add_class_arguments(PhantomSettings, None)
        sub.add_argument("--processes", type=int, default=0, help="processes; 0 is one for each core")
        return
    if name == "segment":
        sub.add_argument(
            "-i",
            "--input",
            type=Path,
            required=True,
            help="a volume (NIfTI, NRRD, MetaImage), a DICOM folder or .zip (FOLDER#KEY for one series), an image, or a folder of them",
        )
        sub.add_argument(
            "-o",
            "--output",
            type=Path,
            required=True,
            help="the mask (.nii.gz, .nrrd, .mha; .png of an image), or a folder for the masks",
        )
        sub.add_argument("--model", type=Path, required=True, help="the output folder of a run")
        sub.add_argument(
            "--classifier", default=None, help="package.module:factory, where the model has a classifier of your own"
        )
        sub.add_argument("--organ", type=Path, nargs="*", default=[], help="organ masks of the scan, one for each region")
        sub.add_argument("--accelerator", choices=["cpu", "cuda"], default=None, help="instead of what the run was trained on")
        sub.add_argument("--overwrite", action="store_true", help="replace masks that exist")
        sub.add_argument(
            "--confidence", type=Path, default=None,
            help="also how far to trust each voxel, in percent, 50 at the border: a file like the mask, or a folder",
        )  # fmt: skip
        sub.add_argument("--counterfactual", type=Path, default=None, help="also the volume without the lesion, in HU (.nii.gz)")
        sub.add_argument("--difference", type=Path, default=None, help="also how much the generator changed, in HU (.nii.gz)")
        return
    if name == "reproduce":
        _fill_reproduce(sub)
    elif name in ("run", "prepare"):
        sub.add_argument("data_path", metavar="data", type=Path, help="the data: a folder or a CSV")
        sub.add_argument("-o", "--out", type=Path, required=True, help="output folder, outside the data")
    else:
        sub.add_argument("out", type=Path, help="the run folder")
    sub.add_argument("--overwrite", action="store_true", help="redo what other settings than before make stale")
    if name != "reproduce":
        sub.add_argument("--dry-run", action="store_true", help="check data, settings and disk, estimate the time, do nothing")
        sub.add_argument("--preset", choices=list(PRESETS), default="default", help="settings to start from")
    sub.add_argument("--config", action="config", help="YAML file of settings; options after it override it")
    sub.add_class_arguments(Settings, None)
    sub.set_defaults(_flat(_starting_settings(name, arguments).as_dict()))


def _fill_telling(sub: Parser, name: str) -> None:
    """Add the arguments of the commands that tell and hand on."""
    if name == "inspect":
        sub.add_argument("data_path", metavar="data", type=Path, help="the data: a folder or a CSV")
        sub.add_argument("--json", action="store_true", help="print JSON (docs/guide/manifest.md has the keys)")
        sub.add_argument("--config", action="config", help="YAML file of settings; options after it override it")
        sub.add_class_arguments(Settings, None)
    elif name == "info":
        sub.add_argument("--json", action="store_true", help="print JSON (docs/guide/manifest.md has the keys)")
    elif name == "export":
        sub.add_argument("run", type=Path, help="the output folder of a run")
        sub.add_argument("-o", "--out", type=Path, required=True, help="the folder to write")
        sub.add_argument(
            "--classifier", default=None, help="package.module:factory, where the model has a classifier of your own"
        )
        sub.add_argument("--onnx", action="store_true", help="also f.onnx and generator.onnx, checked against torch")
        sub.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    elif name == "export-seg":
        sub.add_argument("mask", type=Path, help="the mask on the grid of its scan (.nii.gz)")
        sub.add_argument("--dicom", type=Path, required=True, help="folder of the series the scan comes from")
        sub.add_argument("-o", "--out", type=Path, required=True, help="the .dcm file to write")
        sub.add_argument("--label", default="Lesion", help="of the segment, for people")
        sub.add_argument("--overwrite", action="store_true", help="replace the output")
    elif name == "export-nnunet":
        sub.add_argument("source", type=Path, help="a run folder, or a folder of scans (with --masks)")
        sub.add_argument(
            "--masks", type=Path, default=None, help="masks as `coinseg segment` leaves them for the folder of scans"
        )
        sub.add_argument("-o", "--out", type=Path, required=True, help="the folder to write, DatasetXXX_name")
        sub.add_argument("--band", type=float, default=1.0, help="pixels on either side of the mask's border to ignore")
        sub.add_argument("--differences", type=Path, default=None, help="difference maps of the scans, for --between")
        sub.add_argument("--between", type=float, nargs=2, default=None, help="ignore differences in [LOW, HIGH)")
        sub.add_argument("--channel", default="CT", help="channel name, by which nnU-Net normalises")
        sub.add_argument("--label", default="lesion", help="name of the lesion")
        sub.add_argument("--overwrite", action="store_true", help="replace an earlier data set made by coinseg")


def _fill_reproduce(sub: Parser) -> None:
    from coinseg.thesis.rows import SCALES, TABLES

    sub.add_argument("table", choices=list(TABLES), help="which table of the thesis")
    sub.add_argument(
        "--data-path", type=Path, default=None, help="--data PATH: the data, as for run; a phantom cohort is made without"
    )
    sub.add_argument("-o", "--out", type=Path, required=True, help="output folder, shared by the three tables")
    sub.add_argument("--scale", choices=list(SCALES), default="small", help="small for two CPU cores, paper for a GPU")
    sub.add_argument("--seeds", type=int, default=3, help="how many; each has its own split, classifier and generators")
    sub.add_argument("--name", default=None, help="of the data set, for the tables")
    sub.add_argument("--slices", type=int, default=0, help="held-out slices scored at most, the same for every method; 0 is all")
    sub.add_argument("--fid", default=None, help='Inception weights for FID: a file, or "download"; no FID without')
    sub.add_argument(
        "--fid-features", type=int, default=768, help="width of the Inception features: 64, 192, 768 (authors) or 2048"
    )


def build_parser(arguments: list[str]) -> Parser:
    """The parser of all commands; only the one that is called gets its arguments, which keeps `--help` quick."""
    parser = Parser(prog="coinseg", description=DESCRIPTION, formatter_class=_Formatter)
    parser.add_argument("--version", action="version", version=f"coinseg {version('coinseg')}")
    added = parser.add_subcommands(required=True, metavar="COMMAND", dest="command")
    called = arguments[0] if arguments else ""
    for name, (what, example) in COMMANDS.items():
        about = f"{what[0].upper()}{what[1:]}.\n\n  example: {example}"
        sub = Parser(description=about, formatter_class=_Formatter)
        if name == called:
            _fill(sub, name, arguments[1:])
        added.add_subcommand(name, sub, help=what)
    if called and not called.startswith("-") and called not in COMMANDS:
        near = get_close_matches(called, COMMANDS, 1)
        raise UserError(
            f"unknown command '{called}'", f"one of {', '.join(COMMANDS)}", f"did you mean {near[0]}?" if near else "see --help"
        )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        try:
            with signals_heard():
                _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        # The reader (`| head`) has what it wanted; Python's own last flush must not meet the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_code(error)
    except (UserError, OSError, KeyboardInterrupt, MemoryError, RuntimeError) as error:
        if exit_code(error) == EXIT_DEFECT:
            raise
        print(f"coinseg: {'error: ' if exit_code(error) == EXIT_USER else ''}{one_line(error)}", file=sys.stderr)
        return exit_code(error)
    return EXIT_DONE


def _given(arguments: list[str]) -> list[tuple[str, str]]:
    """Options and what each is given, as `--option WORD` or `--option=WORD`."""
    joined = [(option, word) for option, equals, word in (each.partition("=") for each in arguments) if equals]
    return joined + [(option, word) for option, word in zip(arguments, arguments[1:], strict=False) if "=" not in option]


def _check_configs(arguments: list[str]) -> None:
    """Read what jsonargparse takes for YAML once as strictly as possible: it follows aliases, to any size.

    That is the files of --config, of a group (`--data FILE`) and of what is short for one of these, and values of settings.
    """
    for option, word in _given(arguments):
        read = len(option) > 2 and any(f"--{name}".startswith(option) for name in ("config", *_GROUPS))
        if read and os.path.isfile(word):
            read_yaml(Path(word))
        elif (read or option.split(".")[0][2:] in _GROUPS) and re.search(r"&\w", word) and re.search(r"\*\w", word):
            raise UserError(f"{option} is given aliases", "YAML of plain values", "write them out")


def _require_named(classifier: Any, arguments: list[str]) -> None:
    """A module of its own that settings.yaml or a --config names is run only when the command line names it, too."""
    if classifier is not None and not isinstance(classifier, str):
        named = [word for option, word in _given(arguments) if option == "--classifier.name"]
        require_named(ClassifierSettings(name=classifier["name"]), named[-1] if named else None, "--classifier.name")


def _run(arguments: list[str]) -> None:
    parser = build_parser(arguments)
    if arguments[:1] == ["reproduce"]:
        # Settings own the name "data"; a plain --data is the path.
        arguments = [re.sub(r"^--data(?==|$)", "--data-path", word) for word in arguments]
    _check_configs(arguments)
    try:
        parsed = parser.parse_args(joined_lists(arguments) or ["--help"])
    except RecursionError as error:
        raise UserError("an argument is nested too deeply", "plain values", "mend the command") from error
    _require_named(parsed[parsed.command].get("classifier"), arguments)
    name, known = parsed.command, {command: what for command, (what, _) in COMMANDS.items()}
    with ConsoleReport() as report:
        commands.act(name, parsed[name], report, shlex.join(["coinseg", *arguments]), known)
