"""Tables of the thesis on tiny data: every row, both protocols, nothing run twice, no mask in training or threshold."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coinseg.cli import main as cli
from coinseg.config.rules import require_consistent
from coinseg.config.schema import AttributionSettings, Settings
from coinseg.data.slices.split import VALIDATION
from coinseg.errors import UserError
from coinseg.explain.registry import METHODS, explain_with
from coinseg.inference import explainer as inference
from coinseg.networks.classifier import probabilities
from coinseg.runtime.files import read_json
from coinseg.thesis import reproduce as room
from coinseg.thesis.reproduce import Job, Seed, reproduce
from coinseg.thesis.rows import ORDERINGS, SCALES, TABLES, Row, settings_of
from coinseg.training import coin as coin_training
from conftest import tiny_settings, write_images

ROWS_OF_TABLE2 = ["ScoreCAM", "ScoreCAM best", "LayerCAM", "LayerCAM best", "RISE", "Singla et al.*", "COIN"]


def settings(**coin: object) -> Settings:
    base = tiny_settings()
    return replace(
        base,
        coin=replace(base.coin, steps=4, identity=2.0, cycle=2.0, **coin),  # type: ignore[arg-type]
        classifier=replace(base.classifier, name="small", steps=30),
        attribution=AttributionSettings(masks=8, grid=4, batch=64),
    )


def job(data: Path, out: Path, seeds: int = 1, given: Settings | None = None) -> Job:
    return Job(data, out, given or settings(), "small", seeds, 0, None, 768)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table 2 on plain folders, two seeds."""
    root = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "THRESHOLD_IMAGES", 60)
        patch.setattr(coin_training, "LAYER_IMAGES", 6)
        reproduce(job(write_images(root / "data"), root / "out", seeds=2), "table2", "squares")
    return root


def test_a_table_has_every_row_in_both_protocols(done: Path) -> None:
    made = json.loads((done / "out" / "table2.json").read_text())
    for protocol in ("replica", "honest"):
        rows = {row["method"]: row for row in made["rows"] if row["protocol"] == protocol}
        assert set(ROWS_OF_TABLE2) <= set(rows)
        assert {"ScoreCAM network.blocks.0", "LayerCAM network.blocks.3"} <= set(rows)
        assert all(row["set"] == "squares" and row["seeds"] == 2 for row in rows.values())
        assert rows["COIN"]["cv_n"] in (0, 1, 2)
        assert rows["RISE"].get("cv_mean") is None  # an attribution has no counterfactual
        assert 0 <= rows["COIN"]["iou_mean"] <= 1
    thesis_protocol = {row["method"]: row for row in made["rows"] if row["protocol"] == "replica"}
    assert thesis_protocol["COIN"]["iou_thesis"] == 0.432  # real lesions: the figures of the hospital data
    assert "iou_oracle_mean" not in thesis_protocol["COIN"]


def test_the_table_is_written_in_four_forms_with_pictures(done: Path) -> None:
    out = done / "out"
    with (out / "table2.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(json.loads((out / "table2.json").read_text())["rows"])
    assert "COIN" in (out / "table2.md").read_text()
    assert r"\begin{tabular}" in (out / "table2.tex").read_text()
    for name in ("figure9-replica", "figure9-honest", "figure10"):
        assert min(Image.open(out / "figures" / f"{name}.png").size) > 100


def test_the_second_call_runs_nothing_again(done: Path) -> None:
    watched = sorted(p for p in (done / "out").rglob("*") if p.name in ("row.json", "generator.safetensors", "store.json"))
    assert len(watched) > 10
    before = [p.stat().st_mtime_ns for p in watched]
    table = (done / "out" / "table2.json").read_bytes()
    reproduce(job(done / "data", done / "out", seeds=2), "table2", "squares")
    assert [p.stat().st_mtime_ns for p in watched] == before
    assert (done / "out" / "table2.json").read_bytes() == table


def test_rows_with_the_same_settings_share_one_result(done: Path) -> None:
    seed = Seed(job(done / "data", done / "out"), 0)
    star = seed.rows_of("table2")["Singla et al.*"][1]
    assert seed.rows_of("table1")["H"][1] == star
    assert seed.place_of("Singla et al.*", star) == seed.place_of("H", star) == done / "out" / "seed0" / "rows" / "H"
    last = seed.rows_of("table2")["LayerCAM"][1]
    assert last.attribution.layer == "network.blocks.3"
    assert seed.place_of("LayerCAM network.blocks.3", last).name == "LayerCAM"


def test_every_method_is_scored_on_the_same_slices(done: Path) -> None:
    rows = [read_json(p) for p in (done / "out" / "seed0" / "rows").glob("*/row.json")]
    assert len(rows) >= 9
    assert len({row["honest"]["slices_scored"] for row in rows}) == 1
    assert len({row["replica"]["slices"] for row in rows}) == 1
    assert len({row["honest"]["auroc"] for row in rows}) == 1
    examples = [np.load(p, allow_pickle=False) for p in (done / "out" / "seed0" / "rows").glob("*/examples.npz")]
    assert all((e["name"] == examples[0]["name"]).all() for e in examples)


def test_tables_are_of_held_out_patients_and_of_no_other(done: Path) -> None:
    for number in (0, 1):
        seed = Seed(job(done / "data", done / "out"), number)
        index = seed.store.index
        held_out = index["split"] == VALIDATION
        assert np.array_equal(np.sort(seed.slices.rows[seed.members]), np.flatnonzero(held_out))
        abnormal, normal = (int((index["label"][held_out] == label).sum()) for label in (1, 0))
        for path in (seed.root / "rows").glob("*/row.json"):
            row = read_json(path)
            assert (row["replica"]["slices"], row["honest"]["slices_scored"], row["honest"]["slices_normal"]) == (
                abnormal, abnormal, normal,
            )  # fmt: skip
            shown = np.load(path.parent / "examples.npz", allow_pickle=False)["name"].tolist()
            assert {name.split(",")[0] for name in shown} <= set(index["case"][held_out].tolist())


def test_the_thesis_protocol_asks_every_image_and_the_mask_free_one_what_f_calls_abnormal(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a threshold of f between the held-out images: who is scored, on what, and against which images realism is measured."""
    shutil.copytree(done / "out", tmp_path / "out")
    before = Seed(job(done / "data", tmp_path / "out"), 0)
    f = probabilities(before.f, before.slices.batch(before.members).image).numpy()
    base = settings()
    level = float(np.median(f))
    seed = Seed(
        job(done / "data", tmp_path / "out", given=replace(base, classifier=replace(base.classifier, threshold=level))), 0
    )
    called, abnormal = f >= level, seed.slices.labels() == 1
    assert called.any()
    assert not called.all()
    given: dict[str, Any] = {}
    distances: list[tuple[torch.Tensor, torch.Tensor]] = []
    thesis, honest = room.thesis_protocol, room.mask_free
    monkeypatch.setattr(room, "thesis_protocol", lambda found: thesis(given.setdefault("thesis", found)))
    monkeypatch.setattr(room, "mask_free", lambda found, *rest: honest(given.setdefault("honest", found), *rest))
    monkeypatch.setattr(room.realism, "classifier_distance", lambda f, *images: distances.append(images) or 0.0)
    seed.row("COIN", seed.rows_of("table2")["COIN"][1])
    assert given["thesis"].saliency.any((1, 2)).all()
    assert given["honest"].saliency.any((1, 2)).tolist() == called.tolist()
    assert np.array_equal(given["honest"].counterfactual[~called], given["honest"].image[~called])
    image, painted = (room.as_images(of[:, 0]) for of in (given["thesis"].image, given["thesis"].counterfactual))
    (real, fake), (normal, turned) = distances
    assert torch.equal(real, image)
    assert torch.equal(fake, painted)
    assert torch.equal(normal, image[~abnormal])
    assert torch.equal(turned, painted[called & abnormal])


def test_masks_change_scores_and_nothing_else(tmp_path: Path) -> None:
    made = {}
    for name, masks in (("with", True), ("without", False)):
        seed = Seed(job(write_images(tmp_path / name / "data", masks=masks), tmp_path / name / "out"), 0)
        given = seed.rows_of("table1")["COIN"][1]
        row = seed.row("COIN", given)
        weights = (seed.place_of("COIN", given) / "coin" / "generator.safetensors").read_bytes()
        made[name] = (weights, row["threshold"])
        assert (row["honest"]["iou_mask_free"] is None) == (not masks)
    assert made["with"] == made["without"]


def test_rows_with_carl_need_regions(done: Path) -> None:
    seed = Seed(job(done / "data", done / "out"), 0)
    assert list(seed.rows_of("table1")) == ["G", "H", "COIN"]


def test_all_rows_of_tables_1_and_3_where_there_are_organs(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", masks=False)
    (data / "organ_masks" / "normal").mkdir(parents=True)
    for path in (data / "abnormal").iterdir():
        path.rename(data / "normal" / path.name)
    (data / "abnormal").rmdir()
    for path in (data / "normal").iterdir():
        Image.fromarray(np.full((40, 44), 255, np.uint8)).save(data / "organ_masks" / "normal" / path.name)
    base = settings()
    given = replace(base, data=replace(base.data, normal=("normal",)), anomaly=replace(base.anomaly, kind="blob", template=8))
    for table in ("table1", "table3"):
        reproduce(job(data, tmp_path / "out", given=given), table, "blobs")
        made = json.loads((tmp_path / "out" / f"{table}.json").read_text())
        assert {row["method"] for row in made["rows"]} == set(TABLES[table])
    thesis = {row["method"]: row["iou_thesis"] for row in made["rows"] if row["protocol"] == "replica" and "iou_thesis" in row}
    assert thesis == {"idt = 0": 0.5, "f = 0": 0.424, "tv = 0": 0.427, "COIN": 0.646}
    for name in ("figure5", "figure6", "figure7", "figure8", "both-directions-abnormal", "both-directions-normal"):
        assert (tmp_path / "out" / "figures" / f"{name}.png").stat().st_size > 1000


# --- the settings of the rows ----------------------------------------------------------------------------------------------


def test_table_1_differs_from_row_to_row_as_the_thesis_says() -> None:
    paper = {name: settings_of(row, SCALES["paper"], "paper").coin for name, row in TABLES["table1"].items()}
    columns = {n: (c.regions == "organ", c.fusion != "none", c.skips, c.conditions) for n, c in paper.items()}
    assert columns == {
        "A": (True, False, 0, 2), "B": (True, True, 0, 2), "C": (True, True, 1, 2), "D": (True, True, 2, 2),
        "E": (True, True, 3, 2), "F": (True, True, 4, 2), "G": (False, True, 4, 2), "H": (False, False, 4, 2),
        "COIN": (False, True, 4, 1),
    }  # fmt: skip
    assert all(c.classifier == 1 and c.tv == 0 for n, c in paper.items() if n != "COIN")


def test_skips_that_are_not_there_make_rows_equal() -> None:
    small = SCALES["small"]
    rows = {name: settings_of(row, small, "small") for name, row in TABLES["table1"].items()}
    assert rows["E"] == rows["F"]
    assert rows["F"].coin.skips == small.coin.depth - 1 == 3


def test_orderings_name_rows_that_exist() -> None:
    for table, pairs in ORDERINGS.items():
        assert all(worse in TABLES[table] and better in TABLES[table] for worse, better, _ in pairs)


def test_every_row_names_a_method() -> None:
    for table in TABLES.values():
        assert all(row.method in METHODS for row in table.values())


# --- methods and the command -------------------------------------------------------------------------------------------------


def test_an_unknown_method_gets_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"method is 'layecam'; .*did you mean layercam"):
        require_consistent(replace(Settings(), method="layecam"))


def test_a_counterfactual_method_needs_a_generator() -> None:
    import torch

    with pytest.raises(ValueError, match="generator"):
        explain_with(Settings(), torch.nn.Flatten())


def test_settings_of_an_attribution_keep_the_rest() -> None:
    row = Row("x", method="layercam", layer="best")
    made = settings_of(row, SCALES["small"], "small")
    assert (made.method, made.attribution.layer, made.coin) == ("layercam", "best", SCALES["small"].coin)


def test_the_command_refuses_other_settings_and_missing_weights(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "--data",
        str(done / "data"),
        "-o",
        str(tmp_path / "out"),
        "--data.size",
        "32",
        "--coin.depth",
        "2",
        "--coin.skips",
        "1",
    ]
    assert cli.main(["reproduce", "table9", *common]) == 2
    assert "table1" in capsys.readouterr().err
    assert cli.main(["reproduce", "table1", *common, "--fid", str(tmp_path / "none.pth")]) == 2
    error = capsys.readouterr().err
    assert "none.pth" in error
    assert "Traceback" not in error
    assert cli.main(["reproduce", "table1", *common, "--seeds", "0"]) == 2
    assert "--seeds 0" in capsys.readouterr().err
    assert cli.main(["reproduce", "table1", *common, "--coin.lr", "0.5"]) == 2
    assert "other settings (coin.lr: 0.001 -> 0.5)" in capsys.readouterr().err
