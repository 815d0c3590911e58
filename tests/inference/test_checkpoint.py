"""A trained run with every part: on one device wherever it comes from, the same from its folder, and nothing wrong is taken for
it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import coinseg
from coinseg.errors import UserError
from coinseg.export.folder import export_run
from coinseg.inference import checkpoint, explainer, segmenter
from coinseg.inference import predictor as predictors
from coinseg.inference.checkpoint import read_model, weights_of
from coinseg.inference.predictor import Predictor
from coinseg.parts.imagenet_classifier import ImageNetClassifier
from coinseg.parts.patchcore import PatchCore
from coinseg.parts.slice_hmm import SliceHMM
from coinseg.pipeline import recipe
from coinseg.pipeline.run import Workspace, job_of
from conftest import SIZE, tiny_settings, write_images
from models import as_first_schema, learn_from_few, maps_of, part_of

ROOMS = (explainer, predictors, segmenter)
IMAGES = torch.rand(4, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def modules_of(value: Any) -> Iterator[nn.Module]:
    """Every network that a record holds, itself or in a record or sequence that it holds."""
    if isinstance(value, nn.Module):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from modules_of(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from modules_of(item)


def tensors_of(predictor: Predictor) -> dict[int, Tensor]:
    """Weights and buffers of all of them."""
    return {id(t): t for module in modules_of(predictor) for t in (*module.parameters(), *module.buffers())}


@dataclass(frozen=True)
class Trained:
    """A run with a student and all parts, as it was built; `moved` are the ids of all networks that inference moved to its
    device."""

    work: Workspace
    predictor: Predictor
    moved: set[int]


def recorded(patch: pytest.MonkeyPatch, moved: set[int]) -> None:
    """Note every network, and those inside, that inference moves."""
    for room in ROOMS:
        move = room.to_device

        def to_device(module: nn.Module, device: torch.device, move: Any = move) -> nn.Module:
            moved.update(map(id, module.modules()))
            return move(module, device)

        patch.setattr(room, "to_device", to_device)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Images in scans of four, so that there are neighbours; every one is called abnormal."""
    root, settings, moved = tmp_path_factory.mktemp("whole"), tiny_settings(), set[int]()
    files = sorted(write_images(root / "data", masks=False).glob("*normal/*.png"), key=lambda file: file.name)
    rows = [(f.relative_to(root / "data"), int(f.parent.name == "abnormal"), f"p{i // 4}", i % 4) for i, f in enumerate(files)]
    with (root / "data" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient", "slice"), *rows])
    settings = replace(
        settings,
        classifier=replace(settings.classifier, threshold=0.0),
        student=replace(settings.student, steps=2, trust=0.0, teachers=2, imagenet_steps=2, patchcore_quantile=0.01, gate=0.0),
    )
    with pytest.MonkeyPatch.context() as patch:
        learn_from_few(patch)
        patch.setattr("coinseg.parts.slice_hmm.LEAST", 1)
        patch.setattr("coinseg.parts.patchcore.WORTH", 0.0)
        recorded(patch, moved)
        work = Workspace(root / "data" / "labels.csv", root / "out", settings)
        work.start()
        return Trained(work, recipe.build(job_of(work)), moved)


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained.work.root, tmp_path / "run")


def resumed(trained: Trained, patch: pytest.MonkeyPatch) -> Predictor:
    """The same run again; everything is there, so nothing is trained."""
    learn_from_few(patch)
    patch.setattr("coinseg.parts.slice_hmm.LEAST", 1)
    return recipe.build(job_of(trained.work))


# --- devices


def test_every_network_of_a_fresh_run_is_moved_to_the_device(trained: Trained) -> None:
    assert [type(part) for part in trained.predictor.parts] == [ImageNetClassifier, SliceHMM, PatchCore]
    assert trained.predictor.student is not None
    assert len(trained.predictor.image_score.classifiers) == 2
    networks = [module for network in modules_of(trained.predictor) for module in network.modules()]
    assert len(networks) > 100
    assert [type(module).__name__ for module in networks if id(module) not in trained.moved] == []


@pytest.mark.parametrize("origin", ["resumed", "folder", "export"])
def test_every_network_is_on_the_device_wherever_a_predictor_comes_from(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    """The device "meta" stands for a GPU."""
    if origin == "export":
        export_run(trained.work.root, tmp_path / "away")
    key = recipe.result_key(job_of(trained.work).store, trained.work.settings, trained.predictor.f)
    monkeypatch.setattr(recipe, "result_key", lambda *ignored: key)  # weights on "meta" have no values to make a key of
    for room in (checkpoint, recipe):
        monkeypatch.setattr(room, "choose_device", lambda settings: torch.device("meta"))
    root = tmp_path / "away" if origin == "export" else trained.work.root
    predictor = resumed(trained, monkeypatch) if origin == "resumed" else coinseg.load(root)
    tensors, expected = tensors_of(predictor), tensors_of(trained.predictor)
    assert sorted(t.shape for t in tensors.values()) == sorted(t.shape for t in expected.values())
    assert {t.device.type for t in expected.values()} == {"cpu"}
    assert {t.device.type for t in tensors.values()} == {"meta"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__.split(".")[-1])
def test_a_network_that_is_forgotten_is_found(trained: Trained, monkeypatch: pytest.MonkeyPatch, room: Any) -> None:
    """Without the move of one of the three records the tests above fail: each holds a network that no other one moves."""
    monkeypatch.setattr(room, "to_device", lambda module, device: module)
    monkeypatch.setattr(checkpoint, "choose_device", lambda settings: torch.device("meta"))
    assert {t.device.type for t in tensors_of(coinseg.load(trained.work.root)).values()} == {"cpu", "meta"}


# --- the folder


def test_a_run_that_is_resumed_loaded_or_exported_gives_what_it_gave(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(trained.work.root, tmp_path / "away")
    expected = trained.predictor.segment_images(IMAGES)
    assert expected.masks.any()
    for other in (resumed(trained, monkeypatch), coinseg.load(trained.work.root), coinseg.load(tmp_path / "away")):
        segmented = other.segment_images(IMAGES)
        assert np.array_equal(segmented.masks, expected.masks)
        np.testing.assert_allclose(segmented.maps.values, expected.maps.values, atol=1e-6)
        np.testing.assert_allclose(segmented.scores.ensemble, expected.scores.ensemble, rtol=1e-5)


def test_a_folder_of_schema_1_is_read_as_before(trained: Trained, folder: Path) -> None:
    """Its parts were keys of their own: a flag each for two, the transitions for the third."""
    model = json.loads((folder / "model.json").read_text())
    first, present = as_first_schema(model), coinseg.load(folder)
    assert (first["opinion"], first["novelty"]) == (True, True)
    assert np.shape(first["steps"]) == (2, 2)
    names = weights_of(folder)
    (folder / "model.json").write_text(json.dumps(first))
    assert weights_of(folder) == names
    read = coinseg.load(folder)
    assert read.settings == present.settings
    assert (read.preparation, read.threshold, read.image_score.shift) == (
        present.preparation, present.threshold, present.image_score.shift,
    )  # fmt: skip
    assert [type(part) for part in read.parts] == [type(part) for part in present.parts]
    assert np.array_equal(part_of(read, SliceHMM).transitions, part_of(present, SliceHMM).transitions)
    assert np.array_equal(maps_of(read, IMAGES), maps_of(present, IMAGES))
    for key, kind in (("opinion", ImageNetClassifier), ("novelty", PatchCore), ("steps", SliceHMM)):
        for without in ({key: None if key == "steps" else False}, None):
            changed = first | without if without else {name: value for name, value in first.items() if name != key}
            (folder / "model.json").write_text(json.dumps(changed))
            expected = [type(part) for part in present.parts if not isinstance(part, kind)]
            assert [type(part) for part in coinseg.load(folder).parts] == expected


def test_a_folder_from_before_the_student_has_none(folder: Path) -> None:
    model = as_first_schema(json.loads((folder / "model.json").read_text()))
    for name in ("layer", "student", "prior_shift", "opinion", "novelty", "steps"):
        del model[name]
    (folder / "model.json").write_text(json.dumps(model))
    run = coinseg.load(folder)
    assert (run.student, run.parts, list(run.image_score.classifiers)) == (None, (), [run.f])
    assert weights_of(folder) == ["classifier/model.safetensors", "coin/generator.safetensors"]


WRONG: dict[str, list[Any]] = {
    "settings": [None, []], "kind": ["HU", None], "window": [[0.0], [1.0, 0.0], "ab", [0.0, 1e10]], "organs": [1, "no"],
    "threshold": ["0.5", -0.1, 3.0, None], "layer": [3], "student": [1, "yes", None], "prior_shift": [1e9, "1", [1.0]],
    "trained_on": [3, [], {}, {"kinds": []}], "distribution": [1, "yes", None],
    "channels": [None, "grey", [], [1], ["grey"] * 1000], "classes": [None, {}, [1], [{}], [{"name": "oedema"}]],
}  # fmt: skip
WRONG_PARTS: list[Any] = [None, [], {"patchcore": 1}, {"unknown": {}}, {"slice_hmm": [1]}]
WRONG_FIRST: dict[str, list[Any]] = {
    "opinion": [1, "yes", None], "novelty": [1, "yes", None], "steps": ["steps", [[0.5, 0.5]], [["a", "b"]] * 2, [], 3],
}  # fmt: skip


@pytest.mark.parametrize("schema", [1, 2])
def test_a_wrong_value_of_every_key_is_refused(folder: Path, schema: int) -> None:
    model = json.loads((folder / "model.json").read_text())
    model, cases = (model, WRONG | {"parts": WRONG_PARTS}) if schema == 2 else (as_first_schema(model), WRONG | WRONG_FIRST)
    assert set(cases) == set(model) - {"schema"}
    for name, values in cases.items():
        for value in values:
            (folder / "model.json").write_text(json.dumps(model | {"schema": schema, name: value}))
            with pytest.raises(UserError, match=rf"is damaged \(it has a wrong {name}\); required: a file coinseg wrote"):
                read_model(folder / "model.json")
    for name in ("settings", "kind", "window", "organs", "threshold"):
        (folder / "model.json").write_text(json.dumps({key: value for key, value in model.items() if key != name}))
        with pytest.raises(UserError, match=f"has no {name}"):
            coinseg.load(folder)


def test_an_empty_word_is_no_run() -> None:
    with pytest.raises(UserError, match="no folder of a run, but an empty word; required: the output folder of a finished"):
        coinseg.load("")
