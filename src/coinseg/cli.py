"""The command line: parse, call, print. Every setting of `coinseg.config` is an option.

Exit codes: 0 done; 2 the input or the settings are at fault (one line says what and what to do); 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import re
import shlex
import sys
from dataclasses import fields
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from . import commands
from .config import Settings
from .errors import UserError
from .progress import ConsoleReport
from .settings import PRESETS, setting_names, settings_from, unknown_setting

EXIT_DONE, EXIT_USER, EXIT_INTERRUPTED = 0, 2, 130
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
    **commands.COMMANDS,
}  # fmt: skip


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
        import yaml

        return settings_from(yaml.safe_load(stored[0].read_text(encoding="utf-8"))["settings"])
    if name == "reproduce":
        from .experiments import SCALES

        scale = (after("--scale") or ["small"])[0]
        return SCALES.get(scale, PRESETS["default"])
    if named and named[0] not in PRESETS:
        raise UserError(f"unknown preset '{named[0]}'", f"one of {', '.join(PRESETS)}", "choose one")
    return PRESETS[named[0] if named else "default"]


def _fill(sub: Parser, name: str, arguments: list[str]) -> None:
    """Add the arguments of one command."""
    if name in commands.COMMANDS:
        commands.fill(sub, name)
        return
    if name == "phantom":
        from .data.phantom import PhantomSettings

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
        sub.add_argument("--organ", type=Path, nargs="*", default=[], help="organ masks of the scan, one for each region")
        sub.add_argument("--accelerator", choices=["cpu", "cuda"], default=None, help="instead of what the run was trained on")
        sub.add_argument("--overwrite", action="store_true", help="replace masks that exist")
        sub.add_argument("--counterfactual", type=Path, default=None, help="also the volume without the lesion, in HU (.nii.gz)")
        sub.add_argument("--difference", type=Path, default=None, help="also the difference masks are read from, in HU (.nii.gz)")
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


def _fill_reproduce(sub: Parser) -> None:
    from .experiments import SCALES, TABLES

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
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = build_parser(arguments)
        if arguments[:1] == ["reproduce"]:
            # Settings own the name "data"; a plain --data is the path.
            arguments = [re.sub(r"^--data(?==|$)", "--data-path", word) for word in arguments]
        parsed = parser.parse_args(joined_lists(arguments) or ["--help"])
        name, options = parsed.command, parsed[parsed.command]
        with ConsoleReport() as report:
            ACTIONS.get(name, _stages)(name, options, report, shlex.join(["coinseg", *arguments]))
        return EXIT_DONE
    except UserError as error:
        print(f"coinseg: error: {error}", file=sys.stderr)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES):
            raise
        print(
            f"coinseg: error: {error.strerror} ({error.filename}); required: a writable disk with room; free some space or choose another output",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        print("coinseg: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_USER


def _phantom(name: str, options: Namespace, report: ConsoleReport, command: str) -> None:
    from .data.phantom import PhantomSettings, write_cohort

    values = {f.name: options[f.name] for f in fields(PhantomSettings)}
    write_cohort(
        options.out, PhantomSettings(**values), options.processes, lambda done, total: report("phantom", done, total, {})
    )
    print(f"phantom cohort of {options.patients} patients in {options.out}")


def _segment(name: str, options: Namespace, report: ConsoleReport, command: str) -> None:
    from .batch import segment_path

    o = options
    done, failed = segment_path(
        o.input, o.output, o.model, o.organ, o.overwrite, o.accelerator, report, o.counterfactual, o.difference
    )
    print(f"{done} mask{'s' if done != 1 else ''} written to {options.output}")
    if failed:
        raise UserError(
            f"{len(failed)} of {done + len(failed)} inputs failed: {'; '.join(failed[:5])}",
            "readable inputs",
            "mend or remove them",
        )


def _stages(name: str, options: Namespace, report: ConsoleReport, command: str) -> None:
    from . import pipeline
    from .engine import Stage

    values = options.as_dict()
    settings = settings_from({key: values[key] for key in _GROUPS})
    data = pipeline.resolve(values.get("data_path"), options.out, settings, options.overwrite)
    work = pipeline.Workspace(data, options.out, settings, report)
    if options.dry_run:
        from .dryrun import describe

        print(describe(work))
        return
    work.start()
    if name == "prepare":
        print(f"{len(work.prepared)} slices in {work.root / 'slices'}")
    elif name == "train-classifier":
        _, folder = work.f, work.root / "classifier"
        print(f"classifier in {folder}: {_line(Stage(folder, '').facts()['scores'])}")
    elif name == "train-coin":
        _, folder = work.generator, work.root / "coin"
        print(f"generator in {folder}: {_line(Stage(folder, '').facts()['health'])}")
    elif name == "evaluate":
        print(f"{_line(work.evaluate())}\nscores in {work.root / 'evaluation'}")
    else:
        _summary(work, command)


def _reproduce(name: str, options: Namespace, report: ConsoleReport, command: str) -> None:
    from . import pipeline, reproduce

    values, data = options.as_dict(), options.data_path
    settings = settings_from({key: values[key] for key in _GROUPS})
    made = data is None
    if made:
        data, settings = options.out / "phantom", reproduce.on_phantom(settings)
    if options.seeds < 1 or options.slices < 0:
        raise UserError(f"--seeds {options.seeds}, --slices {options.slices}", "1 seed or more, 0 slices or more", "mend them")
    data = pipeline.resolve(data, options.out, settings, options.overwrite)
    pipeline.write_settings(data, options.out, settings)
    if made:
        from .data.phantom import write_cohort

        write_cohort(data, reproduce.PHANTOM, 0, lambda done, total: report("phantom", done, total, {}))
    job = reproduce.Job(
        data, options.out, settings, options.scale, options.seeds, options.slices, options.fid, options.fid_features
    )
    files, records = reproduce.reproduce(job, options.table, options.name or data.name, report)
    for record in records:
        found = [value for value in record["scores"].get("iou", []) if value is not None]
        shown = f"{sum(found) / len(found):.3f}" if found else "none"
        print(f"  {record['protocol']:<8} {record['method']:<28} IoU {shown}")
    print("\n".join(str(path) for path in files))


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3f}" for k, v in values.items() if isinstance(v, float) and k != "seconds")


def _summary(work: Any, command: str) -> None:
    from . import manifest
    from .report import write_report

    made = manifest.write(work, command)
    page = write_report(work.root, made)
    scores = made["scores"]
    print(
        f"\n{made['data']['slices']} slices of {made['data']['patients']} patients, {made['data']['patients_held_out']} held out"
    )
    of_scans = ("auroc_scans",) if scores["auroc_scans"] is not None else ()  # of images there is nothing to say
    for score in (*manifest.SCORES, *of_scans):
        value = scores[score]
        shown = f"{value:.3f}" if value is not None else f"none ({scores['null_because'][score]})"
        print(f"  {score:<20} {shown}{'   (tuned on the masks it is scored with)' if score == 'iou_oracle' else ''}")
    print("  " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in made["timings_s"].items()))
    for warning in made["warnings"][:10]:
        print(f"  warning: {warning}")
    print(
        f"masks     {work.root / 'masks'} ({made['outputs']['mask_count']})\nmanifest  {work.root / 'manifest.json'}\nreport    {page}"
    )


def _told(name: str, options: Namespace, report: ConsoleReport, command: str) -> None:
    commands.act(name, options, {known: what for known, (what, _) in COMMANDS.items()})


ACTIONS = {"phantom": _phantom, "segment": _segment, "reproduce": _reproduce} | dict.fromkeys(commands.COMMANDS, _told)
