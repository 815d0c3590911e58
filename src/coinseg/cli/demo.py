"""`coinseg demo`: the main job, small, on made CT; with `--model` a toy that `segment` can be tried with."""

import shlex
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from coinseg.config.parsing import settings_from
from coinseg.config.reading import read, refuse
from coinseg.runtime.files import plain_yaml

from . import stage_commands
from .command import Call, Command

RUN, PHANTOM = "demo-run.yaml", "demo-phantom.yaml"
TOY_PATIENTS = {"patients": 8, "slices": 12}
TOY_RUN = {"classifier": {"steps": 150}, "coin": {"steps": 200}, "data": {"size": 32}}
"""What `--model` changes in the cohort and in the run."""


def shipped(name: str) -> dict[str, Any]:
    """The settings of the demo, a YAML file of this package."""
    return dict(plain_yaml((files("coinseg.cli") / name).read_text(encoding="utf-8")))


def make_demo(call: Call, phantom: Command, out: Path, toy: bool) -> None:
    """Make a cohort in OUT/phantom and a run in OUT/demo, or smaller ones in OUT/toy-phantom and OUT/toy; both resume."""
    prefix = "toy-" if toy else ""
    data, folder = out / f"{prefix}phantom", out / ("toy" if toy else "demo")
    scans, faults = read(shipped(PHANTOM) | (TOY_PATIENTS if toy else {}), phantom.defaults and phantom.defaults())
    refuse(faults)
    settings = settings_from(shipped(RUN))
    settings = settings_from(TOY_RUN, settings) if toy else settings
    phantom.act(replace(call, settings=scans), out=data, processes=0)
    words = shlex.join(["coinseg", "demo", "-o", str(out), *(["--model"] if toy else [])])
    stage_commands.run.act(
        replace(call, settings=settings, words=words),
        data_path=data,
        out=folder,
        overwrite=False,
        dry_run=False,
        preset="default",
    )
    scan = next(iter(sorted(data.glob("s*"))))
    organs = [scan / "segmentations" / f"{name}.nii.gz" for name in settings.data.organ]
    asked = ["coinseg", "segment", "-i", scan / "ct.nii.gz", "-o", "mask.nii.gz", "--model", folder, "--organ", *organs]
    print(f"\nnext: open {folder / 'report.html'}; a mask of one scan, as of any other:\n  {shlex.join(map(str, asked))}")
    if toy:
        print("The model is a toy of a minute on made CT: its masks of real scans mean nothing.")
