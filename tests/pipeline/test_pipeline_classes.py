"""Classes that share networks: what each has of its own is its own, whatever it is called and whoever is labelled for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.intensity import signed
from coinseg.data.slices.split import LEFT_OUT, VALIDATION
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.data.slices.student_data import PseudoMasks
from coinseg.errors import UserError
from coinseg.export.to_onnx import write_onnx
from coinseg.inference.checkpoint import load
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.predictor import Predictor
from coinseg.parts.base import Learning
from coinseg.pipeline import classes, recipe, run_manifest
from coinseg.pipeline.job import Job
from coinseg.pipeline.recipe import build
from coinseg.pipeline.reviews import NO_REVIEWS
from coinseg.pipeline.run import Workspace, train_classes, warnings
from coinseg.runtime.files import read_json
from coinseg.runtime.records import write_record
from coinseg.types import Case
from conftest import tiny_settings
from models import learn_from_few


def settings_of(**changes: Any) -> Settings:
    base = tiny_settings()
    shorter = replace(base, classifier=replace(base.classifier, steps=6), coin=replace(base.coin, steps=4))
    return replace(shorter, student=replace(base.student, **{"steps": 0, "teachers": 1} | changes))


def written(folder: Path, labels: Sequence[tuple[int | None, int | None]], header: str = "file,patient,disc,square") -> Path:
    """Noise with a bright square of its own size for each class, dark on the left where the first class is not labelled."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [header]
    for i, (first, second) in enumerate(labels):
        rng = np.random.default_rng(i)
        pixels = rng.normal(110, 20, (32, 32))
        pixels[4:10, 16:22] += 90 * bool(first)
        pixels[18:30, 16:28] += 60 * bool(second)
        pixels[:, :14] *= first is not None
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,p{i:02d}," + ",".join("" if label is None else str(label) for label in (first, second)))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def store_of(folder: Path, settings: Settings, out: Path) -> SliceStore:
    return prepare(read_layout(folder, settings.data), settings, out)


def test_images_that_only_another_class_is_labelled_in_are_no_strangers(tmp_path: Path) -> None:
    labels = [((i // 2) % 2, None) if i % 2 else (None, (i // 2) % 2) for i in range(48)]
    settings = settings_of()
    store = store_of(written(tmp_path / "data", labels), settings, tmp_path / "slices")
    trained = build(Job(store, settings))
    assert isinstance(trained, ClassPredictors)
    images = torch.from_numpy(signed(store.unit(np.arange(len(store)))))
    for predictor in trained.of.values():
        assert float((predictor.look(images)[1] > 1).mean()) < 0.1
    assert np.isfinite(trained.first.look(images)[1]).all()


def test_a_class_whose_name_was_corrected_keeps_what_is_its_own(tmp_path: Path) -> None:
    labels, settings = [(i % 2, i // 2 % 2) for i in range(24)], settings_of()
    found = []
    for header in ("file,patient,disc,square", "file,patient,square,disc"):
        store = store_of(written(tmp_path / "data", labels, header), settings, tmp_path / "run" / "slices")
        trained = build(Job(store, settings, tmp_path / "run"))
        assert isinstance(trained, ClassPredictors)
        files = [read_json(tmp_path / "run" / "classes" / name / "threshold.json")["value"] for name in trained.names]
        assert files == [one.threshold for one in trained.of.values()]
        found.append(dict(zip(header.split(",")[2:], files, strict=True)))
    before, after = found
    assert before["disc"] != before["square"]
    assert after == {"square": before["disc"], "disc": before["square"]}


def test_parts_of_a_class_have_a_key_of_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_from_few(monkeypatch)
    settings = settings_of(steps=1, networks=1, imagenet_steps=0, trust=0.0)
    store = store_of(written(tmp_path / "data", [(i % 2, i // 2 % 2) for i in range(24)]), settings, tmp_path / "slices")
    asked: list[Learning] = []
    monkeypatch.setattr(recipe, "train_student", lambda *words: [None, None])
    monkeypatch.setattr(recipe, "_lesson", lambda one, learning, masks: asked.append(learning))
    build(Job(store, settings))
    assert len({learning.key for learning in asked}) == 2


def rare_class(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[Settings, Path]:
    """Settings and data of two classes, the first one rare; pseudo-masks are whole images, four are needed."""

    def whole_images(slices: TrainingSlices, *rest: Any) -> PseudoMasks:
        normals, abnormal = (np.flatnonzero(slices.labels() == label) for label in (0, 1))
        return PseudoMasks(abnormal, np.ones((len(abnormal), *[slices.store.size] * 2), np.uint8), normals)

    learn_from_few(monkeypatch)
    monkeypatch.setattr("coinseg.training.student.LEAST", 4)
    monkeypatch.setattr("coinseg.training.student.collect_pseudo_masks", whole_images)
    settings = settings_of(steps=1, networks=1, imagenet_steps=0)
    return settings, written(folder, [(int(i < 3), i // 2 % 2) for i in range(24)])


def test_a_class_with_too_few_masks_has_no_student_and_the_others_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, source = rare_class(monkeypatch, tmp_path / "data")
    root = tmp_path / "run"
    trained = build(Job(store_of(source, settings, root / "slices"), settings, root))
    assert isinstance(trained, ClassPredictors)
    assert {name: one.has_student for name, one in trained.of.items()} == {"disc": False, "square": True}
    loaded = load(root)
    assert isinstance(loaded, ClassPredictors)
    images = torch.rand(4, 1, *[settings.data.side] * 2) * 2 - 1
    for name, one in trained.of.items():
        other = loaded.of[name]
        assert other.has_student == one.has_student
        found, wanted = other.segment_images(images), one.segment_images(images)
        assert np.array_equal(found.masks, wanted.masks)
        np.testing.assert_allclose(found.scores.probability, wanted.scores.probability, atol=1e-6)


@pytest.mark.slow
def test_a_class_without_a_student_is_exported_beside_one_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, source = rare_class(monkeypatch, tmp_path / "data")
    trained = build(Job(store_of(source, settings, tmp_path / "slices"), settings))
    assert isinstance(trained, ClassPredictors)
    assert {name: one.has_student for name, one in trained.of.items()} == {"disc": False, "square": True}
    write_onnx(trained, tmp_path, torch.rand(4, 1, *[settings.data.side] * 2) * 2 - 1)  # compares every class with torch


def test_scores_and_masks_of_a_class_are_made_again_where_it_gets_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, source = rare_class(monkeypatch, tmp_path / "data")
    keys = []
    for least in (1000, 4):
        monkeypatch.setattr("coinseg.training.student.LEAST", least)
        work = Workspace(source, tmp_path / f"run-{least}", settings)
        work.start()
        keys.append({name: run.key for name, run in train_classes(work).items()})
    assert keys[0]["disc"] == keys[1]["disc"]
    assert keys[0]["square"] != keys[1]["square"]


def test_one_of_the_views_of_a_store_is_trained_alone(tmp_path: Path) -> None:
    settings = settings_of()
    store = store_of(written(tmp_path / "data", [(i % 2, i // 2 % 2) for i in range(24)]), settings, tmp_path / "slices")
    with pytest.raises(UserError, match=r"a store of 2 classes: disc, square; required: one class; .* one of store\.views"):
        recipe.train(store, settings=settings)
    square = store.views[1]
    trained = recipe.train(square, settings=settings)
    assert isinstance(trained, Predictor)
    assert trained.probability(torch.from_numpy(signed(square.unit(np.arange(3))))).shape == (3,)


def test_label_maps_of_another_run_are_no_label_maps_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`a` had masks once, and is normal now; `b` has a mask still, whose key is another one."""
    marked = {"disc": ["a", "b"], "square": ["a"]}

    def write(run: Any) -> dict[str, Any]:
        folder = run.work.root
        for name in ("masks", "confidence"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for file in (folder / "masks").iterdir():
            file.unlink()
        for case in marked[folder.name]:
            for name, level in (("masks", 255), ("confidence", 90)):
                Image.fromarray(np.full((4, 4), level, np.uint8)).save(folder / name / f"{case}.png")
        return {"key": repr(marked), "masks": [{"case": case, "mask": f"{case}.png"} for case in marked[folder.name]]}

    monkeypatch.setattr(classes, "write_masks", write)
    runs: Any = {
        name: SimpleNamespace(work=SimpleNamespace(root=tmp_path / "classes" / name), networks=tmp_path) for name in marked
    }
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "of_one_class.png").write_bytes(b"")
    classes.write_all_masks(runs)
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["a.png", "b.png"]
    before = (tmp_path / "masks" / "index.json").read_bytes()
    classes.write_all_masks(runs)
    assert (tmp_path / "masks" / "index.json").read_bytes() == before
    marked |= {"disc": ["b"], "square": []}
    classes.write_all_masks(runs)
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["b.png"]
    assert {row["case"] for row in read_json(tmp_path / "masks" / "index.json")["masks"]} == {"b"}


def test_stages_that_classes_share_count_once_and_the_others_together() -> None:
    of_classes = [{"timings_s": {"coin": 5.0, "masks": 1.25, "novelty": 2.0}}, {"timings_s": {"coin": 5.0, "masks": 0.5}}]
    assert classes._timings(of_classes) == {"coin": 5.0, "masks": 1.75, "novelty": 2.0}


def test_the_files_of_further_channels_are_among_the_inputs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    case = Case("c", "c", tmp_path / "a", False, 1, others=(tmp_path / "b",))

    def inputs(channels: tuple[str, ...]) -> list[str]:
        store = SimpleNamespace(meta={"key": "k"}, channels=channels)
        run: Any = SimpleNamespace(work=SimpleNamespace(root=tmp_path, cohort=SimpleNamespace(cases=[case])), store=store)
        return [Path(one["path"]).name for one in run_manifest.inputs_of(run)]

    assert inputs(("t1", "t2")) == inputs(("t1", "t2")) == ["a", "b"]
    assert inputs(("grey",)) == ["a"]


def test_the_counts_above_several_classes_are_of_any_of_them() -> None:
    """Of 6 slices of 3 patients; of the last one only the second class is known, and its weak slice is not sure there."""
    patient, weak = np.array(list("aabbcc")), np.array([0, 0, 0, 0, 0, 1])
    first = {"label": np.array([1, 0, 0, 0, -1, -1]), "split": np.array([0, 0, 0, 0, LEFT_OUT, LEFT_OUT])}
    second = {"label": np.array([1, 0, 1, 0, 1, 1]), "split": np.array([0, 0, LEFT_OUT, 0, VALIDATION, VALIDATION])}
    runs: Any = {
        name: SimpleNamespace(store=SimpleNamespace(index=index | {"patient": patient, "weak": weak}))
        for name, index in (("a", first), ("b", second))
    }
    assert classes.counts_of_all(runs) == {"abnormal": 2, "patients_held_out": 1, "labels_per_scan": None}
    assert classes.counts_of_all({"": runs["a"]}) == {}


def test_a_class_that_f_does_not_know_is_said_to_be_so(tmp_path: Path) -> None:
    """The mean of both is above 0.7."""
    each = {name: {"auroc": auroc, "auroc_scans": None} for name, auroc in (("disc", 0.95), ("square", 0.55))}
    write_record(tmp_path / "classifier" / "stage.json", {
        "key": "k", "seconds": 1.0, "scores": {"auroc": 0.75, "auroc_scans": None}, "classes": each,
    })  # fmt: skip

    def lines(number: int | None) -> list[str]:
        run: Any = SimpleNamespace(
            networks=tmp_path, store=SimpleNamespace(meta={"problems": []}, number=number), reviews=NO_REVIEWS,
            work=SimpleNamespace(settings=Settings()), predictor=SimpleNamespace(is_counterfactual=False),
        )  # fmt: skip
        return warnings(run)

    assert lines(0) == lines(None) == []
    assert [line.partition(":")[0] for line in lines(1)] == ["the classifier is weak (AUROC 0.55 on held-out patients)"]
    with pytest.raises(UserError, match="no scores of every class"):
        lines(2)


def test_the_rule_of_a_class_says_how_many_masks_of_it_were_learnt(tmp_path: Path) -> None:
    write_record(tmp_path / "threshold.json", {"key": "k", "value": 0.25, "rule": "a quantile"})
    each = [{"trusted": 3, "abnormal": 4}, {"trusted": 20, "abnormal": 30}]

    def rule(number: int | None, **facts: Any) -> str:
        record = {"key": "k", "seconds": 1.0, "trusted": 23, "abnormal": 34, **facts}
        write_record(tmp_path / "student" / "stage.json", record)
        run: Any = SimpleNamespace(
            networks=tmp_path, store=SimpleNamespace(number=number), work=SimpleNamespace(root=tmp_path),
            predictor=SimpleNamespace(has_student=True, parts=(), segmenter=SimpleNamespace(level=0.5)),
        )  # fmt: skip
        return str(run_manifest.threshold_of(run)["rule"]).partition("learnt from ")[2].partition(",")[0]

    assert [rule(i, classes=each) for i in (0, 1)] == ["3 of 4 masks of this class", "20 of 30 masks of this class"]
    assert rule(1) == "23 of 34 masks of all classes"  # a run of before
    assert rule(None) == "23 of 34 masks"


def test_a_class_without_a_student_is_named(tmp_path: Path) -> None:
    each = [{"trusted": 3, "abnormal": 4, "taught": False}, {"trusted": 20, "abnormal": 30, "taught": True}]
    write_record(tmp_path / "student" / "stage.json", {"key": "k", "seconds": 1.0, "taught": True, "classes": each})

    def lines(number: int | None = 0, has_student: bool = False, settings: Settings | None = None) -> list[str]:
        run: Any = SimpleNamespace(
            networks=tmp_path, store=SimpleNamespace(number=number, meta={"classes": ["disc", "square"]}),
            work=SimpleNamespace(settings=settings or Settings()), predictor=SimpleNamespace(has_student=has_student),
        )  # fmt: skip
        return run_manifest.without_student(run)

    said = "no student for disc: of its pseudo-masks only 3 are trusted, 20 are needed; its masks are coarser"
    assert lines() == [said]
    assert lines(None) == lines(1, has_student=True) == lines(settings=settings_of()) == []


def test_nothing_stays_of_classes_that_are_none_any_more_and_no_page_of_other_settings(tmp_path: Path) -> None:
    data, out = written(tmp_path / "data", [(i % 2, (i // 2) % 2) for i in range(24)]), tmp_path / "run"
    settings, folder = settings_of(), out / "classes"
    left = [out / "evaluation" / "scores.json", *(folder / name / "report.html" for name in ("disc", "gone", "square"))]

    def there(asked: Settings) -> list[str]:
        Workspace(data, out, asked).start()
        return sorted(path.relative_to(out).as_posix() for path in (*left, folder / "disc" / "threshold.json") if path.exists())

    assert there(settings) == []
    for path in (*left, folder / "disc" / "threshold.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert there(settings) == ["classes/disc/report.html", "classes/disc/threshold.json", "classes/square/report.html"]
    assert there(replace(settings, seed=1)) == ["classes/disc/threshold.json"]  # a page says what other settings gave
    assert there(replace(settings, data=replace(settings.data, classes=("disc",)))) == []
    assert not folder.exists()
