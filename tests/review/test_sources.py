"""What lies on the desk of a run: its masks with sides, truth and confidence; and nothing that a stranger's folder names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from desks import masks_folder
from PIL import Image

from coinseg import review
from coinseg.cli.main import main as cli_main
from coinseg.data.readers.paths import sha256_of
from coinseg.data.slices.index import COLUMNS, write_index
from coinseg.errors import UserError
from coinseg.inference.table import measure, told, write_table
from coinseg.pipeline.run_folder import write_settings
from coinseg.review.desk import Rules, desk_on
from coinseg.review.exchange import export_reviewed
from coinseg.review.kept.store import reviewed
from coinseg.review.sources import read_source
from conftest import TINY, tiny_settings, write_images
from writers import make_run


def run_folder(root: Path, kind: str = "none") -> Path:
    """A run folder with masks, as `coinseg run` leaves it, of networks that nobody trained."""
    data, run = write_images(root / "data"), make_run(root / "run", kind="percentile")
    settings = tiny_settings()
    write_settings(data, run, replace(settings, anomaly=replace(settings.anomaly, kind=kind)))
    rows, index = [], []
    for folder in ("masks", "confidence", "slices"):
        (run / folder).mkdir()
    for i in range(1, 24, 2):
        name, mask = f"abnormal__i{i:02d}", np.zeros((40, 44), bool)
        mask[5:9, 5:9] = True
        for folder, scale in (("masks", 255), ("confidence", 90)):
            Image.fromarray((mask * scale).astype(np.uint8)).save(run / folder / f"{name}.png")
        rows.append({"case": name, "mask": f"{name}.png"} | told(0.9, None, 0.4) | measure(mask[None], None))
        index.append(
            dict.fromkeys(COLUMNS, 0) | {"case": name, "patient": name, "series": name, "split": i % 4 == 1, "region": -1}
        )
    write_table(run / "masks", rows)
    write_index(
        run / "slices" / "index.csv", [{k: int(v) if isinstance(v, bool) else v for k, v in row.items()} for row in index]
    )
    return run


def test_a_run_has_sides_truth_and_confidence(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    source = read_source(run)
    assert len(source.drafts) == 12
    assert {draft.record.side for draft in source.drafts} == {"training", "held out"}
    assert source.model == run
    with desk_on(source, None, Rules()) as desk:
        draft = source.drafts[0]
        assert desk.views.layers(draft.key) == ["mask", "draft", "truth", "confidence", "counterfactual", "difference"]
        truth = desk.layer(draft.key, "ann", "truth", "axial", 0)
        assert truth.sum() == 100
        assert desk.layer(draft.key, "ann", "mask", "axial", 0).sum() == 16
        assert desk.layer(draft.key, "ann", "confidence", "axial", 0).max() == 90
        rows = desk.queue("ann")["cases"]
        assert {row["side"] for row in rows} == {"training", "held out"}
        assert all(row["numbers"]["doubtful"] for row in rows)
        assert (run / "review" / "review.sqlite").is_file()


def test_masks_whose_images_are_gone_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They were no longer in the queue, and nobody knew."""
    run = run_folder(tmp_path)
    assert read_source(run).missing == ()
    for name in ("i03", "i05"):
        (tmp_path / "data" / "abnormal" / f"{name}.png").unlink()
    assert cli_main(["review-page", str(run), "-o", str(tmp_path / "cases.html")]) == 0
    said = capsys.readouterr().out
    assert f"2 cases of {run} have a mask and are not among its data: abnormal__i03, abnormal__i05\n" in said
    assert "10 cases in" in said


def mirror(data: Path, name: str) -> None:
    path = data / "abnormal" / f"{name}.png"
    Image.fromarray(np.fliplr(np.asarray(Image.open(path)))).save(path)


def test_what_was_decided_of_an_image_is_not_of_another_one_of_its_name_in_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images were mended under their names, turned round, say, and masks drawn on the former ones exported, and taught."""
    run, data, name = run_folder(tmp_path), tmp_path / "data", "abnormal__i01"
    with desk_on(read_source(run), None, Rules()) as desk:
        drafts = {draft.record.id: draft for draft in desk.source.drafts}
        for case in (name, "abnormal__i03"):
            assert desk.case(drafts[case].key, "ann")["note"] == ""
            drawn = np.zeros((1, 40, 44), bool)
            drawn[0, 9:19, 2:9] = True
            state = desk.editor.replace(drafts[case].key, "ann", drawn, "brush", f"name-{case}")
            desk.editor.decide(drafts[case].key, "ann", "accepted", "", 1.0, state["edits"])
        mirror(data, "i01")
        for kind in ("masks", "prompts"):
            done = export_reviewed(desk.source, desk.store, kind, tmp_path / kind)
            assert (done.cases, done.left_out) == (1, [f"{name}: it was another scan that was reviewed"])
        assert export_reviewed(desk.source, desk.store, "csv", tmp_path / "csv").cases == 2
    words = ["run", str(data), "-o", str(tmp_path / "out"), *TINY, "--student.reviewed", str(run), "--dry-run"]
    assert cli_main(words) == 2
    assert f"the reviewed mask of {name} was drawn on other pixels than" in capsys.readouterr().err
    with desk_on(read_source(run), None, Rules()) as desk:
        assert desk.case(drafts["abnormal__i03"].key, "ann")["note"] == ""
        opened = desk.case(drafts[name].key, "ann")
        assert opened["note"].startswith("another image than before, and so open again; what was decided of the former one")
        assert (opened["edits"], opened["pixels"]) == (0, 16)  # the draft
        assert {row["id"]: row["state"] for row in desk.queue("ann")["cases"]}[name] == "open"
        assert cli_main(words) == 0
        desk.editor.decide(drafts[name].key, "ann", "rejected", "", 1.0, 0)
    mirror(data, "i01")  # back
    with desk_on(read_source(run), None, Rules()) as desk:
        assert desk.case(drafts[name].key, "ann")["pixels"] == 70
        assert {row["id"]: row["state"] for row in desk.queue("ann")["cases"]}[name] == "corrected"
    cases = {one.case.partition(" (")[0]: one.state for one in reviewed(run)}
    assert (len(reviewed(run)), cases) == (3, {name: "rejected", "abnormal__i03": "corrected"})
    assert cli_main(words) == 0


def test_a_run_that_was_made_elsewhere_names_no_data_of_this_machine(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "copy").rename(tmp_path / "data")  # the same names, and not those the run was made with
    with pytest.raises(UserError, match="with which this folder was not made here"):
        read_source(run)
    assert len(read_source(run, data=tmp_path / "data").drafts) == 12


def test_the_slices_of_injected_anomalies_are_looked_at_as_pictures(tmp_path: Path) -> None:
    run = run_folder(tmp_path, kind="blob")
    for mask in (run / "masks").glob("*.png"):
        Image.fromarray(np.full((40, 44), 90, np.uint8)).save(mask.with_name(f"{mask.stem}_image.png"))
    source = read_source(run)
    assert {draft.record.side for draft in source.drafts} == {"held out"}
    with desk_on(source, None, Rules()) as desk:
        assert desk.views.image(source.drafts[0].key, "axial", 0).max() == 90


def test_scans_that_were_moved_are_named(tmp_path: Path) -> None:
    masks = masks_folder(tmp_path, cases=1)
    (tmp_path / "scans").rename(tmp_path / "moved")
    with desk_on(read_source(masks), None, Rules()) as desk, pytest.raises(UserError, match="is gone"):
        desk.views.opened(desk.source.drafts[0].key)
    with desk_on(read_source(masks, scans=tmp_path / "moved"), None, Rules()) as desk:
        assert desk.views.opened(desk.source.drafts[0].key).scan.any()


def test_a_stroke_says_how_many_voxels_are_inside_without_counting_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk_on(read_source(masks_folder(tmp_path, cases=1)), None, Rules()) as desk:
        key, rng = desk.source.drafts[0].key, np.random.default_rng(0)
        mask, count, counted = desk.editor.mask(key, "ann"), np.count_nonzero, list[int]()
        monkeypatch.setattr(np, "count_nonzero", lambda values: counted.append(values.size) or count(values))
        for i in range(6):
            drawn = rng.random((9, 9)) < 0.5
            after = desk.editor.stroke(key, "ann", "axial", 5, (12 + i, 15), drawn, i % 2 == 0, "brush", f"stroke-{i}")
            assert after["pixels"] == mask.sum()
        assert desk.editor.undo(key, "ann", False)["pixels"] == mask.sum()
        assert max(counted) <= 81
        changed = np.roll(mask, 2, 1)
        assert desk.editor.replace(key, "ann", changed, "file", "whole-file")["pixels"] == changed.sum() == mask.sum()


def test_a_review_of_a_mask_of_segment_names_its_scan_and_a_run_finds_it_by_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, data = masks_folder(tmp_path, cases=8), tmp_path / "data"
    with desk_on(read_source(masks), None, Rules()) as desk:
        for draft in desk.source.drafts[:2]:
            desk.case(draft.key, "ann")
            desk.editor.decide(draft.key, "ann", "accepted", "", 1.0, 0)
    found = reviewed(masks)
    assert [one.case for one in found] == ["s00.nii.gz", "s01.nii.gz"]
    assert [one.sha256 for one in found] == [sha256_of(tmp_path / "scans" / one.case) for one in found]
    data.mkdir()
    for i in range(8):  # other names than they had
        shutil.copy(tmp_path / "scans" / f"s{i:02d}.nii.gz", data / f"ct{i}.nii.gz")
    (data / "labels.csv").write_text("file,label\n" + "".join(f"ct{i}.nii.gz,{i % 2}\n" for i in range(8)))
    words = ["run", str(data), "-o", str(tmp_path / "out"), "--data.size", "32", "--student.reviewed", str(masks), "--dry-run"]
    assert cli_main(words) == 0
    for i in range(2):
        (data / f"ct{i}.nii.gz").write_bytes((tmp_path / "scans" / "s05.nii.gz").read_bytes())
    capsys.readouterr()
    assert cli_main(words) == 2
    assert "masks of `segment`: 2, and no scan of these data has the bytes of theirs" in capsys.readouterr().err


def test_the_desk_needs_no_torch_in_its_own_process() -> None:
    """Which holds 0.7 GB; the model is asked in another process, when somebody looks at a counterfactual."""
    names = [f"coinseg.review.{path.stem}" for path in Path(review.__file__).parent.glob("*.py")]
    code = f"import sys, coinseg.cli.main, {', '.join(names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
