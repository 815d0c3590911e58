"""Several classes and colour, from a table to masks: what each class is told, and what comes out together."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from PIL import Image
from torch import Tensor, nn

from coinseg.cli.main import main as cli_main
from coinseg.config.schema import CoinSettings
from coinseg.data.slices.dataset import JointSlices, TrainingSlices
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.errors import UserError
from coinseg.explain.counterfactual import coin, losses
from coinseg.explain.counterfactual.generator import build_generator
from coinseg.export.card import model_card
from coinseg.export.folder import excerpt
from coinseg.inference.checkpoint import load
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.scans import cut_slices, images_of
from coinseg.inference.sources import load as load_one
from coinseg.networks.classes import ClassGenerator, ClassLogit, ClassMap
from coinseg.pipeline import classes
from coinseg.pipeline.label_maps import palette, surest
from coinseg.review.desk import Rules, desk_on
from coinseg.review.exchange import export_reviewed
from coinseg.review.explanations import SliceMaps, slice_maps
from coinseg.review.incoming import masks_by_name
from coinseg.review.sources import read_source
from coinseg.training.classifier import label_loss
from coinseg.training.student import student_loss
from conftest import TINY
from writers import make_run

SIZE, CLASSES = 32, ("disc", "square")


def write_classes(root: Path, count: int = 48) -> Path:
    """Green noise with red discs and blue squares, independent of each other; the last label of a square is not known."""
    rng, rows = np.random.default_rng(0), ["file,patient,disc,square"]
    for folder in ("images", "masks_disc", "masks_square"):
        (root / folder).mkdir(parents=True)
    y, x = np.indices((40, 40))
    for i in range(count):
        image = np.array([0.3, 0.5, 0.3]) + 0.04 * rng.standard_normal((40, 40, 3))
        has = (i % 2 == 0, i % 4 < 2)
        (a, b), (c, d) = rng.uniform(9, 31, 2), rng.uniform(9, 31, 2)
        shapes = (np.hypot(y - a, x - b) < 6, np.maximum(abs(y - c), abs(x - d)) < 5)
        for name, there, shape, tint in zip(CLASSES, has, shapes, ([0.5, 0, 0], [0, 0, 0.5]), strict=True):
            if there:
                image[shape] += tint
                Image.fromarray(shape).save(root / f"masks_{name}" / f"{i:02d}.png")
        Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)).save(root / "images" / f"{i:02d}.png")
        rows.append(f"images/{i:02d}.png,p{i // 4},{int(has[0])},{int(has[1]) if i < count - 1 else ''}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def valid(path: Path) -> dict[str, Any]:
    """What a file holds, once its schema has nothing against it."""
    found, schema = json.loads(path.read_text()), json.loads((files("coinseg") / f"{path.stem}.schema.json").read_text())
    schema = schema["$defs"][found["kind"]] if "$defs" in schema else schema
    assert [error.message for error in Draft202012Validator(schema).iter_errors(found)] == []
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes") / "data")


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    out = data.parent / "run"
    options = ["--student.steps", "4", "--student.teachers", "1", "--student.trust", "0", "--student.imagenet_steps", "0"]
    assert cli_main(["run", str(data), "-o", str(out), *TINY, "--classifier.steps", "60", *options]) == 0
    return out


def test_every_class_has_its_labels_and_masks(run: Path) -> None:
    store = SliceStore(run / "slices")
    assert store.classes == CLASSES
    assert store.channels == ("red", "green", "blue")
    disc, square = store.views
    number = np.array([int(case[-2:]) for case in store.index["case"]])
    assert (disc.index["label"] == (number % 2 == 0)).all()
    assert (square.index["label"][number < 47] == (number % 4 < 2)[number < 47]).all()
    assert (disc.truth().any((1, 2)) == (number % 2 == 0)).all()
    assert (square.truth().any((1, 2)) == (number % 4 < 2))[number < 47].all()
    assert (store.truth() == (disc.truth() | square.truth())).all()
    assert disc.meta["contents"] != square.meta["contents"] != store.meta["contents"]


def test_a_slice_whose_label_is_not_known_is_on_no_side_of_that_class_alone(run: Path) -> None:
    store = SliceStore(run / "slices")
    last = np.flatnonzero(store.index["case"] == "47")
    assert (store.views[1].index["split"][last] == LEFT_OUT).all()
    assert (store.views[0].index["split"][last] != LEFT_OUT).all()


def test_a_joint_batch_has_the_share_of_every_class_half_of_it_with_the_class(run: Path) -> None:
    store = SliceStore(run / "slices")
    slices = JointSlices(store, tiny().anomaly, 0)
    indices, _ = slices.indices_of_step(3, 16, balanced=True)
    batch = slices.batch(indices)
    assert batch.asked is not None
    assert batch.asked.tolist() == [0] * 8 + [1] * 8
    assert [int(batch.label[batch.asked == k, k].sum()) for k in (0, 1)] == [4, 4]
    assert set(store.index["split"][indices[:, 1]].tolist()) == {TRAINING}
    alone = TrainingSlices(store.views[0], tiny().anomaly, 0)
    row = int(indices[0, 1])
    assert torch.equal(batch.image[0], alone.batch(np.flatnonzero(alone.rows == row)).image[0])


def tiny():  # type: ignore[no-untyped-def]
    from conftest import tiny_settings

    return tiny_settings()


def test_labels_that_are_not_known_teach_f_nothing() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 9.0]], requires_grad=True)
    loss = label_loss(logits, torch.tensor([[1.0, 0.0], [0.0, torch.nan]]))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1, 1] == 0
    one = label_loss(logits[:, 0], torch.tensor([1.0, 0.0]))
    other = label_loss(logits[:1, 1], torch.tensor([0.0]))
    assert loss.item() == pytest.approx((2 * one.item() + other.item()) / 3)


class ByClass(nn.Module):
    """f: the mean of red and of blue."""

    def forward(self, x: Tensor) -> Tensor:
        return 4 * torch.stack([x[:, 0].mean((1, 2)), x[:, 2].mean((1, 2))], 1)


def test_coin_turns_off_the_class_that_is_asked_for_and_keeps_the_other() -> None:
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    asked, f, weights = torch.tensor([0, 1, 0, 1]), ByClass(), CoinSettings(identity=0, tv=0, adversarial=0, classifier=1)

    def painted(channel: int) -> float:
        def generator(images: Tensor, number: Tensor) -> Tensor:
            found = images.clone()
            for i, k in enumerate(number.tolist()):
                found[i, (0, 2)[k] if channel < 0 else channel] = -1
            return found

        made = coin.generate(x, generator, f, weights, asked)
        return float(coin.generator_losses(x, made, generator, lambda z: z.mean((1, 2, 3)), f, weights)["classifier"])

    assert painted(-1) < painted(1)  # the asked channel, against green, which f does not see
    assert painted(-1) < min(painted(0), painted(2))  # one channel for all turns off the other class in half of the images


def test_a_generator_of_classes_is_told_which(run: Path) -> None:
    generator = build_generator(replace(tiny().coin, fusion="none"), 3, 2).eval()
    for embedding in (m for m in generator.modules() if isinstance(m, nn.Embedding)):
        nn.init.normal_(embedding.weight, 1.0, 0.5, generator=torch.Generator().manual_seed(1))
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    first, second = (ClassGenerator(generator, k)(x) for k in (0, 1))
    assert torch.equal(first, generator(x, torch.zeros(2, dtype=torch.long)))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match=r"coin\.conditions is 2 and there are 2 classes; required: 1"):
        build_generator(replace(tiny().coin, conditions=2), 3, 2)


def test_one_class_of_a_network_is_its_column() -> None:
    x = torch.rand(3, 3, 8, 8)
    assert torch.equal(ClassLogit(ByClass(), 1)(x), ByClass()(x)[:, 1])
    assert torch.equal(ClassMap(nn.Identity(), 2)(x), x[:, 2:])


def test_the_loss_of_the_student_is_the_mean_over_classes() -> None:
    logits, target = torch.randn(4, 2, 8, 8), torch.randint(0, 3, (4, 2, 8, 8)).float()
    each = [student_loss(logits[:, k : k + 1], target[:, k : k + 1], 0.3).item() for k in (0, 1)]
    assert student_loss(logits, target, 0.3).item() == pytest.approx(sum(each) / 2)


def test_where_classes_overlap_the_surest_counts() -> None:
    masks = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], bool)
    confidences = np.array([[60, 70, 90, 0], [99, 80, 55, 0]], np.uint8)
    assert surest(masks, confidences).tolist() == [1, 2, 2, 1]
    assert len(palette(12)) == 768


def test_a_run_has_a_folder_of_each_class_and_label_maps_above_them(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert list(manifest["classes"]) == list(CLASSES)
    assert manifest["scores"]["auroc"] == pytest.approx(np.mean([one["scores"]["auroc"] for one in manifest["classes"].values()]))
    for name in CLASSES:
        folder = run / "classes" / name
        assert json.loads((folder / "manifest.json").read_text())["scores"]["iou_oracle"] is not None
        assert "all classes" in (folder / "report.html").read_text()
    labels = json.loads((run / "masks" / "labels.json").read_text())["labels"]
    assert labels == {"background": 0, "disc": 1, "square": 2}
    for path in (run / "masks").glob("*.png"):
        picture = Image.open(path)
        assert picture.mode == "P"
        values = np.asarray(picture)
        for number, name in enumerate(CLASSES, 1):
            mask = run / "classes" / name / "masks" / path.name
            inside = np.asarray(Image.open(mask)) > 0 if mask.exists() else np.zeros(values.shape, bool)
            assert not ((values == number) & ~inside).any()
    rows = json.loads((run / "masks" / "index.json").read_text())["masks"]
    assert {row["class"] for row in rows} == set(CLASSES)
    assert all((run / "masks" / row["mask"]).is_file() for row in rows)


def test_what_is_said_of_all_classes_is_said_once(run: Path) -> None:
    manifest = valid(run / "manifest.json")
    # Images 0 to 46 have a disc where they are even, a square where they are 0 or 1 of 4; of 47 the label of a square is unknown.
    assert (manifest["data"]["abnormal"], manifest["data"]["slices"]) == (36, 48)
    assert json.loads((run / "classes" / "disc" / "manifest.json").read_text())["data"]["abnormal"] == 24
    read = {role: {one["path"] for one in manifest["inputs"] if one["role"] == role} for role in ("image", "lesion")}
    assert (len(read["image"]), len(manifest["inputs"])) == (48, 48 + len(read["lesion"]))
    assert {Path(path).parent.name for path in read["lesion"]} == {"masks_disc", "masks_square"}
    common = [line for line in manifest["warnings"] if line.startswith("data: ")]
    assert any("read in colour" in line for line in common)
    assert not any(f"{name}: data: images are read in colour" in line for name in CLASSES for line in manifest["warnings"])
    assert classes._warnings({"a": ["both", "one"], "b": ["two", "both"]}) == ["both", "a: one", "b: two"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'href="cases.html"' in page
    assert "read in colour" in page


def test_the_case_pages_have_each_case_once_a_class_with_its_own_counterfactual(run: Path) -> None:
    text = (run / "cases.html").read_text(encoding="utf-8")
    cases = json.loads(text.split('id="data">')[1].split("</script>")[0])["cases"]
    assert {one["class"] for one in cases} == set(CLASSES)
    assert {one["id"] for one in cases} == {f"{name}/{path.stem}" for name in CLASSES for path in masks_of(run, name)}
    assert all(one["colour"] and one["said"] for one in cases)
    by_id = {one["id"]: one["said"] for one in cases}
    both = [
        (by_id[f"disc/{case}"], by_id[f"square/{case}"])
        for name, case in (case.split("/") for case in by_id)
        if name == "disc" and f"square/{case}" in by_id
    ]
    assert any(disc != square for disc, square in both), "each class has its own"
    table = (run / "review.csv").read_text(encoding="utf-8")
    assert all(one["id"] in table for one in cases)


def masks_of(run: Path, name: str) -> list[Path]:
    return sorted((run / "classes" / name / "masks").glob("*.png"))


def test_a_model_of_classes_marks_what_its_run_marked_and_the_same_command_changes_nothing(run: Path, data: Path) -> None:
    trained = load(run)
    assert isinstance(trained, ClassPredictors)
    found = trained.masks(data / "images" / "08.png")
    for name in CLASSES:
        mask = run / "classes" / name / "masks" / "08.png"
        assert (found[name][0] == (np.asarray(Image.open(mask)) > 0)).all()


def test_how_far_the_logits_move_where_a_class_is_turned_off(run: Path) -> None:
    trained, x = load(run), torch.rand(3, 3, SIZE, SIZE) * 2 - 1
    assert isinstance(trained, ClassPredictors)
    square = trained.of["square"]
    before, after = (
        torch.stack([torch.from_numpy(one.logits(seen)[:, 0]) for one in trained.of.values()], 1)
        for seen in (x, square.explainer.counterfactual(x))
    )
    wanted = (after - before).abs().mean(0).tolist()
    assert list(trained.moved(x, "square").values()) == pytest.approx(wanted, abs=1e-5)
    manifest = valid(run / "manifest.json")
    assert list(manifest["classes"]["disc"]["logits_moved"]) == list(CLASSES)
    store = SliceStore(run / "slices")
    for view, (name, one) in zip(store.views, trained.of.items(), strict=True):
        held_out = TrainingSlices(view, tiny().anomaly, 0, VALIDATION)
        wanted = one.logits(held_out.batch(np.arange(len(held_out))).image)[:, 0].std()
        assert manifest["classes"][name]["logit_deviation"] == pytest.approx(wanted, abs=1e-4)
    of_disc, by = manifest["classes"]["disc"]["logits_moved"], manifest["classes"]["square"]["logit_deviation"]
    page = (run / "report.html").read_text()
    assert "One class turned off" in page
    assert f"<td>{of_disc['square']:.2f} ({of_disc['square'] / by:.3f})</td>" in page
    assert f"<td>{manifest['classes']['disc']['logits_moved']['disc']:.2f}</td>" in page
    valid(run / "masks" / "index.json")


def test_segment_gives_every_class_a_folder_and_a_label_map_of_each_image(run: Path, data: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("08.png", "11.png"):
        (scans / name).write_bytes((data / "images" / name).read_bytes())
    assert cli_main(["segment", "-i", str(scans), "-o", str(tmp_path / "out"), "--model", str(run)]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"08.png", "11.png"}
    for name in CLASSES:
        table = json.loads((tmp_path / "out" / "classes" / name / "masks" / "index.json").read_text())
        assert [row["case"] for row in table["masks"]] == ["08.png", "11.png"]
    assert valid(tmp_path / "out" / "manifest.json")["inputs"][1]["path"] == "11.png"
    valid(tmp_path / "out" / "index.json")
    source = read_source(tmp_path / "out")
    assert [draft.record.id for draft in source.drafts] == [f"{name}/{file}.png" for name in CLASSES for file in ("08", "11")]
    assert all(draft.confidence and draft.confidence.is_file() and draft.mask.is_file() for draft in source.drafts)

    mask = tmp_path / "11.png"
    command = ["segment", "-i", str(scans / "11.png"), "-o", str(mask), "--model", str(run)]
    assert cli_main(command) == 0
    assert mask.read_bytes() == (tmp_path / "out" / "11.png").read_bytes()
    assert json.loads((tmp_path / "11.labels.json").read_text())["labels"] == {"background": 0, "disc": 1, "square": 2}


def test_a_folder_of_which_nothing_can_be_read_is_told_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "x.png").write_bytes(b"no image")
    assert cli_main(["segment", "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "--model", str(run)]) == 2
    assert "2 inputs failed, 0 masks were written: disc: " in capsys.readouterr().err
    manifest = valid(tmp_path / "out" / "manifest.json")
    assert (manifest["failed"], manifest["outputs"]["mask_count"]) == (["x.png"], 0)
    assert not (tmp_path / "out" / "index.json").exists()


def test_masks_of_other_classes_do_not_get_the_names_of_these(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an input that is not there any more the label map would stay, and 1 be called by another name."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    shutil.copyfile(data / "images" / "08.png", scans / "08.png")
    make_run(tmp_path / "one", kind="percentile", channels=("red", "green", "blue"))

    def segment(model: Path, out: Path) -> int:
        return cli_main(["segment", "-i", str(scans), "-o", str(out), "--model", str(model), "--overwrite"])

    assert segment(run, out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert segment(tmp_path / "one", out) == 2
    assert f"{out} has the classes disc, square, and the model finds masks of one class" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert segment(tmp_path / "one", tmp_path / "other") == 0
    assert segment(run, tmp_path / "other") == 2
    assert "has masks of one class, and the model finds the classes disc, square" in capsys.readouterr().err
    assert segment(run, out) == segment(tmp_path / "one", tmp_path / "other") == 0


def test_the_table_of_segment_says_which_channel_changed(run: Path, data: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("08.png", "11.png"):
        (scans / name).write_bytes((data / "images" / name).read_bytes())
    assert cli_main(["segment", "-i", str(scans), "-o", str(tmp_path / "out"), "--model", str(run)]) == 0
    index = valid(tmp_path / "out" / "index.json")["masks"]
    rows = list(csv.DictReader((tmp_path / "out" / "index.csv").open()))
    assert [row["class"] for row in rows] == [row["class"] for row in index] == ["disc", "disc", "square", "square"]
    trained, told = load(run), 0
    assert isinstance(trained, ClassPredictors)
    for row, line in zip(index, rows, strict=True):
        one = trained.of[row["class"]]
        if not row["pixels"]:
            assert row["change"] is None
            assert line["change red"] == ""
            continue
        (image,), told = images_of(one, cut_slices(one, [load_one(one, scans / row["case"], ())])), told + 1
        mask = one.segment_images(image[None]).masks[0]
        changed = ((image - one.explainer.counterfactual(image[None])[0]).abs() / 2)[:, torch.from_numpy(mask)].mean(1)
        assert list(row["change"].values()) == pytest.approx(changed.tolist(), abs=1e-4)
        assert [float(line[f"change {name}"]) for name in ("red", "green", "blue")] == list(row["change"].values())
    assert told, "no mask in this run: nothing was checked"


def test_the_desk_shows_one_class_of_a_case_at_a_time(run: Path, tmp_path: Path) -> None:
    source = read_source(run)
    assert {draft.class_name for draft in source.drafts} == set(CLASSES)
    with desk_on(source, tmp_path / "review", Rules()) as desk:
        rows = {row["id"]: row for row in desk.queue("ann")["cases"]}
        assert len(rows) == len(source.drafts) == 2 * 24 + 1  # the last one has no label of a square
        row = rows["square/08"]
        assert (row["numbers"]["class"], row["truth"]) == ("square", True)
        found = {name: desk.layer(rows[f"{name}/08"]["key"], "ann", "truth", "axial", 0) for name in CLASSES}
        true = {name: np.asarray(Image.open(run.parent / "data" / f"masks_{name}" / "08.png")) > 0 for name in CLASSES}
        assert all(np.array_equal(found[name], true[name]) for name in CLASSES)
        case = desk.views.draft(row["key"]).case
        assert case is not None
        said = [slice_maps(run, None, case, 0, name) for name in CLASSES]
        assert all(isinstance(one, SliceMaps) and one.counterfactual.shape == (40, 40, 3) for one in said)
        assert said[0].before != said[1].before  # type: ignore[union-attr]
        assert slice_maps(run, None, case, 0, "dot")[0] == "the run has the classes disc, square"
        desk.editor.decide(row["key"], "ann", "rejected", "", 1.0, desk.editor.state(row["key"], "ann")["edits"])
        export_reviewed(source, desk.store, "masks", tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["square__08.png"]
        with pytest.raises(UserError, match=r"no reviewed case can be written as nnunet \(08: not decided yet of disc\)"):
            export_reviewed(source, desk.store, "nnunet", tmp_path / "nnunet")
        assert "nnunet" in desk.kinds()
        # A disc of 3 x 4 pixels and no square; of 01, which is labelled without a disc, a square of 2 x 2; 04 overlaps.
        for case, disc, square in (
            ("08", (1, 4, 1, 5), (0, 0, 0, 0)),
            ("01", None, (5, 7, 5, 7)),
            ("04", (1, 4, 1, 5), (3, 6, 1, 5)),
        ):
            for name, box in (("disc", disc), ("square", square)):
                if box is not None:
                    mask = np.zeros((1, 40, 40), bool)
                    mask[0, box[0] : box[1], box[2] : box[3]] = True
                    key = rows[f"{name}/{case}"]["key"]
                    edits = desk.editor.replace(key, "ann", mask, "file", f"{name}-{case}-0001")["edits"]
                    desk.editor.decide(key, "ann", "accepted", "", 1.0, edits)
        written = export_reviewed(source, desk.store, "nnunet", tmp_path / "Dataset101_x")
        assert (written.cases, written.left_out) == (2, ["04: classes overlap in 4 of its pixels"])
        labels = {case: np.asarray(Image.open(tmp_path / "Dataset101_x" / "labelsTr" / f"{case}.png")) for case in ("08", "01")}
        assert [np.bincount(one.ravel(), minlength=3)[1:].tolist() for one in labels.values()] == [[12, 0], [0, 4]]
        assert labels["01"][5, 5] == 2
        about = json.loads((tmp_path / "Dataset101_x" / "dataset.json").read_text())
        assert about["labels"] == {"background": 0, "disc": 1, "square": 2}
        assert masks_by_name(tmp_path / "out", source.drafts)[0][0][0].record.id == "square/08"


def test_masks_reviewed_of_each_class_teach_and_every_report_says_how_many(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("training.pseudo_masks", "training.student", "pipeline.recipe"):
        monkeypatch.setattr(f"coinseg.{place}.LEAST", 1)
    shutil.copytree(run, tmp_path / "run")
    source, states = read_source(tmp_path / "run"), {"disc": ("accepted", "rejected"), "square": ("rejected",)}
    with desk_on(source, None, Rules()) as desk:
        for name, several in states.items():
            rows = [
                d for d in source.drafts if d.class_name == name and d.record.side == "training" and d.record.numbers["pixels"]
            ]
            rows += [d for d in source.drafts if d.class_name == name and d.record.side == "held out"][:1]
            for draft, state in zip(rows[: len(several)] + rows[-1:], (*several, "accepted"), strict=True):
                desk.case(draft.key, "ann")
                desk.editor.decide(draft.key, "ann", state, "", 1.0, 0)
    words = json.loads((run / "manifest.json").read_text())["command"].split()[1:]
    words[words.index("-o") + 1] = str(tmp_path / "run")
    assert cli_main([*words, "--student.reviewed", str(tmp_path / "run"), "--overwrite"]) == 0
    printed = capsys.readouterr().out
    manifest = valid(tmp_path / "run" / "manifest.json")
    learnt = {name: manifest["classes"][name]["reviewed"] for name in CLASSES}
    assert learnt["disc"] == {"cases": 2, "slices": 2, "marked": 1, "left_out": 0, "not_learnt": 1}
    assert learnt["square"] == {"cases": 1, "slices": 1, "marked": 0, "left_out": 0, "not_learnt": 1}
    assert "reviewed" not in manifest["data"]
    lines = {
        name: f"not mask-free: the student learnt {n} slices of {n} cases reviewed for {name}"
        for name, n in (("disc", 2), ("square", 1))
    }
    for name, line in lines.items():
        assert valid(tmp_path / "run" / "classes" / name / "manifest.json")["data"]["reviewed"] == learnt[name]
        assert f"warning: {name}: {line}" in printed
        assert line in (tmp_path / "run" / "report.html").read_text()
        assert line in (tmp_path / "run" / "classes" / name / "report.html").read_text()
    trained = load(tmp_path / "run")
    card = model_card(excerpt(tmp_path / "run"), trained.settings, trained.preparation.kind)
    assert "had reviewed (disc: 2 slices of 2 cases; square: 1 slices of 1 cases)**" in card
    assert "reviewed" not in valid(run / "manifest.json")["classes"]["disc"]


def test_a_label_map_that_somebody_changed_is_kept(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = run / "masks" / "08.png"
    before, words = mask.read_bytes(), json.loads((run / "manifest.json").read_text())["command"].split()[1:]
    Image.fromarray(np.full((40, 40), 2, np.uint8)).save(mask)
    changed = mask.read_bytes()
    assert cli_main(words) == 2
    assert "masks/08.png exists and is not what coinseg wrote there" in capsys.readouterr().err
    assert mask.read_bytes() == changed
    mask.write_bytes(before)
    assert cli_main(words) == 0


def test_classes_of_label_maps_are_known_once_masks_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Label maps are the only truth: 1 is in every other image, 2 in the first half, 3 in none."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for i in range(16):
        labels = np.zeros((24, 24), np.uint8)
        labels[4:10, 4:10], labels[14:20, 14:20] = 1 - i % 2, 2 * (i < 8)
        Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(tmp_path / "data" / "images" / f"{i:02d}.png")
        Image.fromarray(labels).save(tmp_path / "data" / "masks" / f"{i:02d}.png")

    def prepare(out: str, *classes: str) -> int:
        words = ["prepare", str(tmp_path / "data"), "-o", str(tmp_path / out), "--data.size", "16"]
        return cli_main([*words, "--data.classes", *classes])

    assert prepare("out", "1", "2") == 0
    first, second = SliceStore(tmp_path / "out" / "slices").views
    number = np.array([int(case[-2:]) for case in first.index["case"]])
    assert (first.index["label"] == 1 - number % 2).all()
    assert (second.index["label"] == (number < 8)).all()
    assert ((first.truth() & second.truth()).sum(), first.truth().any((1, 2)).sum()) == (0, 8)
    capsys.readouterr()
    assert prepare("none", "1", "3") == 2
    said = r"error: the training side .* and 0 with 3 slices; required: slices without 3 and with 3 to train on"
    assert re.search(said, capsys.readouterr().err)


def test_the_studies_of_classes_ask_what_they_say(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = Path(__file__).resolve().parents[2] / "studies"
    if not studies.is_dir():
        pytest.skip("studies/ is not part of this copy")
    monkeypatch.syspath_prepend(studies)
    import called_as
    import other_logits

    found = called_as.masks_of_run(run)
    assert list(found) == list(CLASSES)
    rows, truth, masks = found["disc"]
    assert truth.any((1, 2)).tolist() == (SliceStore(run / "slices").views[0].index["label"][rows] == 1).tolist()
    assert masks.shape == truth.shape
    called_as.called(run)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 2
    generator = torch.Generator().manual_seed(0)
    after, before = (torch.randn(4, 3, generator=generator) for _ in range(2))
    asked = torch.tensor([0, 1, 2, 0])
    now = other_logits.consistency(other_logits.TERMS["huber-1"], torch.ones(3), 10)
    assert now(after, before, asked).item() == pytest.approx(losses.class_consistency(after, before, asked).item())
    for name, term in other_logits.TERMS.items():
        kept = other_logits.consistency(term, torch.full((3,), 2.0), 10)(before, before, asked)
        assert kept.item() == pytest.approx(losses.classifier_consistency(before.gather(1, asked[:, None])).item()), name
