"""Images in tiles, from a table to masks and back: a run of the command line, and what its files say."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from coinseg.cli.main import main as cli
from coinseg.data.slices.split import LEFT_OUT, TRAINING
from coinseg.data.slices.store import SliceStore
from coinseg.evaluation.whole_images import OF_TILES
from conftest import TINY
from tiles import images

SHAPE = (40, 70)
SHORT = [*TINY, "--data.tile", "32", "--student.steps", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiles")
    assert cli(["run", str(images(root / "data", shape=SHAPE)), "-o", str(root / "out"), *SHORT]) == 0
    return root


def test_files_speak_of_whole_images(run: Path) -> None:
    manifest = json.loads((run / "out" / "manifest.json").read_text())
    schema = json.loads((files("coinseg") / "manifest.schema.json").read_text())["$defs"]["run"]
    assert [error.message for error in Draft202012Validator(schema).iter_errors(manifest)] == []
    data, scores = manifest["data"], manifest["scores"]
    assert (data["cases"], data["slices"], data["tiles"]) == (12, 12 * 6, 12 * 6)
    assert scores["slices_abnormal"] + scores["slices_normal"] == 2 * data["patients_held_out"]
    assert scores["of_tiles"] == [*OF_TILES]
    index = json.loads((run / "out" / "masks" / "index.json").read_text())
    assert len(index["masks"]) == 6
    for row in index["masks"]:
        assert np.asarray(Image.open(run / "out" / "masks" / row["mask"])).shape == SHAPE
        assert np.asarray(Image.open(run / "out" / "confidence" / row["mask"])).shape == SHAPE
    page = (run / "out" / "report.html").read_text()
    assert "cut into tiles of 32 pixels" in page
    assert page.count("of single tiles</span>") == len(OF_TILES)


def test_abnormal_tiles_were_looked_for(run: Path) -> None:
    found = json.loads((run / "out" / "witnesses" / "witnesses.json").read_text())
    assert found["scans"] * 6 == found["weak"]
    assert 0 < found["kept"] <= found["weak"]
    assert found["slices"].keys() == found["tiles"].keys()
    assert all(len(found["slices"][case]) == len(tiles) <= 6 for case, tiles in found["tiles"].items())
    store = SliceStore(run / "out" / "slices")
    assert LEFT_OUT not in store.index["split"]  # what is not kept is left out of the training alone
    assert (store.index["split"] == TRAINING).any()


def test_a_new_image_is_cut_in_the_same_way(run: Path) -> None:
    out, new = run / "new.png", run / "data" / "1.png"
    words = ["segment", "-i", str(new), "-o", str(out), "--model", str(run / "out"), "--counterfactual", str(run / "painted.png")]
    assert cli(words) == 0
    own = next((run / "out" / "masks").glob("1.png"))
    assert np.asarray(Image.open(out)).shape == np.asarray(Image.open(own)).shape == SHAPE
    assert np.asarray(Image.open(run / "painted.png")).shape == SHAPE


def test_the_same_command_finishes_and_inspect_proposes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "out" / "evaluation" / "scores.json").read_bytes()
    assert cli(["run", str(run / "data" / "labels.csv"), "-o", str(run / "out"), *SHORT]) == 0
    assert (run / "out" / "evaluation" / "scores.json").read_bytes() == before
    capsys.readouterr()
    assert cli(["inspect", str(run / "data" / "labels.csv"), "--data.size", "32"]) == 0
    assert "size       images of 70 pixels are shrunk 2.2 times to data.size 32" in capsys.readouterr().out
    assert cli(["run", str(run / "data" / "labels.csv"), "-o", str(run / "other"), *SHORT, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "32 x 32, tiles of 32 pixels of larger ones" in said
    assert "looking for witnesses" in said


def test_scores_by_tile_are_a_line_each(run: Path) -> None:
    with (run / "out" / "evaluation" / "slices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["region"] for row in rows} == set("012345")
    assert "change red" not in rows[0]


def test_the_study_scores_images_on_their_own_grid(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = Path(__file__).resolve().parents[2] / "studies"
    if not studies.is_dir():
        pytest.skip("studies/ is not part of this copy")
    monkeypatch.syspath_prepend(studies)
    import tile_scores

    monkeypatch.setattr(tile_scores, "hashed_side", lambda patient, side: int(patient in ("p0", "p1")))
    found = tile_scores.scores_of(run / "out", run / "data" / "labels.csv")
    assert (found["abnormal"], found["normal"]) == (2, 2)
    assert 0 <= found["iou"] <= found["touched"] <= 1 or found["iou"] == 0
    monkeypatch.setattr(tile_scores.maps.ConfidenceMap, "add", tile_scores.maps.ConfidenceMap.add)  # put back afterwards
    tile_scores.silence()
    assert tile_scores.scores_of(run / "out", run / "data" / "labels.csv")["abnormal"] == 2
