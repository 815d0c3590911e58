"""The commands that need no run of their own: a phantom, masks of new scans, and what can be said of data and of coinseg."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from json import dumps
from pathlib import Path
from typing import Any

from coinseg.config.schema import EngineSettings, Settings
from coinseg.errors import UserError, plain

from .command import DATA, JSON, OWN_CLASSIFIER, Call, arg, command, flag, path

SCANS = (
    "a volume (NIfTI, NRRD, MetaImage), a DICOM folder or .zip (FOLDER#KEY for one series), an image; a folder of them in any "
    "layout that `run` takes, or a .csv"
)
ORGAN = "organ masks of one scan, one for each region; of a folder, another folder with those of all, if they are not found"
TRUST = "also how far to trust each voxel, in percent, 50 at the border: a file like the mask, or a folder"


@dataclass(frozen=True)
class SegmentSettings:
    """The settings that `segment` takes: a model brings all others."""

    engine: EngineSettings = field(default_factory=EngineSettings)


def _phantom_settings() -> Any:
    from coinseg.data.phantom.cohort import PhantomSettings

    return PhantomSettings()


@command(
    "make a procedural CT cohort in TotalSegmentator layout", "coinseg phantom out/phantom --patients 24 --lesions masses",
    (path("out", help="folder to write"), arg("--processes", type=int, default=0, help="processes; 0 is one for each core")),
    _phantom_settings,
)  # fmt: skip
def phantom(call: Call, out: Path, processes: int) -> None:
    """Write a phantom cohort."""
    from coinseg.data.phantom.cohort import write_cohort

    write_cohort(out, call.settings, processes, lambda done, total: call.report("phantom", done, total, {}))
    print(f"phantom cohort of {call.settings.patients} patients in {out}")


@command("segment a scan, an image or a folder of them", "coinseg segment -i scan.nii.gz -o mask.nii.gz --model out/run", (
    path("-i", "--input", help=SCANS),
    path("-o", "--output", help="the mask (.nii.gz, .nrrd, .mha; .png of an image), or a folder for the masks"),
    path("--model", help="the output folder of a run"),
    OWN_CLASSIFIER,
    arg("--organ", type=Path, nargs="*", default=[], help=ORGAN),
    arg("--accelerator", choices=["cpu", "cuda"], default=None, help="instead of what the run was trained on"),
    flag("--overwrite", "replace masks that exist"),
    path("--confidence", required=False, help=TRUST),
    path("--counterfactual", required=False, help="also the scan (.nii.gz) or image (.png) without the lesion"),
    path("--difference", required=False, help="also how much the generator changed, in the units of the scan or image"),
), SegmentSettings)  # fmt: skip
def segment(call: Call, input: Path, output: Path, **asked: Any) -> None:
    """Write the masks of scans; the other arguments are fields of `Request`."""
    from coinseg.pipeline.request import Request

    engine = {name: getattr(call.settings.engine, name) for name in call.given.get("engine", {})}
    request = Request(input, output, report=call.report, command=call.words, engine=engine, **asked)
    request.require_there()  # before torch is imported, which takes seconds

    from coinseg.data.layouts.unread import parts_left
    from coinseg.pipeline.label_maps import OVERLAP, names_beside
    from coinseg.pipeline.manifest import MANIFEST, doubts, verdict_of
    from coinseg.pipeline.segment import failure, segment_path
    from coinseg.runtime.files import read_json
    from coinseg.runtime.process_group import rank_info

    done, failed = segment_path(request)
    if rank_info().is_main:
        print(f"{done} mask{'s' if done != 1 else ''} written to {output}")
        if names := names_beside(output):
            print(plain(f"values: {', '.join(f'{i} {name}' for i, name in enumerate(names, 1))}; in an overlap {OVERLAP}"))
        alone = [*doubts(verdict_of(asked["model"])), *parts_left([input])]
        for line in read_json(output / MANIFEST)["warnings"] if output.is_dir() else alone:
            print(plain(f"  warning: {line}"))
        if error := failure(done, failed):
            raise error


@command(
    "the main job in one command, small: made CT, training, masks, a report", "coinseg demo -o out",
    (
        path("-o", "--out", required=False, help="the folder to work in; out without it"),
        flag("--model", "a toy model in a minute instead, to try `segment` with"),
    ),
)  # fmt: skip
def demo(call: Call, out: Path | None, model: bool) -> None:
    """Make a cohort and a run."""
    from .demo import make_demo

    make_demo(call, phantom, out or Path("out"), model)


@command(
    "say what coinseg stands on here, and whether it works", "coinseg doctor",
    (flag("--quick", "without the self-test of about 20 seconds"), JSON),
)  # fmt: skip
def doctor(call: Call, quick: bool, json: bool) -> None:
    """Print the findings; `UserError` where one is bad."""
    from .doctor import findings, lines

    found = []
    for each in findings(not quick):
        found.append(each)
        if not json:
            print(plain(lines(each)), flush=True)
    if json:
        print(dumps([asdict(each) for each in found], indent=2))
    if bad := [each.name for each in found if each.good is False]:
        raise UserError(f"not in order: {', '.join(bad)}", "what the lines above ask for", "mend it, then give the command again")


@command(
    "print the script by which a shell completes commands and options", "coinseg completion bash > ~/.coinseg-completion",
    (arg("shell", choices=["bash", "zsh", "tcsh"], help="source the script in the start file of that shell"),),
)  # fmt: skip
def completion(call: Call, shell: str) -> None:
    """Print the script."""
    from .completion import script
    from .main import COMMANDS

    print(script(shell, COMMANDS))


@command(
    "say what is recognised in a data set; nothing is written", "coinseg inspect my_images --json",
    (DATA, JSON, path("--template", required=False, help="write a new table of all images and slices there, to fill in labels")),
    Settings, groups=("data", "anomaly"),
)  # fmt: skip
def inspect(call: Call, data_path: Path, json: bool, template: Path | None) -> None:
    """Print what `inspect.inspect` finds, or write a table to fill in."""
    from .inspect import inspect, lines

    if template:
        from .template import write_template

        print("\n".join(map(plain, write_template(data_path, template))))
        return
    _print(inspect(data_path, call.settings), lines, json)


@command("list commands, methods, layouts, presets and every setting", "coinseg info --json", (JSON,))
def info(call: Call, json: bool) -> None:
    """Print what `info.info` lists."""
    from .info import info, lines

    _print(info(call.commands), lines, json)


def _print(facts: dict[str, Any], lines: Callable[[dict[str, Any]], list[str]], as_json: bool) -> None:
    print(dumps(facts, indent=2, allow_nan=False) if as_json else "\n".join(map(plain, lines(facts))))
