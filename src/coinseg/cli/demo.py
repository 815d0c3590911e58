"""`coinseg demo`: the main job, small, on made CT, and on made pictures in colour with two classes.

With `--model` it is a toy that `segment` can be tried with.
"""

import shlex
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from coinseg.config.parsing import settings_from
from coinseg.config.reading import read, refuse
from coinseg.config.schema import Settings
from coinseg.data.phantom.leaves import write_leaves
from coinseg.runtime.files import plain_yaml

from . import stage_commands
from .command import Call, Command

RUN, PHANTOM, LEAVES = "demo-run.yaml", "demo-phantom.yaml", "demo-leaves.yaml"
TOY_PATIENTS = {"patients": 8, "slices": 12}
TOY_RUN = {"classifier": {"steps": 150}, "coin": {"steps": 200}, "data": {"size": 32}}
"""What `--model` changes in the cohort and in the run."""


def shipped(name: str) -> dict[str, Any]:
    """The settings of the demo, a YAML file of this package."""
    return dict(plain_yaml((files("coinseg.cli") / name).read_text(encoding="utf-8")))


def make_demo(call: Call, phantom: Command, out: Path, toy: bool) -> None:
    """Make a cohort in OUT/phantom and a run in OUT/demo, and OUT/leaves and OUT/demo-leaves; or OUT/toy-phantom and OUT/toy.

    The same command goes on with what is there.
    """
    prefix = "toy-" if toy else ""
    data, folder = out / f"{prefix}phantom", out / ("toy" if toy else "demo")
    scans, faults = read(shipped(PHANTOM) | (TOY_PATIENTS if toy else {}), phantom.defaults and phantom.defaults())
    refuse(faults)
    settings = settings_from(shipped(RUN))
    settings = settings_from(TOY_RUN, settings) if toy else settings
    phantom.act(replace(call, settings=scans), out=data, processes=0)
    words = shlex.join(["coinseg", "demo", "-o", str(out), *(["--model"] if toy else [])])
    _run(call, settings, words, data, folder)
    if not toy:
        leaves = write_leaves(out / "leaves")
        print(
            f"\nsecond example: {leaves}, made pictures of leaves in colour with two diseases, in one image both, either or none"
        )
        _run(call, settings_from(shipped(LEAVES)), words, leaves, out / "demo-leaves")
    scan = next(iter(sorted(data.glob("s*"))))
    organs = [scan / "segmentations" / f"{name}.nii.gz" for name in settings.data.organ]
    asked = ["coinseg", "segment", "-i", scan / "ct.nii.gz", "-o", "mask.nii.gz", "--model", folder, "--organ", *organs]
    print(f"\nnext: open {folder / 'report.html'}; a mask of one scan, as of any other:\n  {shlex.join(map(str, asked))}")
    if toy:
        print("The model is a toy of a minute on made CT: its masks of real scans mean nothing.")


def _run(call: Call, settings: Settings, words: str, data: Path, out: Path) -> None:
    run = replace(call, settings=settings, words=words)
    stage_commands.run.act(run, data_path=data, out=out, overwrite=False, dry_run=False, preset="default")
