"""Whose files they are: nobody's file is replaced by a command, no stranger's run folder chooses what is read, links are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from coinseg.cli import main as cli
from coinseg.config.schema import Settings
from coinseg.data.readers.volume import read_volume, write_mask
from coinseg.errors import UserError
from coinseg.inference.scans import Segmentation
from coinseg.pipeline import run_folder
from coinseg.runtime.files import read_json
from coinseg.runtime.records import seal
from conftest import TINY, tiny_settings, write_images
from writers import make_run, make_scan

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("model") / "run")


def refused(capsys: Said, *words: object) -> str:
    """The one line of a command that must fail."""
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("coinseg: error: ")]
    assert len(said) == 1
    assert "; required: " in said[0]
    return said[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(out: Path) -> dict[str, str]:
    """Case -> the hash of what its mask was made of."""
    return {row["case"]: row["sha256"] for row in read_json(out / "index.json")["masks"]}


def drawn(mask: Path, scan: Path) -> bytes:
    """A mask that somebody drew by hand on the grid of a scan: three voxels."""
    volume = read_volume(scan)
    voxels = np.zeros(volume.scan.shape, bool)
    voxels[1, 3, 2:5] = True
    mask.parent.mkdir(parents=True, exist_ok=True)
    write_mask(mask, voxels, volume.geometry, overwrite=True)
    return mask.read_bytes()


# --- segment, folders


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("index.csv", "name,remark\na,mine\n", "index.csv exists and is not what coinseg wrote there"),
        ("index.json", '{"mine": 1}', "is no table of masks"),
        ("index.json", '{"schema": 1, "key": "of a run", "masks": []}', "is no table of masks"),
        ("index.json", "my index", "is no table of masks: coinseg did not write it there"),
        ("manifest.json", '{"mine": 1}', "holds the manifest of something else"),
        (
            "manifest.json",
            "of my van",
            "coinseg did not write manifest.json there; required: an output folder of its own; choose",
        ),
        ("manifest.json", "7", "coinseg did not write manifest.json there"),
    ],
)
def test_a_table_of_somebody_stays(tmp_path: Path, model: Path, capsys: Said, name: str, content: str, text: str) -> None:
    make_scan(tmp_path / "scans/a.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    assert text in refused(capsys, "segment", "-i", tmp_path / "scans", "-o", tmp_path / "out", "--model", model)
    assert contents(tmp_path / "out") == {name: content.encode()}


@pytest.mark.parametrize("content", ["of my van", "7", "[]", '{"mine": 1}'])
def test_an_export_and_confidences_leave_a_manifest_of_somebody(tmp_path: Path, model: Path, capsys: Said, content: str) -> None:
    make_scan(tmp_path / "scans/a.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(content)
    assert "out exists and holds something else" in refused(capsys, "export", model, "-o", tmp_path / "out")
    (tmp_path / "sure").mkdir()
    (tmp_path / "sure" / "confidence.json").write_text(content)
    words = ["-i", tmp_path / "scans", "-o", tmp_path / "masks", "--confidence", tmp_path / "sure", "--model", model]
    said = refused(capsys, "segment", *words)
    assert "coinseg did not write" in said or "is of other masks" in said
    assert contents(tmp_path / "out") == {"manifest.json": content.encode()}
    assert contents(tmp_path / "sure") == {"confidence.json": content.encode()}


def test_an_index_that_somebody_wrote_remarks_into_stays(tmp_path: Path, model: Path, capsys: Said) -> None:
    make_scan(tmp_path / "scans/a.nii.gz")
    command = ["segment", "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "--model", str(model)]
    assert cli.main(command) == 0
    table = tmp_path / "out/index.csv"
    table.write_text(remarked := table.read_text().replace("\n", ",remark\n"))
    assert "index.csv exists and is not what" in refused(capsys, *command)
    assert table.read_text() == remarked
    assert cli.main([*command, "--overwrite"]) == 0
    assert "remark" not in table.read_text()


def test_a_second_folder_adds_its_rows_and_a_scan_of_the_same_name_is_told_apart(
    tmp_path: Path, model: Path, capsys: Said
) -> None:
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    for seed, scan in enumerate((one / "a.nii.gz", one / "b.nii.gz", two / "b.nii.gz", two / "c.nii.gz")):
        make_scan(scan, seed=seed)
    for source in (one, two):
        assert cli.main(["segment", "-i", str(source), "-o", str(out), "--model", str(model)]) == 0
    assert (
        "b.nii.gz: another scan, channel or organ mask than those its mask was made of; the mask was made anew"
        in capsys.readouterr().err
    )
    assert list(rows(out)) == ["b.nii.gz", "c.nii.gz", "a.nii.gz"]
    assert len((out / "index.csv").read_text().splitlines()) == 4
    alone = tmp_path / "alone"
    assert cli.main(["segment", "-i", str(two), "-o", str(alone), "--model", str(model)]) == 0
    assert (out / "b.nii.gz").read_bytes() == (alone / "b.nii.gz").read_bytes()
    assert rows(out)["b.nii.gz"] == rows(alone)["b.nii.gz"]
    states = [record["state"] for record in read_json(out / "manifest.json")["inputs"]]
    assert states == ["written", "written"]
    assert read_json(out / "manifest.json")["warnings"]
    # The same scan under another ending is another case of the same mask.
    shutil.copytree(two, three := tmp_path / "three")
    (three / "c.nii.gz").unlink()
    write_as_nii = make_scan(three / "c.nii", seed=7)
    assert cli.main(["segment", "-i", str(three), "-o", str(out), "--model", str(model)]) == 0
    assert write_as_nii.name in rows(out)
    assert "c.nii.gz" not in rows(out)


def test_a_corrected_scan_has_a_new_mask_and_an_unchanged_one_its_old(tmp_path: Path, model: Path, capsys: Said) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    for seed, name in enumerate("ab"):
        make_scan(scans / f"{name}.nii.gz", seed=seed)
    command = ["segment", "-i", str(scans), "-o", str(out), "--model", str(model)]
    assert cli.main(command) == 0
    before = contents(out)
    stamp = (out / "a.nii.gz").stat().st_mtime_ns
    make_scan(scans / "b.nii.gz", seed=5)
    assert cli.main(command) == 0
    assert "b.nii.gz: another scan" in capsys.readouterr().err
    assert (out / "a.nii.gz").stat().st_mtime_ns == stamp
    assert cli.main([*command[:4], str(tmp_path / "fresh"), *command[5:]]) == 0
    fresh, after = contents(tmp_path / "fresh"), contents(out)
    assert {name: after[name] for name in ("a.nii.gz", "b.nii.gz", "index.csv", "index.json")} == {
        name: fresh[name] for name in ("a.nii.gz", "b.nii.gz", "index.csv", "index.json")
    }
    assert after["b.nii.gz"] != before["b.nii.gz"]


def test_a_mask_that_somebody_drew_is_never_replaced(tmp_path: Path, model: Path, capsys: Said) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    for seed, name in enumerate("ab"):
        make_scan(scans / f"{name}.nii.gz", seed=seed)
    mine = drawn(out / "a.nii.gz", scans / "a.nii.gz")
    command = ["segment", "-i", str(scans), "-o", str(out), "--model", str(model)]
    assert cli.main(command) == 0
    assert "a.nii.gz: its mask is not as coinseg wrote it; it was kept as it is" in capsys.readouterr().err
    assert (out / "a.nii.gz").read_bytes() == mine
    assert [record["state"] for record in read_json(out / "manifest.json")["inputs"]] == ["skipped", "written"]
    first = read_json(out / "index.json")["masks"][0]
    assert (first["pixels"], first["confidence"]) == (3, None)
    assert cli.main([*command, "--overwrite"]) == 0
    # Corrected by hand afterwards: kept, measured as it is, and this is said.
    ours = (out / "a.nii.gz").read_bytes()
    assert ours != mine
    assert mine == drawn(out / "a.nii.gz", scans / "a.nii.gz")
    capsys.readouterr()
    assert cli.main(command) == 0
    assert "a.nii.gz: its mask is not as coinseg wrote it; it was kept as it is" in capsys.readouterr().err
    row = next(row for row in read_json(out / "index.json")["masks"] if row["case"] == "a.nii.gz")
    assert (row["pixels"], row["confidence"]) == (3, None)
    # The scan changes: what was drawn stays, and the row with it.
    make_scan(scans / "a.nii.gz", seed=9)
    assert "a.nii.gz exists and is not what coinseg wrote there" in refused(capsys, *command)
    assert (out / "a.nii.gz").read_bytes() == mine
    assert "a.nii.gz" in rows(out)


def test_a_confidence_that_somebody_made_is_never_replaced(tmp_path: Path, model: Path, capsys: Said) -> None:
    scan, sure = make_scan(tmp_path / "scans/a.nii.gz"), tmp_path / "sure"
    command = ["segment", "-i", str(scan.parent), "-o", str(tmp_path / "out"), "--model", str(model), "--confidence", str(sure)]
    assert cli.main(command) == 0
    mine = drawn(sure / "a.nii.gz", scan)
    make_scan(scan, seed=4)
    assert "sure/a.nii.gz exists and is not what coinseg wrote there" in refused(capsys, *command)
    assert (sure / "a.nii.gz").read_bytes() == mine
    assert cli.main([*command, "--overwrite"]) == 0


def test_an_older_folder_without_hashes_of_its_masks_is_gone_on_with(tmp_path: Path, model: Path) -> None:
    make_scan(tmp_path / "scans/a.nii.gz")
    command = ["segment", "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "--model", str(model)]
    assert cli.main(command) == 0
    before, file = contents(tmp_path / "out"), tmp_path / "out/index.json"
    index = json.loads(before["index.json"])
    assert set(index.pop("sha256")) == {"a.nii.gz"}
    file.write_text(json.dumps(index))
    assert cli.main(command) == 0
    assert read_json(file)["masks"] == index["masks"]
    assert read_json(tmp_path / "out/manifest.json")["inputs"][0]["state"] == "skipped"


@pytest.mark.parametrize("name", ["masks", "confidence", "evaluation", "new/deep", "."])
def test_no_masks_inside_a_run_or_a_model(tmp_path: Path, model: Path, capsys: Said, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(model, run)
    (run / "masks").mkdir()
    before = contents(run)
    scan = make_scan(tmp_path / "scans/a.nii.gz")
    for words in (
        ["-i", scan.parent, "-o", run / name], ["-i", scan, "-o", run / name / "a.nii.gz"],
        ["-i", scan.parent, "-o", tmp_path / "out", "--confidence", run / name],
        ["-i", scan, "-o", tmp_path / "m.nii.gz", "--difference", run / name / "d.nii.gz"],
    ):  # fmt: skip
        line = refused(capsys, "segment", *words, "--model", model)
        assert "a run or a model; required: an output elsewhere" in line or "has something else in it" in line
    assert contents(run) == before


def test_no_masks_inside_the_data_of_a_run(tmp_path: Path, model: Path, capsys: Said) -> None:
    run, data, scans = tmp_path / "run", tmp_path / "data", tmp_path / "scans"
    shutil.copytree(model, run)
    make_scan(data / "a.nii.gz")
    make_scan(scans / "a.nii.gz")
    run_folder.write_settings(data, run, tiny_settings())
    assert "lies inside the data folder" in refused(capsys, "segment", "-i", scans, "-o", data / "masks", "--model", run)
    assert [path.name for path in data.iterdir()] == ["a.nii.gz"]


# --- after a kill


def test_a_mask_drawn_after_a_kill_is_not_replaced_by_the_resumed_command(
    tmp_path: Path, model: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, out = make_scan(tmp_path / "scan.nii.gz"), tmp_path / "m.nii.gz"
    command = ["segment", "-i", str(scan), "-o", str(out), "--model", str(model), "--difference", str(tmp_path / "d.nii.gz")]

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "write", killed)
        assert cli.main(command) == 130
    assert (tmp_path / "d.nii.gz").exists()
    mine = drawn(out, scan)
    assert "m.nii.gz exists; required: a new file" in refused(capsys, *command)
    assert out.read_bytes() == mine
    out.unlink()
    drawn(tmp_path / "d.nii.gz", scan)
    assert "d.nii.gz exists; required: a new file" in refused(capsys, *command)
    (tmp_path / "d.nii.gz").unlink()
    assert cli.main(command) == 0
    assert not list(tmp_path.glob(".*"))


# --- runs and tables


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of images of a finished run, which is beside it."""
    root = tmp_path_factory.mktemp("finished")
    write_images(root / "images", each=2)
    assert cli.main(["run", str(root / "images"), "-o", str(root / "run"), *TINY]) == 0
    return root


def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def test_the_ledger_of_a_run_can_be_checked_by_others(finished: Path) -> None:
    """Lines as of sha256sum, one for each output that is there."""
    import hashlib

    lines = dict(reversed(line.split("  ")) for line in (finished / "run/outputs.sha256").read_text().splitlines())
    assert {"report.html", "manifest.json", "masks/index.csv", "evaluation/slices.csv"} < set(lines)
    for name, digest in lines.items():
        assert hashlib.sha256((finished / "run" / name).read_bytes()).hexdigest() == digest


def test_a_report_with_remarks_is_replaced_only_when_asked(finished: Path, tmp_path: Path, capsys: Said) -> None:
    run = copied(finished, tmp_path)
    assert cli.main(["report", str(run)]) == 0  # its own it may replace
    report = run / "report.html"
    report.write_text(remarked := report.read_text() + "<p>my remark</p>")
    for words in (["report", run], ["run", finished / "images", "-o", run, *TINY]):
        assert "report.html exists and is not what coinseg wrote there" in refused(capsys, *words)
    assert report.read_text() == remarked
    assert cli.main(["report", str(run), "--overwrite"]) == 0
    assert "my remark" not in report.read_text()


def test_masks_of_a_run_that_somebody_drew_stay(finished: Path, tmp_path: Path, capsys: Said) -> None:
    run = copied(finished, tmp_path)
    mask = next((run / "masks").glob("*.png"))
    mask.write_bytes(mine := next((finished / "images/normal").glob("*.png")).read_bytes())
    shutil.rmtree(run / "confidence")  # is made anew, and the masks with it
    assert f"{mask.name} exists and is not what coinseg wrote there" in refused(capsys, "report", run)
    assert mask.read_bytes() == mine
    (run / "masks/key.txt").write_text("other")  # as with masks of other settings, which go as a whole
    (run / "masks/index.json").unlink()
    assert "exists and is not what coinseg wrote there" in refused(capsys, "report", run)
    assert mask.read_bytes() == mine
    assert cli.main(["report", str(run), "--overwrite"]) == 0
    assert mask.read_bytes() != mine


def test_what_lies_in_a_folder_of_masks_that_is_no_mask_stays(finished: Path, tmp_path: Path, capsys: Said) -> None:
    run = copied(finished, tmp_path)
    (run / "masks/notes.txt").write_text("mine")
    (run / "masks/index.json").unlink()
    (run / "masks/key.txt").unlink()
    assert "masks/notes.txt exists and is not what" in refused(capsys, "report", run)
    assert (run / "masks/notes.txt").read_text() == "mine"


def test_a_table_of_a_phantom_that_somebody_changed_stays(tmp_path: Path, capsys: Said) -> None:
    command = ["phantom", str(tmp_path / "ct"), "--patients", "1", "--slices", "4", "--size", "32", "--lesions", "masses"]
    assert cli.main([*command, "--processes", "1"]) == 0
    assert cli.main([*command, "--processes", "1"]) == 0
    labels = tmp_path / "ct/labels.csv"
    labels.write_text(mine := labels.read_text().replace(",0\n", ",1\n"))
    assert "labels.csv exists and is not what coinseg wrote there" in refused(capsys, *command, "--processes", "1")
    assert labels.read_text() == mine


# --- what a stranger's run folder names


def test_a_run_folder_chooses_nothing_to_read_on_this_machine(finished: Path, tmp_path: Path, capsys: Said) -> None:
    run = copied(finished, tmp_path)
    shutil.copytree(finished / "images", private := tmp_path / "private")
    file = run / "settings.yaml"
    stored = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(stored | {"data": str(private)}))
    seal(file)  # whoever can write it can do that, too
    for command in ("evaluate", "report", "train-classifier", "train-coin"):
        line = refused(capsys, command, run)
        assert f"names {private}, with which this folder was not made here; required: what is read to be named by you" in line
        assert f"give --data {private}" in line
    refused(capsys, "report", run, "--dry-run")
    assert cli.main(["evaluate", str(run), "--data", str(private)]) == 0
    assert cli.main(["evaluate", str(run)]) == 0  # named once, it is known
    # A folder beside the data is none of the data.
    inside = {"data": str(private), "settings": stored["settings"] | {"data": stored["settings"]["data"] | {"masks": "../other"}}}
    (tmp_path / "other").mkdir()
    file.write_text(yaml.safe_dump(inside))
    seal(file)
    assert f"names {private / '../other'}, with which" in refused(capsys, "evaluate", run, "--data", private)
    assert "with which this folder was not made here" in refused(capsys, "run", private, "-o", run)


def test_a_run_folder_chooses_no_reviews_to_learn_from_on_this_machine(finished: Path, tmp_path: Path, capsys: Said) -> None:
    run, private = copied(finished, tmp_path), tmp_path / "private"
    private.mkdir()
    (private / "review.sqlite").write_bytes(b"no database")
    file = run / "settings.yaml"
    stored = yaml.safe_load(file.read_text())
    stored["settings"]["student"]["reviewed"] = str(private)
    file.write_text(yaml.safe_dump(stored))
    seal(file)
    for command in ("evaluate", "report", "train-coin"):
        line = refused(capsys, command, run)
        assert f"names {private}, with which this folder was not made here" in line
        assert f"give --student.reviewed {private}" in line
    assert "review.sqlite" in refused(capsys, "evaluate", run, "--student.reviewed", private)  # named, it is read


def test_a_run_knows_its_data_again_when_files_come_and_go(tmp_path: Path) -> None:
    for i in range(40):
        make_scan(tmp_path / f"data/normal/n{i}.nii.gz")
    (tmp_path / "data/labels.csv").write_text("file,label\n")
    for data in (tmp_path / "data/normal", tmp_path / "data/labels.csv"):
        run = tmp_path / f"run-{data.name}"
        run_folder.write_settings(data, run, Settings())
        make_scan(data.parent / f"{data.name}-new/x.nii.gz")
        if data.is_dir():
            for i in range(20):
                make_scan(data / f"new{i}.nii.gz")
                (data / f"n{i}.nii.gz").unlink()
        else:
            (tmp_path / "data/edited.csv").write_text("file,label\nx.png,0\n")
            (tmp_path / "data/edited.csv").replace(data)  # as an editor saves it
        assert run_folder.data_of(run) == data
        shutil.rmtree(tmp_path / "data-old", ignore_errors=True)
        shutil.copytree(data.parent, tmp_path / "copy", dirs_exist_ok=True)
        data.parent.rename(tmp_path / "data-old")
        (tmp_path / "copy").rename(data.parent)
        with pytest.raises(UserError, match="with which this folder was not made here"):  # others of the same names
            run_folder.data_of(run)


def test_what_a_folder_is_known_by_holds_for_that_place_alone_and_cannot_be_guessed(tmp_path: Path) -> None:
    for name in ("mine", "private"):
        (tmp_path / name / "a").mkdir(parents=True)
    run = tmp_path / "run"
    run_folder.write_settings(tmp_path / "mine", run, Settings())
    stored = yaml.safe_load((run / "settings.yaml").read_text())
    ((_, known),) = stored["seen"].items()
    right = run_folder.origins_of((tmp_path / "private").resolve())
    assert set(known).isdisjoint(right)
    many = [f"{i:016x}" for i in range(99)]
    for seen in (known, many + right, right[0], {right[0]: 1}, None, [[right[0]]]):
        (run / "settings.yaml").write_text(
            yaml.safe_dump(stored | {"data": str(tmp_path / "private"), "seen": {str(tmp_path / "private"): seen}})
        )
        seal(run / "settings.yaml")
        with pytest.raises(UserError, match="with which this folder was not made here"):
            run_folder.data_of(run)


def test_a_run_whose_data_have_a_name_that_no_disk_can_hold(tmp_path: Path) -> None:
    run_folder.write_settings(tmp_path, tmp_path / "run", Settings())
    file = tmp_path / "run" / "settings.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"data": str(tmp_path / ("x" * 300))}))
    seal(file)
    for ask in (lambda: run_folder.data_of(file.parent), lambda: run_folder.resolve(None, file.parent, Settings(), True)):
        with pytest.raises(UserError, match=r"a name of 300 characters \(x{20}\.\.\.\); required: one that a disk can hold"):
            ask()


def test_nnunet_data_of_a_stranger_s_run_are_copied_only_from_what_is_named(tmp_path: Path, capsys: Said) -> None:
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "Dataset102_x"
    for name in ("normal/n0", "abnormal/a0"):
        make_scan(data / f"{name}.nii.gz")
    run_folder.write_settings(data, run, Settings())
    drawn(run / "masks/abnormal__a0.nii.gz", data / "abnormal/a0.nii.gz")
    shutil.copytree(data, private := tmp_path / "private")
    text = (run / "settings.yaml").read_text()
    (run / "settings.yaml").write_text(text.replace(f"data: {data}", f"data: {private}"))
    seal(run / "settings.yaml")
    assert f"names {private}, with which" in refused(capsys, "export-nnunet", run, "-o", out)
    assert not out.exists()
    assert cli.main(["export-nnunet", str(run), "-o", str(out), "--data", str(private)]) == 0
    (run / "settings.yaml").write_text(text)
    seal(run / "settings.yaml")
    assert cli.main(["export-nnunet", str(run), "-o", str(tmp_path / "Dataset103_x")]) == 0


# --- links


def test_links_that_lead_nowhere_are_one_line(tmp_path: Path, model: Path, capsys: Said) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(loop)
    scan = make_scan(tmp_path / "scans/a.nii.gz")
    for words in (
        ["segment", "-i", loop, "-o", tmp_path / "m", "--model", model], ["segment", "-i", scan, "-o", loop, "--model", model],
        ["segment", "-i", scan.parent, "-o", loop / "m", "--model", model], ["segment", "-i", scan, "-o", "m", "--model", loop],
        ["run", loop, "-o", tmp_path / "run"], ["run", scan.parent, "-o", loop], ["inspect", loop], ["phantom", loop],
        ["export", model, "-o", loop], ["export", loop, "-o", tmp_path / "e"], ["report", loop],
        ["export-nnunet", scan.parent, "--masks", loop, "-o", tmp_path / "d"],
        ["export-nnunet", scan.parent, "--masks", scan.parent, "-o", loop],
        ["export-seg", scan, "--dicom", loop, "-o", tmp_path / "s.dcm"],
    ):  # fmt: skip
        refused(capsys, *words)


def test_an_export_behind_a_link_is_one_line(tmp_path: Path, model: Path, capsys: Said) -> None:
    assert cli.main(["export", str(model), "-o", str(tmp_path / "exported")]) == 0
    before = contents(tmp_path / "exported")
    for name, target in (("link", "exported"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
        line = refused(capsys, "export", model, "-o", tmp_path / name, "--overwrite")
        assert f"{name} is a link; required: a folder for the output" in line
        assert (tmp_path / name).is_symlink()
    assert contents(tmp_path / "exported") == before


def test_a_file_behind_a_link_is_no_file_of_ours(tmp_path: Path, model: Path, capsys: Said) -> None:
    (tmp_path / "m.nii.gz").symlink_to(tmp_path / "elsewhere.nii.gz")
    scan = make_scan(tmp_path / "scan.nii.gz")
    assert "m.nii.gz exists" in refused(capsys, "segment", "-i", scan, "-o", tmp_path / "m.nii.gz", "--model", model)
    assert (tmp_path / "m.nii.gz").is_symlink()


@pytest.mark.parametrize("name", ["masks", "evaluation/maps", "coin/samples"])
def test_a_folder_of_a_run_that_is_a_link_is_one_line(finished: Path, tmp_path: Path, capsys: Said, name: str) -> None:
    run, elsewhere = copied(finished, tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    if (run / name).exists():
        shutil.rmtree(run / name)
    (run / name).symlink_to(elsewhere)
    for stage in ("coin/stage.json", "evaluation/scores.json"):
        (run / stage).unlink()
    assert f"{name} is a link; required: a folder of its own; remove the link" in refused(capsys, "report", run, "--overwrite")
    assert contents(elsewhere) == {"mine": b"mine"}


def test_no_output_inside_the_data_of_a_table(tmp_path: Path, capsys: Said) -> None:
    table = tmp_path / "data/labels.csv"
    rows = [f"{make_scan(tmp_path / f'data/scans/s{i}.nii.gz', seed=i).relative_to(table.parent)},{i % 2}" for i in range(4)]
    table.write_text("\n".join(["file,label", *rows]) + "\n")
    for out in (tmp_path / "data/out", tmp_path / "data/scans/out", tmp_path / "data"):
        line = refused(capsys, "run", table, "-o", out, *TINY)
        assert "lies inside the data folder" in line or "is not a coinseg run" in line
    assert not (tmp_path / "data/out").exists()
