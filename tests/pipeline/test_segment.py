"""Several processes on one folder, started as a launcher starts them: what one process makes, whatever happened before."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import pytest
import torch

from coinseg.cli import main as cli
from coinseg.config.schema import EngineSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers import nifti
from coinseg.data.readers.image import read_image
from coinseg.data.readers.volume import read_geometry, read_mask
from coinseg.errors import UserError
from coinseg.inference.checkpoint import load
from coinseg.inference.scans import Segmentation
from coinseg.pipeline import segment as batch
from coinseg.pipeline.request import mask_name
from coinseg.runtime import devices
from coinseg.runtime import process_group as processes
from coinseg.runtime.process_group import ProcessGroup, RankInfo, rank_info
from coinseg.types import MaskSource
from conftest import tiny_settings
from examples import EXAMPLES, labelled, save
from writers import make_run, make_scan

SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- which process this is


def test_the_place_of_torchrun_of_srun_and_of_nobody() -> None:
    assert rank_info({}) == RankInfo(0, 1, 0)
    assert rank_info({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == RankInfo(5, 8, 1)
    assert rank_info(SRUN) == RankInfo(3, 8, 1)
    # a batch script without srun, and one task of srun
    assert rank_info({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}) == RankInfo()
    assert rank_info(SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == RankInfo()


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "the environment has RANK 2, WORLD_SIZE 2"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "the environment has RANK x"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_NTASKS_PER_NODE"}, "required: --ntasks-per-node"),
    ],
)
def test_what_is_no_place_is_one_line(environ: dict[str, str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        rank_info(environ)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_the_shares_are_everything_once_and_alike(count: int) -> None:
    items = list(range(13))
    shares = [RankInfo(rank, count, 0).share(items) for rank in range(count)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- a folder


def test_two_processes_finish_what_a_killed_one_began_and_leave_what_one_leaves(
    tmp_path: Path,
    other: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, scans, one, two = make_run(tmp_path / "run"), tmp_path / "scans", tmp_path / "one", tmp_path / "two"
    for i, name in enumerate(("a", "b", "sub/c", "sub/d", "e")):
        make_scan(scans / f"{name}.nii.gz", seed=i)
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    command = ["segment", "-i", str(scans), "--model", str(root)]
    with monkeypatch.context() as alone:
        alone.delenv("RANK")
        assert cli.main([*command, "-o", str(one)]) == 2
    table, manifest = (json.loads((one / name).read_text()) for name in ("index.json", "manifest.json"))
    # What a process of an earlier launch leaves when it is killed: a mask, its line, half a line, half a mask.
    (two / "sub").mkdir(parents=True)
    mask, row = two / "sub/c.nii.gz", next(row for row in table["masks"] if row["case"] == "sub/c.nii.gz")
    mask.write_bytes((one / "sub/c.nii.gz").read_bytes())
    note = {
        "path": row["case"],
        "state": "written",
        "mask": row["mask"],
        "sha256": row["sha256"],
        "error": None,
        "row": row,
        "warning": None,
    }
    wrote = {"wrote": {"sub/c.nii.gz": hashlib.sha256(mask.read_bytes()).hexdigest()}}
    (two / ".done-6.jsonl").write_text(json.dumps(wrote) + "\n" + json.dumps(note) + "\n" + json.dumps(note)[:40])
    (two / "sub/.part-999999999-d.nii.gz").write_bytes(b"half")
    stamp = mask.stat().st_mtime_ns
    capsys.readouterr()
    second = other("-m", "coinseg", *command, "-o", two)
    assert cli.main([*command, "-o", str(two)]) == 2
    assert second.communicate(timeout=60) == ("", "")
    assert second.returncode == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"4 masks written to {two}"
    assert "1 inputs failed, 4 masks were written: " in err
    assert "broken.nii.gz" in err
    assert mask.stat().st_mtime_ns == stamp
    made, expected = files(two), files(one)
    again = json.loads(made.pop("manifest.json"))
    del expected["manifest.json"]
    assert json.loads(made["index.json"]) == json.loads(expected["index.json"])
    assert made == expected
    assert again["processes"] == 2
    assert [record.pop("state") for record in again["inputs"]] == [
        "written",
        "written",
        "failed",
        "written",
        "skipped",
        "written",
    ]
    assert [record.pop("state") for record in manifest["inputs"]] == ["written", "written", "failed", *["written"] * 3]
    assert {name: again[name] for name in ("inputs", "failed", "model", "outputs")} == {
        name: manifest[name] for name in ("inputs", "failed", "model", "outputs")
    }


def test_an_interrupted_folder_keeps_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scans, out = make_run(tmp_path / "run"), tmp_path / "scans", tmp_path / "out"
    for i, name in enumerate("abc"):
        make_scan(scans / f"{name}.nii.gz", seed=i)
    command = ["segment", "-i", str(scans), "-o", str(out), "--model", str(root)]

    write = Segmentation.write

    def stopped(segmentation: Segmentation, place: Path, overwrite: bool = False) -> None:
        if place.name == "b.nii.gz":
            raise KeyboardInterrupt
        write(segmentation, place, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "write", stopped)
        assert cli.main(command) == 130
    assert sorted(files(out)) == ["a.nii.gz", "index.csv", "index.json"]
    first = json.loads((out / "index.json").read_text())["masks"]
    assert cli.main(command) == 0
    rows = json.loads((out / "index.json").read_text())["masks"]
    assert [row["case"] for row in rows] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert first == rows[:1]


def test_processes_that_do_not_share_the_output_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scans = make_run(tmp_path / "run"), tmp_path / "scans"
    for name in "ab":
        make_scan(scans / f"{name}.nii.gz")
    monkeypatch.setattr(batch, "rank_info", lambda: RankInfo(0, 2, 0))
    monkeypatch.setattr(batch, "process_group", lambda here: nullcontext(ProcessGroup(RankInfo())))
    with pytest.raises(UserError, match=r"does not say what became of 1 inputs, b\.nii\.gz among them; required: an output"):
        batch.segment_path(batch.Request(scans, tmp_path / "out", root, accelerator="cpu"))


@pytest.mark.parametrize(("local", "gpus", "device"), [(0, 1, 0), (3, 4, 3), (3, 2, 1)])
def test_each_process_of_a_node_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch, local: int, gpus: int, device: int) -> None:
    monkeypatch.setattr(devices, "rank_info", lambda: RankInfo(local, 8, local))
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(lightning_fabric, "Fabric", lambda **asked: asked["devices"])
    assert devices.choose_device(EngineSettings(accelerator="cuda")) == torch.device("cuda", device)
    assert devices.make_fabric(EngineSettings(accelerator="cuda")) == [device]


DIES = """
import os
from coinseg.runtime.process_group import process_group, rank_info
with process_group(rank_info()) as others:
    assert others.broadcast("mine") == "yours"
    os._exit(9)
"""


def test_who_waits_for_a_process_that_died_is_told_at_once(other: Callable[..., subprocess.Popen[str]]) -> None:
    second = other("-c", DIES)
    with processes.process_group(rank_info()) as others:
        assert others.broadcast("yours") == "yours"
        assert second.wait(60) == 9
        began = time.monotonic()
        with pytest.raises(
            UserError, match=r"ended early .*; required: all of them; see what it said, then give the same command"
        ):
            others.barrier()
        assert time.monotonic() - began < 30


def test_of_one_file_only_the_first_process_makes_the_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, scan = make_run(tmp_path / "run"), make_scan(tmp_path / "scan.nii.gz")
    command = ["segment", "-i", str(scan), "-o", str(tmp_path / "mask.nii.gz"), "--model", str(root)]
    for rank, there in ((1, False), (0, True)):
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        assert cli.main(command) == 0
        assert (tmp_path / "mask.nii.gz").exists() == there
        assert bool(capsys.readouterr().out) == there


def test_two_inputs_with_one_mask_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, scans, out = make_run(tmp_path / "run"), tmp_path / "scans", tmp_path / "out"
    make_scan(scans / "a.nii", seed=1)
    make_scan(scans / "a.nii.gz", seed=2)
    assert cli.main(["segment", "-i", str(scans), "-o", str(out), "--model", str(root)]) == 2
    assert "a.nii.gz and a.nii would have one mask, a.nii.gz" in capsys.readouterr().err
    assert [row["case"] for row in json.loads((out / "index.json").read_text())["masks"]] == ["a.nii"]


def test_a_run_folder_is_no_place_for_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, scans = make_run(tmp_path / "run"), tmp_path / "scans"
    make_scan(scans / "a.nii.gz")
    (root / "manifest.json").write_text(json.dumps({"schema": 1, "command": "coinseg run"}))
    before = files(root)
    assert cli.main(["segment", "-i", str(scans), "-o", str(root), "--model", str(root)]) == 2
    assert "holds the manifest of something else" in capsys.readouterr().err
    assert files(root) == before


# --- a reader that goes away


def test_a_closed_pipe_ends_quietly() -> None:
    """What `coinseg info --json | head -1` comes to."""
    command = [sys.executable, "-m", "coinseg", "info", "--json"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


# --- data sets as those the run was trained on


@pytest.mark.parametrize("layout", ["totalsegmentator", "nnunet", "kits", "dicom", "csv"])
def test_a_data_set_is_segmented_as_its_scans_one_by_one(layout: str, tmp_path: Path) -> None:
    data = EXAMPLES[layout].make(tmp_path / "data")
    settings = EXAMPLES[layout].settings(**({"roi": "organ"} if layout in ("totalsegmentator", "nnunet", "kits") else {}))
    tiny = replace(tiny_settings(), data=settings.data)
    run = make_run(tmp_path / "run", tiny, "percentile" if layout == "csv" else "hu")
    out = tmp_path / "masks"
    assert cli.main(["segment", "-i", str(data), "-o", str(out), "--model", str(run)]) == 0
    cases = read_layout(data, settings.data).cases
    made = {path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz")} | {p.name for p in out.rglob("*.png")}
    assert len(made) == len(cases)
    predictor = load(run)
    for case in cases:
        mask = out / case.image.relative_to(data).parent / mask_name(case.image)
        found = read_mask(MaskSource(mask), read_geometry(mask)) if case.volume else read_image(mask) > 0
        assert np.array_equal(found, predictor.segment(case.image, case.organ).mask.reshape(found.shape)), case.id


def test_scans_without_their_organ_fail_one_by_one_and_another_organ_makes_the_mask_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = EXAMPLES["totalsegmentator"].make(tmp_path / "data"), tmp_path / "masks"
    tiny = replace(tiny_settings(), data=EXAMPLES["totalsegmentator"].settings(roi="organ").data)
    command = ["segment", "-i", str(data), "-o", str(out), "--model", str(make_run(tmp_path / "run", tiny))]
    (data / "s2/segmentations/kidney_left.nii.gz").rename(tmp_path / "kidney_left.nii.gz")
    assert cli.main(command) == 2
    assert "1 inputs failed, 3 masks were written: no organ mask for " in capsys.readouterr().err
    (tmp_path / "kidney_left.nii.gz").rename(data / "s2/segmentations/kidney_left.nii.gz")
    half = labelled()
    half[2:] = 0
    save(data / "s0/segmentations/kidney_left.nii.gz", half)
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert said.out.startswith("2 masks written")
    assert "s0/ct.nii.gz: another scan, channel or organ mask than those its mask was made of" in said.err
    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith("0 masks written")
    for wrong in ([str(data / "s0/segmentations/kidney_left.nii.gz")], [str(data), str(data)]):
        assert cli.main([*command, "--organ", *wrong]) == 2
        assert "required: one folder with the organ masks of all" in capsys.readouterr().err
    moved = tmp_path / "organs"
    for path in data.glob("s*/segmentations"):
        (moved / path.parent.name).mkdir(parents=True)
        path.rename(moved / path.parent.name / path.name)
    assert cli.main([*command, "--organ", str(moved)]) == 0
    assert capsys.readouterr().out.startswith("0 masks written")


def test_an_input_that_cannot_be_read_or_named_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that refuses an input is not one that refuses the output; nor is a name whose mask would have a longer one."""
    model, scans, out = make_run(tmp_path / "model"), tmp_path / "scans", tmp_path / "masks"
    names = ["a.nii.gz", "b.nii.gz", "c.nii.gz", f"{'x' * 251}.nii"]
    for name in names:
        make_scan(scans / name)
    read = nifti._stream

    def refused(path: Path) -> Any:
        if path.name == "b.nii.gz":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(nifti, "_stream", refused)
    assert cli.main(["segment", "-i", str(scans), "-o", str(out), "--model", str(model)]) == 2
    said = capsys.readouterr()
    assert "2 masks written" in said.out
    assert "2 inputs failed, 2 masks were written: " in said.err
    assert "b.nii.gz cannot be read" in said.err
    assert "a name of 258 characters (xxxxxxxxxxxxxxxxxxxx...)" in said.err
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    inputs = {one["path"]: one["state"] for one in json.loads((out / "manifest.json").read_text())["inputs"]}
    assert inputs == dict(zip(names, ("written", "failed", "written", "failed"), strict=True))
