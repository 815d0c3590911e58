"""Tables of the thesis on tiny data: every row, both protocols, nothing run twice, no mask in training or threshold."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coinseg.cli import main as cli
from coinseg.config.rules import require_consistent
from coinseg.config.schema import AttributionSettings, Settings
from coinseg.data.slices.dataset import ScoredBatch
from coinseg.data.slices.split import VALIDATION
from coinseg.errors import UserError
from coinseg.evaluation.explained import Explained
from coinseg.explain.registry import METHODS, explain_with
from coinseg.inference import explainer as inference
from coinseg.networks.classifier import probabilities
from coinseg.runtime.files import read_json
from coinseg.thesis import reproduce as room
from coinseg.thesis.reproduce import Job, Seed, reproduce
from coinseg.thesis.rows import ORDERINGS, SCALES, TABLES, Row, settings_of
from coinseg.training import coin as coin_training
from coinseg.types import Explanation
from conftest import tiny_settings, write_images
from models import PaintBlack

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


@pytest.mark.slow
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


# --- which stage is given what, with networks that were not trained ---------------------------------------------------------


class Sees(torch.nn.Module):
    """An f that calls dark images abnormal: each is scaled by its own range, which a bright square widens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -20 * (x.mean((1, 2, 3)) + 0.3)


class Stubbed:
    """Stands for what trains and what draws; keeps what it is given."""

    def __init__(self, patch: pytest.MonkeyPatch, data: Path, out: Path) -> None:
        self.data, self.out, self.said = data, out, []  # type: ignore[var-annotated]
        self.classifier, self.coin, self.layers, self.examples, self.distances, self.fids = [], [], [], [], [], []  # type: ignore[var-annotated]
        patch.setattr(room, "train_classifier", lambda *given: self.classifier.append(given) or Sees())
        patch.setattr(room, "train_coin", self.train_coin)
        patch.setattr(room, "choose_layer", self.choose_layer)
        patch.setattr(room, "candidate_layers", lambda f, x: self.layers.append((f, x)) or ["one", "two"])
        patch.setattr(room, "save_examples", lambda *given: self.examples.append(given))
        patch.setattr(room.realism, "classifier_distance", lambda *given: self.distances.append(given) or 0.25)
        patch.setattr(room.realism, "fid", lambda *given: self.fids.append(given) or 0.5)
        patch.setattr(room, "Stage", lambda folder, key: SimpleNamespace(facts=lambda: {"seconds": 7.0, "folder": folder}))

    def train_coin(self, store: Any, f: Any, given: Settings, folder: Path, report: Any = None) -> PaintBlack:
        assert not (folder.parent / "row.json").exists()  # what is written now must not pass for the row of before
        self.coin.append((store, f, given, folder, report))
        return PaintBlack()

    def choose_layer(self, store: Any, f: Any, given: Settings, folder: Path) -> str | None:
        assert isinstance(f, Sees)
        assert store is self.classifier[-1][0]
        self.layers.append((given.method, given.attribution.layer, folder))
        return "one" if given.attribution.layer == "best" else None

    def seed(self, number: int = 0, given: Settings | None = None, **changes: Any) -> Seed:
        made = replace(job(self.data, self.out, given=given), **changes)
        return Seed(made, number, lambda *words: self.said.append(words))


@pytest.fixture
def stub(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stubbed:
    return Stubbed(monkeypatch, images, tmp_path / "out")


def test_a_seed_has_slices_a_classifier_and_a_sample_of_its_own(stub: Stubbed) -> None:
    one = stub.seed(3)
    assert (one.settings, one.root) == (replace(settings(), seed=3), stub.out / "seed3")
    assert one.store.root == one.root / "slices"
    ((store, given, folder, report),) = stub.classifier
    assert (store, given, folder) == (one.store, one.settings, one.root / "classifier")
    assert (one.slices.side, one.slices.seed, one.slices.anomaly, one.slices.store) == (
        VALIDATION,
        3,
        one.settings.anomaly,
        store,
    )
    assert one.members.tolist() == list(range(len(one.slices)))
    assert {words[0] for words in stub.said} == {"seed 3, prepare"}
    assert stub.said[-1][1:] == (23, 24, {})
    stub.said.clear()
    report("classifier", 1, 2, {"loss": 0.5})
    report("warning: few", 1, 2, {})
    assert stub.said == [("seed 3, classifier", 1, 2, {"loss": 0.5}), ("warning: few", 1, 2, {})]
    # The slices that are scored are drawn with the seed: the same ones for every method, and the same ones next year.
    few = [stub.seed(number, slices=2).members.tolist() for number in (0, 1, 2, 0)]
    assert all(len(each) == 2 and each == sorted(each) for each in few)
    assert few[0] == few[3] == [1, 2]
    assert len({tuple(each) for each in few}) > 1


def test_images_of_several_channels_are_refused_before_anything_is_trained(
    stub: Stubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for channels in (("t1", "flair"), ("red", "green", "blue")):
        monkeypatch.setattr(room, "prepare", lambda *given, now=channels: SimpleNamespace(channels=now))
        with pytest.raises(UserError, match=f"images of {len(channels)} channels, and those of the thesis are grey"):
            stub.seed()
    assert stub.classifier == []


def test_rows_of_attributions_name_their_layer(stub: Stubbed) -> None:
    one = stub.seed()
    stub.layers.clear()
    rows = one.rows_of("table2")
    assert one.rows_of("table2") is rows
    layer = {name: given.attribution.layer for name, (_, given) in rows.items()}
    assert layer == {
        "ScoreCAM": "two", "ScoreCAM one": "one", "ScoreCAM two": "two", "ScoreCAM best": "one",
        "LayerCAM": "two", "LayerCAM one": "one", "LayerCAM two": "two", "LayerCAM best": "one",
        "RISE": "last", "Singla et al.*": "last", "COIN": "last",
    }  # fmt: skip
    assert rows["ScoreCAM one"][0].title == "layer one"
    assert rows["LayerCAM two"][1] == rows["LayerCAM"][1] != rows["ScoreCAM"][1]
    chosen = [each for each in stub.layers if each[0] == "scorecam"]
    assert chosen == [("scorecam", layer, one.root / "rows" / "scorecam-best") for layer in ("last", "best")]
    f, x = next(each for each in stub.layers if len(each) == 2)
    assert f is one.f
    assert torch.equal(x, one.slices.batch(np.arange(1)).image)
    assert list(one.rows_of("table1")) == ["G", "H", "COIN"]  # the others need organs
    one.store.meta["has_organs"] = True
    one._rows.clear()
    assert list(one.rows_of("table1")) == list(TABLES["table1"])


def test_rows_with_equal_settings_lie_in_the_folder_of_the_first(stub: Stubbed) -> None:
    one = stub.seed()
    for table, name, folder in (
        ("table2", "Singla et al.*", "H"), ("table2", "COIN", "COIN"), ("table2", "ScoreCAM two", "ScoreCAM"),
        ("table3", "idt = 0", "idt-0"),
        ("table2", "LayerCAM best", "LayerCAM-one"), ("table3", "coinseg", "coinseg"),
    ):  # fmt: skip
        assert one.place_of(name, one.rows_of(table)[name][1]) == one.root / "rows" / folder
    assert one.place_of("-- à b--", replace(settings(), seed=99)) == one.root / "rows" / "à-b"


def test_a_row_is_computed_once_and_again_for_another_key(stub: Stubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "mask_free", lambda *given: {})
    one = stub.seed()
    given = one.rows_of("table1")["COIN"][1]
    made = one.row("COIN", given)
    folder = one.place_of("COIN", given)
    ((store, f, trained, at, report),) = stub.coin
    assert (store, f, trained, at) == (one.store, one.f, given, folder / "coin")
    report("coin", 1, 2, {})
    assert stub.said[-1] == ("seed 0, COIN", 1, 2, {})
    assert (made["row"], made["training_s"], made["settings"]["seed"]) == ("COIN", 7.0, 0)
    assert made["settings"]["coin"]["steps"] == given.coin.steps
    assert {words[0] for words in stub.said} >= {"seed 0, COIN, scores"}
    assert one.row("COIN", given) == read_json(folder / "row.json")
    assert len(stub.coin) == 1
    keys = {made["key"]}
    for number, changes in enumerate(({"slices": 3}, {"fid": "w"}, {"fid_features": 64}), 2):
        one.job = replace(job(stub.data, stub.out), **changes)  # type: ignore[arg-type]
        keys.add(one.row("COIN", given)["key"])
        assert len(stub.coin) == number
    assert len(keys) == 4
    other = replace(given, masks=replace(given.masks, min_px=5))
    assert one.row("COIN", other)["key"] not in keys
    assert "training_s" not in one.row("RISE", one.rows_of("table2")["RISE"][1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "FORMAT", 99)
        before = len(stub.coin)
        one.row("COIN", given)
        assert len(stub.coin) == before + 1


def test_both_protocols_score_the_same_explanations_at_the_threshold_of_training_images(
    stub: Stubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, asked = stub.seed(fid="weights"), {}
    given = one.rows_of("table1")["COIN"][1]

    def honest(kept: Any, *rest: Any) -> dict[str, Any]:
        asked["honest"] = (kept, *rest)
        return {"iou_mask_free": 0.5}

    monkeypatch.setattr(room, "thesis_protocol", lambda found: asked.setdefault("replica", found) and {"threshold": 0.5})
    monkeypatch.setattr(room, "mask_free", honest)
    made = one.row("COIN", given)
    found, (kept, masks, threshold, with_settings) = asked["replica"], asked["honest"]
    explainer = room.Explainer(given, one.f, PaintBlack(), torch.device("cpu"))
    wanted = explainer.choose_threshold(room.TrainingSlices(one.store, given.anomaly, given.seed))
    assert (threshold, with_settings) == (wanted.value, given)
    assert (made["threshold"], made["rule"], made["layer"]) == (wanted.value, wanted.rule, "last")
    assert found.rows.tolist() == one.slices.rows[one.members].tolist()
    called = found.before >= given.classifier.threshold
    assert called.any()
    assert not called.all()
    assert kept.refined.any((1, 2)).tolist() == called.tolist()
    assert np.array_equal(masks, room.masks_of(kept.refined, threshold, given.masks))
    assert (made["replica"]["fd_f"], made["honest"]["fd_f"], made["replica"]["fid"], made["honest"]["fid"]) == (
        0.25,
        0.25,
        0.5,
        0.5,
    )
    assert made["honest"]["iou_mask_free"] == 0.5
    # Realism: all images against all counterfactuals, and normal ones against what f calls abnormal.
    (real, fake, *how), (normal, turned, *_) = stub.fids
    assert how == [768, "weights"]
    assert np.array_equal(real, found.image[:, 0])
    assert np.array_equal(fake, found.counterfactual[:, 0])
    assert np.array_equal(normal, kept.image[kept.normal, 0])
    assert np.array_equal(turned, kept.counterfactual[kept.abnormal & called, 0])
    for (f, *pair), images in zip(stub.distances, ((real, fake), (normal, turned)), strict=True):
        assert f is one.f
        assert all(torch.equal(a, room.as_images(b)) for a, b in zip(pair, images, strict=True))
    # The pictures: abnormal slices with a lesion, the same for every method.
    ((file, shown),) = stub.examples
    assert file == one.place_of("COIN", given) / "examples.npz"
    at = [found.rows.tolist().index(row) for row in found.rows if found.truth[found.rows.tolist().index(row)].any()]
    cases = one.store.index["case"][found.rows[at]].tolist()
    assert shown.name.tolist() == [f"{case}, slice 0" for case in cases]
    wanted_pictures = {
        "image": found.image[:, 0], "truth": found.truth, "saliency": found.saliency, "before": found.before,
        "after": found.after, "mask_honest": masks, "counterfactual": np.clip(found.counterfactual[:, 0], 0, 1),
        "mask_replica": room.thesis_masks(found.saliency, 0.5, True),
    }  # fmt: skip
    for name, values in wanted_pictures.items():
        assert np.array_equal(getattr(shown, name), values[at]), name
    # Where no threshold of the thesis is known nothing is drawn for it; without FID weights there is no FID.
    monkeypatch.setattr(room, "thesis_protocol", lambda found: {"threshold": None})
    stub.fids.clear()
    one.job = replace(one.job, fid=None)
    again = one.row("COIN", given)
    assert not stub.examples[-1][1].mask_replica.any()
    assert "fid" not in again["replica"]
    assert stub.fids == []
    stub.distances.clear()
    rise = one.row("RISE", one.rows_of("table2")["RISE"][1])
    assert stub.distances == []
    assert "fd_f" not in rise["honest"]
    assert stub.examples[-1][1].counterfactual is stub.examples[-1][1].after is None


def test_at_most_six_pictures_are_sampled_and_none_where_nobody_is_abnormal(stub: Stubbed) -> None:
    one, count = stub.seed(), 12
    nothing = np.zeros((count, 4, 4))
    truth = np.ones((count, 4, 4), bool)
    truth[5] = False
    label, known = (np.arange(count) > 1).astype(int), np.arange(count) != 7
    found = Explained(np.zeros(count, int), label, np.arange(count) / 20, nothing[:, None], nothing, nothing, truth, known)
    one._save_examples(found, truth, truth, stub.out)
    shown = (stub.examples[0][1].before * 20).round().astype(int).tolist()
    assert shown == [2, 4, 6, 8, 9, 11]
    one._save_examples(replace(found, label=np.zeros(count, int)), truth, truth, stub.out)
    assert len(stub.examples) == 1


def test_both_directions_are_drawn_for_an_abnormal_and_a_normal_image(stub: Stubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    one, drawn = stub.seed(), []  # type: ignore[var-annotated]
    given = one.rows_of("table1")["G"][1]

    class Both(torch.nn.Module):
        """Paints what is bright black for the bin of normal, and everything white for the other."""

        def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            return torch.where(condition.reshape(-1, 1, 1, 1) == 0, torch.where(x > 0.2, -1.0, x), torch.full_like(x, 1.5))

    monkeypatch.setattr(room, "train_coin", lambda *words: stub.coin.append(words) or Both())
    monkeypatch.setattr(room, "both_directions", lambda path, *words: drawn.append((path, *words)) or path)
    paths = one.both_directions("G", given, stub.out / "figures")
    assert stub.coin == [(one.store, one.f, given, one.place_of("G", given) / "coin")]
    assert paths == [stub.out / "figures" / f"both-directions-{word}.png" for word in ("abnormal", "normal")]
    for (_, title, pictures, values), label, word in zip(drawn, (1, 0), ("abnormal", "normal"), strict=True):
        assert title == f"labelled {word}"
        image, without, more = pictures
        plain = one.slices.batch(np.arange(len(one.slices))).image[:, 0].numpy() / 2 + 0.5
        (at,) = [i for i, each in enumerate(plain) if np.allclose(each, image)]
        assert one.slices.labels()[at] == label
        assert not (without > 0.61).any()
        assert (more == 1).all()
        f = [float(probabilities(one.f, room.as_images(each[None]))[0]) for each in pictures]
        assert values == pytest.approx(f, abs=1e-5)
    one.slices.store.index["label"][:] = 1
    assert [path.stem for path in one.both_directions("G", given, stub.out)] == ["both-directions-abnormal"]


def test_an_attribution_is_asked_only_about_what_a_protocol_looks_at() -> None:
    asked: list[Any] = []

    class Known:
        """An explainer whose map is the image."""

        def __init__(self, method: str) -> None:
            self.settings = replace(Settings(), method=method, classifier=replace(Settings().classifier, threshold=0.6))  # type: ignore[arg-type]

        def probability(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0, 0, 0]

        def saliency(self, x: torch.Tensor) -> torch.Tensor:
            asked.append(x[:, 0, 0, 0].tolist())
            return x[:, 0]

        def explain(self, x: torch.Tensor, inpaint_all: bool) -> Explanation:
            assert inpaint_all
            return Explanation(self.probability(x), x[:, 0] / 2)

        def differences(self, x: torch.Tensor, wanted: np.ndarray, saliency: torch.Tensor) -> Any:
            return SimpleNamespace(mean=np.where(wanted[:, None, None], saliency.numpy(), -1.0))

    f = torch.tensor([0.25, 0.75, 0.5, 0.625])
    x, label = f.reshape(4, 1, 1, 1).expand(4, 1, 2, 2), np.array([1, 0, 0, 1])
    batch = ScoredBatch(np.arange(4), x, label, np.zeros((4, 2, 2), bool), np.ones(4, bool))
    explanation, maps = room.explained(Known("rise"), batch)  # type: ignore[arg-type]
    assert asked == [[0.25, 0.75, 0.625]]
    assert explanation.saliency[:, 0, 0].tolist() == [0.25, 0.75, 0.0, 0.625]
    assert maps.values[:, 0, 0].tolist() == [0.25, 0.75, -1.0, 0.625]
    assert explanation.probability.tolist() == f.tolist()
    nobody = replace(batch, label=label * 0, image=x * 0)
    assert not room.explained(Known("rise"), nobody)[0].saliency.any()  # type: ignore[arg-type]
    assert len(asked) == 1
    explanation, maps = room.explained(Known("counterfactual"), batch)  # type: ignore[arg-type]
    assert maps.values[:, 0, 0].tolist() == (f / 2).tolist()


def test_a_table_is_of_all_seeds_in_both_protocols(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: dict[str, Any] = {"checked": []}

    class Fake:
        def __init__(self, job: Job, number: int, report: Any) -> None:
            self.number = number
            assert report == "report"

        def rows_of(self, table: str) -> dict[str, Any]:
            return {name: (TABLES[table][name], f"settings {name}") for name in ("G", "COIN")}

        def row(self, name: str, given: str) -> dict[str, Any]:
            assert given == f"settings {name}"
            value = {"G": 0.25, "COIN": 0.5}[name] + self.number / 8
            facts = {"layer": "last", "scoring_s": 1.0, "training_s": 2.0, "threshold": 0.1}
            return {"replica": {"iou": value}, "honest": {"iou_mask_free": value / 2}, **facts}

        def place_of(self, name: str, given: str) -> Path:
            return Path(f"seed{self.number}") / name

        def both_directions(self, name: str, given: str, folder: Path) -> list[Path]:
            return [folder / f"{name} of seed {self.number} {given}.png"]

    monkeypatch.setattr(room, "Seed", Fake)
    monkeypatch.setattr(room, "draw", lambda *given: made.setdefault("drawn", given) and [Path("drawn.png")])
    monkeypatch.setattr(room, "write_table", lambda *given: made.setdefault("table", given) and [Path("table.md")])
    monkeypatch.setattr(room.realism, "inception", lambda *given: made["checked"].append(given))
    given = replace(settings(), anomaly=replace(settings().anomaly, kind="blob"))
    words = Job(tmp_path, tmp_path / "out", given, "small", 2, 5, "w", 64)
    paths, records = reproduce(words, "table1", "squares", "report")  # type: ignore[arg-type]
    figures = tmp_path / "out" / "figures"
    assert made["checked"] == [(64, "w")]
    assert paths == [Path("table.md"), Path("drawn.png"), figures / "G of seed 0 settings G.png"]
    assert [(each["method"], each["protocol"], each["scores"]["iou"]) for each in records] == [
        ("G", "replica", [0.25, 0.375]), ("COIN", "replica", [0.5, 0.625]),
        ("G", "honest", [0.125, 0.1875]), ("COIN", "honest", [0.25, 0.3125]),
    ]  # fmt: skip
    assert records[1]["thesis"] == {"fid": 0.0029, "cv": 0.997, "iou": 0.646}
    assert {(each["set"], each["seeds"]) for each in records} == {("squares", 2)}
    folder, stem, title, written, columns, notes = made["table"]
    assert (folder, stem, title, written, columns) == (
        tmp_path / "out",
        "table1",
        "Table 1 of the thesis on squares",
        records,
        room.COLUMNS,
    )
    assert "scale small: slices of 32 x 32, 4 steps of each generator, at most 5 held-out slices, 2 seeds" in " ".join(notes)
    assert any(note.startswith("A, B, C, D, E, F, H: left out") for note in notes)
    assert made["drawn"] == ({"G": Path("seed0/G"), "COIN": Path("seed0/COIN")}, "table1", figures, True)
    _, records = reproduce(replace(words, settings=settings(), fid=None, seeds=1), "table1", "squares", "report")  # type: ignore[arg-type]
    assert records[1]["thesis"] == {"fid": 0.036, "cv": 0.98, "iou": 0.432}
    assert len(made["checked"]) == 1
    monkeypatch.setattr(Fake, "rows_of", lambda self, table: {"COIN": (TABLES[table]["COIN"], "settings COIN")})
    for table in ("table1", "table3"):
        assert reproduce(replace(words, fid=None), table, "squares", "report")[0] == [Path("table.md"), Path("drawn.png")]  # type: ignore[arg-type]


def test_the_default_data_are_blobs_in_the_kidneys_of_the_phantom() -> None:
    made = room.on_phantom(settings())
    assert made == replace(
        settings(), data=replace(settings().data, organ=("kidney_left", "kidney_right"), roi="each"),
        anomaly=replace(settings().anomaly, kind="blob"),
    )  # fmt: skip
    phantom = room.PHANTOM
    assert (phantom.patients, phantom.slices, phantom.size, phantom.lesions) == (24, 24, 256, "none")
    pixels = np.array([[[0.0, 0.25], [0.5, 1.0]]])
    assert room.as_images(pixels).tolist() == [[[[-1.0, -0.5], [0.0, 1.0]]]]
    assert room.as_images(pixels).dtype == torch.float32


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
