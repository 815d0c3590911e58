"""What a machine does to a run: full and read-only disks, inputs that go, two at one output, jumping clocks, no memory, NaN.

`tests/kill_harness.py` has the kills, `tests/runtime/test_signals.py` the signals.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from coinseg.cli import main as cli
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.intensity import Window
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError, is_full, one_line, out_of_memory
from coinseg.inference import checkpoint as saved
from coinseg.inference.predictor import Preparation
from coinseg.pipeline import mask_files
from coinseg.pipeline.run import Workspace
from coinseg.runtime import batching as memory
from coinseg.runtime import devices
from coinseg.runtime import files as storage
from coinseg.runtime.files import written_aside
from coinseg.runtime.locks import claimed, locked
from coinseg.runtime.stage import Stage
from coinseg.training import classifier as training
from coinseg.training import coin as coin_training
from coinseg.training import keys
from coinseg.training.classifier import train_classifier
from coinseg.training.coin import train_coin
from coinseg.types import Case, Explanation, MaskSource
from conftest import TINY, nothing_abroad, tiny_settings, write_images
from writers import PLAIN, make_run, make_scan, scan_of, write_nifti, write_series, zipped


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that failed."""
    said = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(said)
    found = [line for line in said if line.startswith("coinseg: error: ")]
    assert len(found) == 1, said
    assert "; required: " in found[0]
    return found[0]


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder: hash, size and time of change of files, time of change of folders, which their listing moves."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        stat = path.stat()
        digest = "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.relative_to(folder).as_posix()] = f"{stat.st_mtime_ns} {digest}"
    return found


def results(out: Path) -> dict[str, bytes]:
    """What must be the same whatever happened on the way."""
    names = ("classifier/model.safetensors", "coin/generator.safetensors", "evaluation/slices.csv", "evaluation/examples.npz")
    return {name: (out / name).read_bytes() for name in (*names, "masks/index.csv", "model.json")} | {
        p.name: p.read_bytes() for p in (out / "masks").glob("*.png")
    }


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(["run", str(images), "-o", str(out), *TINY]) == 0
    return out


# --- disks


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the system refuses in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_stops_in_the_middle_is_one_line_at_every_stage(
    images: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, out = ["run", str(images), "-o", str(tmp_path / "run"), *TINY], tmp_path / "run"
    sizes = sorted({path.stat().st_size for path in undisturbed.rglob("*") if path.is_file()})
    for size in sizes[:-1:3]:  # each stops another file
        with file_limit(size):
            code = cli.main(command)
        assert code == 2
        assert "File too large" in error_line(capsys)
        assert not list(out.rglob(".*"))
    assert cli.main(command) == 0
    assert results(out) == results(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A real disk of its own, mounted with the options given; skipped where this is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if place.is_mount() else ["-o", options]
        try:
            subprocess.run(["mount", "-t", "tmpfs", *again, "none", str(place)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs the right to mount")
        return place

    yield mounted
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_with_room_the_same_command_finishes(
    images: Path, undisturbed: Path, small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(images), "-o", str(small_disk("size=300k") / "run"), *TINY]
    for size in (300, 500, 700):
        out = small_disk(f"size={size}k") / "run"
        assert cli.main(command) == 2
        line = error_line(capsys)
        assert "No space left on device" in line or "are needed for" in line
        assert not list(out.rglob(".*"))
    small_disk("size=50m")
    assert cli.main(command) == 0
    assert results(out) == results(undisturbed)


def test_a_disk_that_is_full_ends_a_folder_of_scans_at_once(
    tmp_path: Path, small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, scans, out = make_run(tmp_path / "model"), tmp_path / "scans", small_disk("size=1m") / "masks"
    for name in "abc":
        make_scan(scans / f"{name}.nii.gz", seed=ord(name))
    command = ["segment", "-i", str(scans), "-o", str(out), "--model", str(model)]
    filler = out.parent / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2**21))
    assert cli.main(command) == 2
    line = error_line(capsys)
    assert "No space left on device" in line
    assert "inputs failed" not in line
    filler.unlink()
    assert cli.main(command) == 0
    assert sorted(p.name for p in out.glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


def writing_commands(data: Path, out: Path) -> dict[str, list[str]]:
    """Every command that writes, with its output below `out`; the inputs are made by `make_inputs`."""
    images, scan, model = str(data / "images"), str(data / "scans" / "a.nii.gz"), ["--model", str(data / "model")]
    return {
        "run": ["run", images, "-o", str(out / "run"), *TINY],
        "prepare": ["prepare", images, "-o", str(out / "prepared"), *TINY],
        "reproduce": ["reproduce", "table3", "--data", images, "-o", str(out / "tables"), "--seeds", "1", *TINY],
        "phantom": ["phantom", str(out / "ct"), "--patients", "1", "--slices", "4", "--size", "32", "--processes", "1"],
        "segment file": ["segment", "-i", scan, "-o", str(out / "m.nii.gz"), *model],
        "segment maps": ["segment", "-i", scan, "-o", str(out / "n.nii.gz"), "--difference", str(out / "d.nii.gz"), *model],
        "segment image": ["segment", "-i", str(data / "images" / "abnormal" / "i01.png"), "-o", str(out / "m.png"), "--model",
            str(data / "model2")],
        "segment series": ["segment", "-i", str(data / "series"), "-o", str(out / "s.nii.gz"), *model],
        "segment zip": ["segment", "-i", str(data / "series.zip"), "-o", str(out / "z.nii.gz"), *model],
        "segment folder": ["segment", "-i", str(data / "scans"), "-o", str(out / "masks"), *model],
        "export": ["export", str(data / "model"), "-o", str(out / "exported")],
        "export-seg": ["export-seg", str(data / "mask.nii.gz"), "--dicom", str(data / "series"), "-o", str(out / "m.dcm")],
        "export-nnunet": ["export-nnunet", str(data / "scans"), "--masks", str(data / "masks"), "-o",
            str(out / "Dataset101_lesion")],
    }  # fmt: skip


NAMES = list(writing_commands(Path(), Path()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of every kind."""
    root = tmp_path_factory.mktemp("inputs")
    write_images(root / "images", each=2)
    make_run(root / "model")
    make_run(root / "model2", kind="percentile")
    for name in ("a.nii.gz", "sub/b.nii.gz"):
        make_scan(root / "scans" / name)
        make_scan(root / "masks" / name)
    needed = {"FrameOfReferenceUID": "1.2.9", "PositionReferenceIndicator": "", "Manufacturer": "none"}
    zipped(write_series(root / "series", scan_of((40, 44, 3)), PLAIN, **needed), root / "series.zip")
    write_nifti(root / "mask.nii.gz", (scan_of((40, 44, 3)) > 300).astype(np.uint8), PLAIN)
    return root


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of every command; the inputs are looked at before and after each, and none goes abroad."""
    out = tmp_path_factory.mktemp("outputs")
    before = contents(data)
    telling = [["inspect", str(data / "images")], [*writing_commands(data, out)["run"], "--dry-run"]]
    for command in (*telling, *writing_commands(data, out).values()):
        with nothing_abroad() as asked:
            assert cli.main(command) == 0, command
        assert asked == [], command
        assert contents(data) == before, command
    return out


def test_no_command_modifies_its_inputs_or_writes_beside_them(made: Path) -> None:
    """Held in the fixture; here that nothing is left beside the outputs either."""
    assert not list(made.rglob(".*"))


@pytest.mark.slow
def test_no_command_connects_listens_or_makes_links(data: Path, made: Path) -> None:
    """The others are held in the fixture; a download that is not asked for would be refused there, or listed."""
    with nothing_abroad() as asked, pytest.raises(PermissionError):
        socket.create_connection(("127.0.0.1", 9))
    assert [line.split()[0] for line in asked] == ["socket.getaddrinfo"]
    run, reviewed = str(made / "run"), str(made / "reviewed")
    commands = [
        ["info"], ["doctor"], ["evaluate", run], ["report", run],
        ["review-import", run, f"{run}/masks", "--reviewer", "ann", "--accept"], ["review-export", run, "masks", "-o", reviewed],
        ["review-page", run, "-o", str(made / "pages.html")],
        ["inspect", str(data / "images"), "--template", str(made / "template.csv")],
    ]  # fmt: skip
    for command in commands:
        with nothing_abroad() as asked:
            assert cli.main(command) == 0, command
        assert asked == [], command


@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_disk_is_one_line(
    data: Path, small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    small_disk("size=1m")
    place = small_disk("ro")
    assert cli.main(writing_commands(data, place)[name]) == 2
    assert "Read-only file system" in error_line(capsys)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_one_may_not_write_to_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def denied(path: Path, *rest: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", denied)
    monkeypatch.setattr(os, "replace", denied)
    assert cli.main(writing_commands(data, tmp_path)[name]) == 2
    line = error_line(capsys)
    assert "Permission denied" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_the_system_refuses_in_words() -> None:
    found = {
        code: one_line(OSError(code, os.strerror(code), "a/b"))
        for code in (errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.EMFILE, errno.EIO)
    }
    assert found[errno.ENOSPC] == (
        "No space left on device (a/b); required: room on the disk; free some or choose another output, "
        "then give the same command again"
    )
    assert "may be written" in found[errno.EROFS]
    assert "stay where they are" in found[errno.ENOENT]
    assert "ulimit -n" in found[errno.EMFILE]
    assert "a disk that works" in found[errno.EIO]
    assert is_full(OSError(errno.ENOSPC, ""))
    assert not is_full(OSError(errno.ENOENT, ""))
    wrapped = UserError("a", "b", "c")
    wrapped.__cause__ = OSError(errno.EROFS, "")
    assert is_full(wrapped)


def test_contents_are_on_the_disk_before_their_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: order.append(os.readlink(f"/proc/self/fd/{number}")) or sync(number))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(f"to {b}") or move(a, b))
    with storage.directory_written_aside(tmp_path / "store") as part:
        (part / "a").write_text("x")
    assert [Path(step).name for step in order] == ["a", part.name, "store", tmp_path.name]
    order.clear()
    with written_aside(tmp_path / "b") as part:
        part.write_text("x")
    assert [Path(step).name for step in order] == [part.name, "b", tmp_path.name]


# --- inputs


def test_inputs_that_go_while_they_are_prepared_stop_the_command(tmp_path: Path) -> None:
    images, settings = write_images(tmp_path / "images"), tiny_settings()
    cohort = read_layout(images, settings.data)

    def unplugged(done: int, total: int) -> None:
        if done == 5:
            images.rename(tmp_path / "gone")

    with pytest.raises(
        UserError, match=r"is gone since the command began; required: data that stay where they are; put them back"
    ):
        prepare(cohort, settings, tmp_path / "slices", unplugged)
    assert not (tmp_path / "slices").exists()
    (tmp_path / "gone").rename(images)
    assert len(prepare(cohort, settings, tmp_path / "slices")) == 24


def test_a_pipe_among_images_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images")
    os.mkfifo(images / "normal" / "z.png")
    assert len(prepare(read_layout(images, tiny_settings().data), tiny_settings(), tmp_path / "slices")) == 24
    assert cli.main(["prepare", str(images), "-o", str(tmp_path / "run"), *TINY]) == 0
    assert "z.png is missing or no file" in "".join(capsys.readouterr())


def test_a_link_that_leads_nowhere_is_called_one(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    (images / "normal" / "z.png").symlink_to(tmp_path / "annex" / "z.png")
    with pytest.raises(UserError, match=r"z\.png is a link to a file that is not there; .*git annex get"):
        prepare(read_layout(images, tiny_settings().data), tiny_settings(), tmp_path / "slices")


def test_inputs_that_go_before_their_masks_are_made_are_not_left_out_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", each=2)
    command = ["run", str(images), "-o", str(tmp_path / "run"), *TINY]
    evaluated = ["evaluate", str(tmp_path / "run")]
    assert cli.main(["prepare", *command[1:]]) == 0
    assert cli.main(evaluated) == 0
    work = Workspace(images, tmp_path / "run", tiny_settings())
    lost = images / "abnormal" / "i03.png"
    cohort = work.cohort
    lost.rename(tmp_path / "i03.png")
    with pytest.raises(UserError, match=r"i03\.png is gone since the command began"):
        mask_files.segmented(
            SimpleNamespace(settings=work.settings, preparation=Preparation("percentile", Window(0.0, 65535.0), False)),
            list(cohort.cases),
        )  # type: ignore[arg-type]
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "the data are not those" in error_line(capsys)
    (tmp_path / "i03.png").rename(lost)
    assert cli.main(command) == 0


def test_results_of_changed_data_are_not_replaced_unless_asked(
    tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images")
    command = ["run", str(images), "-o", str(tmp_path / "run"), *TINY]
    assert cli.main(command) == 0
    before = contents(tmp_path / "run")
    Image.fromarray(np.full((40, 44), 7, np.uint8)).save(images / "normal" / "i00.png")
    assert cli.main(command) == 2
    assert "choose another -o, or give --overwrite to redo everything" in error_line(capsys)
    after = contents(tmp_path / "run")
    assert {k: v for k, v in after.items() if k != "."} == {k: v for k, v in before.items() if k != "."}
    assert cli.main([*command, "--overwrite"]) == 0
    assert results(tmp_path / "run") != results(undisturbed)


def test_data_that_were_copied_elsewhere_are_the_same_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, elsewhere, out = write_images(tmp_path / "images"), tmp_path / "elsewhere", tmp_path / "run"
    assert cli.main(["run", str(images), "-o", str(out), *TINY]) == 0
    before = contents(out)
    images.rename(elsewhere)
    for file in elsewhere.rglob("*.png"):
        os.utime(file, (1, 1))
    assert cli.main(["run", str(elsewhere), "-o", str(out), *TINY]) == 0
    after = contents(out)
    stages = [name for name in before if name.startswith(("classifier/", "coin/", "student/", "teacher-"))]
    assert stages
    assert {name: after[name] for name in stages} == {name: before[name] for name in stages}  # nothing was trained again
    assert str(elsewhere) in (out / "settings.yaml").read_text()
    # Others at the same place, or at another one, are refused, and what there is stays.
    Image.fromarray(np.full((40, 44), 7, np.uint8)).save(elsewhere / "normal" / "i00.png")
    elsewhere.rename(images)
    capsys.readouterr()
    assert cli.main(["run", str(images), "-o", str(out), *TINY]) == 2
    assert "pixels, masks, labels or patients differ" in error_line(capsys)
    assert {name: found for name, found in contents(out).items() if name != "."} == {
        name: found for name, found in after.items() if name != "."
    }


@pytest.mark.parametrize("place", ["scans/a.nii.gz", "organ.nii.gz"])
def test_an_input_is_no_output_even_with_overwrite(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    shutil.copytree(data / "scans", tmp_path / "scans")
    shutil.copy(data / "mask.nii.gz", tmp_path / "organ.nii.gz")
    before = contents(tmp_path)
    scan, organ = str(tmp_path / "scans" / "a.nii.gz"), str(tmp_path / "organ.nii.gz")
    command = [
        "segment",
        "-i",
        scan,
        "--organ",
        organ,
        "-o",
        str(tmp_path / place),
        "--model",
        str(data / "model"),
        "--overwrite",
    ]
    assert cli.main(command) == 2
    assert "is the input" in error_line(capsys)
    assert contents(tmp_path) == before


def test_no_output_among_the_inputs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(data / "series", tmp_path / "series")
    slice_ = next((tmp_path / "series").iterdir())
    mask = str(data / "mask.nii.gz")
    for out in (slice_, tmp_path / "series" / "new.dcm"):
        assert cli.main(["export-seg", mask, "--dicom", str(tmp_path / "series"), "-o", str(out), "--overwrite"]) == 2
        assert "lies inside the input" in error_line(capsys)
    shutil.copytree(data / "scans", tmp_path / "scans")
    nnunet = [
        "export-nnunet",
        str(tmp_path / "scans"),
        "--masks",
        str(data / "masks"),
        "-o",
        str(tmp_path / "scans" / "Dataset1_x"),
    ]
    assert cli.main(nnunet) == 2
    assert "lies inside the input" in error_line(capsys)
    # A mask that would take the place of another scan: scans/scans/a.nii.gz, written to the folder of scans.
    make_scan(tmp_path / "deep" / "deep" / "a.nii.gz")
    make_scan(tmp_path / "deep" / "deep" / "deep" / "a.nii.gz")
    folder = [
        "segment",
        "-i",
        str(tmp_path / "deep" / "deep"),
        "-o",
        str(tmp_path / "deep"),
        "--model",
        str(data / "model"),
        "--overwrite",
    ]
    before = contents(tmp_path / "deep" / "deep")
    assert cli.main(folder) == 2
    assert "is the input" in error_line(capsys)
    assert contents(tmp_path / "deep" / "deep") == before


# --- outputs


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_never_silently_overwritten(data: Path, made: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Given again a command changes nothing that is done, or refuses; `reproduce` writes its tables again, the same."""
    command, before = writing_commands(data, made)[name], {p: p.read_bytes() for p in made.rglob("*") if p.is_file()}
    code = cli.main(command)
    after = {p: p.read_bytes() for p in made.rglob("*") if p.is_file()}
    changed = {p.name for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    if name in ("run", "prepare", "reproduce", "phantom", "segment folder"):
        assert code == 0
        assert changed <= {
            "manifest.json",
            "report.html",
            "outputs.sha256",
            "checksums.json",
        }  # the time they were written, and their hashes
    else:
        assert code == 2
        assert "exists; required: a new f" in error_line(capsys)
        assert not changed


@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_else_put_there_is_never_overwritten(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    command = writing_commands(data, tmp_path)[name]
    out = Path(command[1] if name == "phantom" else command[command.index("-o") + 1])
    mine = out if out.suffix else out / ("a.nii.gz" if name == "segment folder" else "thesis.docx")
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    assert cli.main(command) == 2
    error_line(capsys)
    assert mine.read_text() == "mine"


def test_masks_of_another_model_are_not_mixed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_run(tmp_path / "other", replace(tiny_settings(), seed=7))
    command = ["segment", "-i", str(data / "scans"), "-o", str(tmp_path / "masks"), "--model"]
    assert cli.main([*command, str(data / "model")]) == 0
    before = contents(tmp_path / "masks")
    assert cli.main([*command, str(other)]) == 2
    assert "holds masks of another model; required: masks of one model" in error_line(capsys)
    assert {k: v for k, v in contents(tmp_path / "masks").items() if k != "."} == {k: v for k, v in before.items() if k != "."}
    assert cli.main([*command, str(other), "--overwrite"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_two_commands_at_one_output(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    command = writing_commands(data, tmp_path)[name]
    out = Path(command[1] if name == "phantom" else command[command.index("-o") + 1])
    whole = name in ("run", "prepare", "reproduce", "phantom", "segment folder")
    with locked(out) if whole else claimed(out):
        before = sorted(tmp_path.rglob("*"))
        assert cli.main(command) == 2
        assert f"another coinseg is writing to {out}; required: one at a time" in error_line(capsys)
        assert sorted(tmp_path.rglob("*")) == before
    assert not list(tmp_path.rglob(".*"))


def test_a_killed_command_may_replace_its_own_and_nobody_elses(tmp_path: Path) -> None:
    out, other = tmp_path / "m.nii.gz", tmp_path / "c.nii.gz"
    with claimed(out, other) as claim:
        for place in (out, other):
            with written_aside(place) as part:
                part.write_text("ours")
        left = next(tmp_path.glob(".lock-*")).read_bytes()
    assert not list(tmp_path.glob(".*"))
    lock = tmp_path / ".lock-m.nii.gz"
    lock.write_bytes(left)  # as a kill leaves it
    out.write_text("somebody's")
    with claimed(out, other) as claim:
        assert (claim.may_replace(out), claim.may_replace(other)) == (False, True)
        with written_aside(other) as part:
            part.write_text("ours, anew")
        raised = pytest.raises(UserError, match=r"m\.nii\.gz exists and is not what coinseg wrote there")
        with raised, written_aside(out) as part:
            part.write_text("ours, anew")
    lock.write_bytes(left)
    other.write_text("ours")
    with suppress(KeyboardInterrupt), claimed(out, other):
        raise KeyboardInterrupt
    assert (out.read_text(), other.read_text()) == ("somebody's", "ours")
    assert lock.exists()  # what is there of this command may be replaced by it once more
    out.unlink()
    with claimed(out, other) as claim:
        assert claim.may_replace(out)
        assert claim.may_replace(other)
    with claimed(out, other) as claim:  # it ended well: what is there is an output like any other
        assert not claim.may_replace(other)
    with claimed(out, other, overwrite=True) as claim:
        assert claim.may_replace(other)


def test_a_command_that_fails_before_its_first_output_leaves_no_lock(tmp_path: Path) -> None:
    out = tmp_path / "new" / "m.nii.gz"
    with suppress(OSError), claimed(out), written_aside(out):
        raise OSError("full")
    assert not list(tmp_path.iterdir())


def test_leftovers_go_whoever_has_their_number_now(tmp_path: Path) -> None:
    (tmp_path / "sub" / f".part-{os.getppid()}-x").mkdir(parents=True)
    (tmp_path / "sub" / f".part-{os.getpid()}-y.png").touch()
    (tmp_path / "sub" / ".part-of-mine").touch()
    with locked(tmp_path):
        assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == [".part-of-mine"]


def test_a_run_killed_before_it_wrote_anything_can_be_begun_again(images: Path, tmp_path: Path) -> None:
    for number, name in enumerate((".lock", ".part-77-settings.yaml", ".part-77-phantom.json")):
        out = tmp_path / str(number)
        out.mkdir()
        (out / name).touch()
        command = ["phantom", str(out), "--patients", "1", "--slices", "4", "--size", "32"]
        assert cli.main(command if "phantom" in name else ["prepare", str(images), "-o", str(out), *TINY]) == 0
        assert not list(out.rglob(".*"))


# --- time


def test_jumping_clocks_change_nothing(undisturbed: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back to 1970, far ahead, and back again between any two looks at the clock; an interruption on the way too."""
    jumps = itertools.cycle([0.0, 4e9, 1.7e9])
    command, out = ["run", str(images), "-o", str(tmp_path / "run"), *TINY, "--engine.checkpoint_every", "2"], tmp_path / "run"
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "finish", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(command) == 130
    assert (out / "classifier" / "checkpoint.pt").exists()
    assert cli.main(command) == 0
    assert results(out) | {"model.json": b""} == results(undisturbed) | {"model.json": b""}
    timings = json.loads((out / "manifest.json").read_text())["timings_s"]
    assert all(seconds >= 0 for seconds in timings.values())


def test_files_of_the_future_and_of_1970_are_read(tmp_path: Path) -> None:
    images, settings = write_images(tmp_path / "images", each=2), tiny_settings()
    for path, when in zip(sorted(images.rglob("*.png")), itertools.cycle([0, 4e9]), strict=False):
        os.utime(path, (when, when))
    first = prepare(read_layout(images, settings.data), settings, tmp_path / "slices")
    assert prepare(read_layout(images, settings.data), settings, tmp_path / "slices").meta == first.meta


# --- memory


def no_memory_on_the_cpu() -> RuntimeError:
    """What torch really raises."""
    try:
        torch.empty(2**60)
    except RuntimeError as error:
        return error
    raise AssertionError


def test_what_is_out_of_memory() -> None:
    assert out_of_memory(no_memory_on_the_cpu())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    assert out_of_memory(MemoryError())
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert "lower data.size, classifier.batch, coin.batch" in one_line(MemoryError())


@pytest.mark.parametrize(("stage", "setting"), [("classifier", "classifier.batch"), ("coin", "coin.batch")])
def test_a_training_without_memory_says_which_setting_to_lower(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str, setting: str
) -> None:
    def full(*arguments: object) -> None:
        raise no_memory_on_the_cpu()

    target = (coin_training.coin, "generate") if stage == "coin" else (training.F, "binary_cross_entropy_with_logits")
    monkeypatch.setattr(*target, full)
    assert cli.main(["run", str(images), "-o", str(tmp_path / "run"), *TINY]) == 2
    line = error_line(capsys)
    assert "out of memory in training (RuntimeError: " in line
    assert line.endswith(f"required: room for one step; lower {setting} or data.size")


def test_outside_training_the_batch_is_halved_and_this_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = saved.load(make_run(tmp_path / "model"))
    monkeypatch.setattr(memory._Limit, "images", devices.CHUNK)
    x = torch.rand(70, 1, 32, 32) * 2 - 1
    expected = run.explain(x)
    tried: list[int] = []
    own = run.explainer._explain

    def small(images: torch.Tensor, level: float) -> Explanation:
        tried.append(len(images))
        if len(images) > 20:
            raise no_memory_on_the_cpu()
        return own(images, level)

    run.explainer.__dict__["_explain"] = small  # what is kept of a frozen explainer
    found = run.explain(x)
    assert tried == [64, 32, 16, 16, 16, 16, 6]
    torch.testing.assert_close(found.counterfactual, expected.counterfactual, atol=1e-5, rtol=0)
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 64 images at a time: going on with 32",
        "out of memory with 32 images at a time: going on with 16",
    ]
    with pytest.raises(RuntimeError):
        memory.map_batched(lambda part: (_ for _ in ()).throw(no_memory_on_the_cpu()), x)


# --- NaN


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    stage, module = Stage(tmp_path, "key"), torch.nn.Linear(2, 2)
    stage.save(2, "coin.lr", g=module.state_dict())
    before = (tmp_path / "checkpoint.pt").read_bytes()
    module.weight.data[0, 1] = float("nan")
    for write in (
        lambda: stage.save(4, "coin.lr", g=module.state_dict()),
        lambda: stage.finish(module, "g.safetensors", "coin.lr"),
    ):
        with pytest.raises(UserError, match=r"became NaN or infinite before .*; required: finite weights; lower coin.lr"):
            write()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "checksums.json") == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    optimiser = torch.optim.Adam(module.parameters())
    optimiser.state[module.weight] = {"step": torch.tensor(1.0), "exp_avg": torch.tensor([float("inf")])}
    with pytest.raises(UserError, match=r"^optimiser of the training became NaN"):
        stage.save(4, "coin.lr", optimiser=optimiser.state_dict())


def test_a_poisoned_checkpoint_of_before_is_forgotten(undisturbed: Path, images: Path, tmp_path: Path) -> None:
    settings = tiny_settings()
    store = prepare(read_layout(images, settings.data), settings, tmp_path / "slices")
    f = train_classifier(store, settings, tmp_path / "classifier")
    expected = {name: value.clone() for name, value in f.state_dict().items()}
    folder = tmp_path / "poisoned"
    stage = Stage(folder, keys.classifier_key(store, settings))
    state = {name: torch.full_like(v, torch.nan) if v.is_floating_point() else v for name, v in f.state_dict().items()}
    folder.mkdir()
    torch.save({"key": stage.key, "step": 4, "seconds": 1.0, "f": state, "optimiser": {}}, folder / "checkpoint.pt")
    again = train_classifier(store, settings, folder).state_dict()
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_nan_in_the_last_update_leaves_no_model(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings()
    store = prepare(read_layout(images, settings.data), settings, tmp_path / "slices")
    f = train_classifier(store, settings, tmp_path / "classifier")
    own = coin_training.AveragedModel.update_parameters

    def poisoned(self: torch.nn.Module, model: torch.nn.Module) -> None:
        own(self, model)  # type: ignore[arg-type]
        if int(self.n_averaged) == settings.coin.steps:
            next(self.module.parameters()).data[0] = float("nan")

    monkeypatch.setattr(coin_training.AveragedModel, "update_parameters", poisoned)
    with pytest.raises(UserError, match="NaN or infinite"):
        train_coin(store, f, settings, tmp_path / "coin")
    assert not (tmp_path / "coin" / "generator.safetensors").exists()
    assert not (tmp_path / "coin" / "stage.json").exists()


def test_a_case_whose_organ_does_not_fit_has_no_mask_and_the_others_have_theirs(tmp_path: Path) -> None:
    for i, wide in enumerate((8, 30)):
        organ = np.zeros((40, 44, 3), np.uint8)
        organ[4 : 4 + wide, 4 : 4 + wide] = 1
        for name, voxels in (("scan", np.full(organ.shape, 40, np.int16)), ("organ", organ)):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}{i}.nii.gz")
    base = tiny_settings()
    run = SimpleNamespace(
        settings=replace(base, data=replace(base.data, roi="organ", size=16, spacing=1.0, min_organ_px=1)),
        segment_cases=lambda loaded: [one.scan.shape for one in loaded],
        preparation=Preparation("percentile", Window(0.0, 65535.0), True),
    )
    cases = [
        Case(f"s{i}", f"s{i}", tmp_path / f"scan{i}.nii.gz", volume=True, organ=(MaskSource(tmp_path / f"organ{i}.nii.gz"),))
        for i in (0, 1)
    ]
    assert [case.id for case in mask_files.segmented(run, cases)[0]] == ["s0"]  # type: ignore[arg-type]
