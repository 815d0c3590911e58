"""What `coinseg`, `coinseg --help` and `coinseg COMMAND --help` print; `--help-all` is the parser's own, with every setting."""

from collections.abc import Mapping
from typing import Any

from coinseg.config.declare import Declaration, declarations

from .command import Command
from .suggest import as_typed

START = """coinseg turns yes/no labels of images into segmentation masks. Research software, not a medical device.

  coinseg demo                                     try it: made CT scans, a small model, a report, in some minutes
  coinseg doctor                                   is everything in order here? versions, devices, memory, a self-test

Your own images: normal ones in my_images/normal, abnormal ones in my_images/abnormal (other data: docs/guide/your-data.md).

  coinseg inspect my_images                        what is recognised; nothing is written
  coinseg run my_images -o out/run                 train, score, write masks and out/run/report.html
  coinseg segment -i new_images -o masks --model out/run

coinseg --help lists all commands, coinseg COMMAND --help the options of one."""
"""What `coinseg` says by itself."""
GENERAL = (
    ("-v, --verbose", "also say what happens inside; the same line more often"),
    ("-q, --quiet", "say nothing but results, warnings and errors"),
    ("--log-file FILE", "also write all that is said to this file, with the time"),
)
"""Options of every command; see `talk`."""
USUAL = {
    "data.size": "side of the square slices in pixels; on a CPU 64 to 128",
    "data.organ": "regions of interest by name, such as kidney_left kidney_right",
    "data.roi": "none: whole slices; organ: a square around the organ; each: around each region",
    "data.lesion": "names or label values of the lesion, to score and where no labels are given",
    "data.normal": "folders of normal images",
    "data.abnormal": "folders of abnormal images",
    "anomaly.kind": "blob: inject the thesis' synthetic anomaly; none: labels of the data",
    "method": "counterfactual, or an attribution to compare with: scorecam, layercam, rise, ...",
    "classifier.steps": "of the classifier f",
    "coin.steps": "of COIN",
    "student.steps": "of the student that draws the masks; 0 is none: quicker and coarser",
    "engine.accelerator": "auto, cpu or cuda",
    "engine.threads": "CPU threads; 0 finds the best number",
    "seed": "every random choice follows from it",
}
"""The settings that most people need, in a few words."""
WIDTH = 112


def overview(commands: Mapping[str, Command]) -> str:
    """What `coinseg --help` prints: every command in a line."""
    rows = [(name, command.what) for name, command in commands.items()]
    return "\n".join([
        "usage: coinseg COMMAND ...", "", "Yes/no labels of images in, segmentation masks out. Not a medical device.", "",
        *_table(rows), "", *_table([("COMMAND --help", "what a command takes"), ("--version", "the version"), *GENERAL]),
    ])  # fmt: skip


def short_help(command: Command, settings: Any) -> str:
    """About 25 lines: what a command does, its arguments, and of its settings those in `USUAL`."""
    listed = list(declarations(settings)) if settings is not None else []
    by_name = {each.name: each for each in listed if not command.groups or each.name.partition(".")[0] in command.groups}
    usual = [by_name[name] for name in USUAL if name in by_name] if len(listed) > len(USUAL) else listed
    required = [as_typed(names, options) for names, options in command.arguments() if _needed(names, options)]
    rows = [(as_typed(names, options), str(options.get("help", ""))) for names, options in command.arguments()]
    rows += [("", ""), *((f"--{each.name}", _about(each)) for each in usual), ("", "")] if listed else []
    rows += [("--config FILE", "a YAML file of settings; options after it override it")] if listed else []
    lines = [f"usage: coinseg {' '.join([command.name, *required])} [options]", ""]
    lines += [
        f"{command.what[0].upper()}{command.what[1:]}.",
        "",
        f"  example: {command.example}",
        "",
        *_table([*rows, *GENERAL]),
    ]
    if len(listed) > len(usual):
        lines += ["", f"All {len(listed)} settings: coinseg {command.name} --help-all (--print_config shows them as YAML)."]
    return "\n".join(lines)


def _needed(names: tuple[str, ...], options: Mapping[str, Any]) -> bool:
    return bool(options.get("required")) or not names[0].startswith("-")


def _about(each: Declaration) -> str:
    value = " ".join(map(str, each.value)) if isinstance(each.value, tuple) else each.value
    return f"{USUAL.get(each.name, each.about)} [{value if value != '' else 'none'}]".lstrip()


def _table(rows: list[tuple[str, str]]) -> list[str]:
    """One line each, cut where it is too long; a default in brackets at its end stays."""
    wide = max((len(first) for first, _ in rows), default=0) + 2
    lines = []
    for first, second in rows:
        text, bracket, tail = second.partition(" [") if second.endswith("]") else (second, "", "")
        room = WIDTH - wide - 2 - len(bracket + tail)
        text = text if len(text) <= room else f"{text[: room - 3].rsplit(' ', 1)[0]} ..."
        lines.append(f"  {first:<{wide}}{text}{bracket}{tail}".rstrip())
    return lines
