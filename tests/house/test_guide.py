"""The pages for people who change the code are true: both diagrams of architecture.md, and the toy part of adding-a-part.md."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_architecture import arrows, imported, module_of, room

import coinseg
from coinseg.export.folder import export_run
from coinseg.parts import table
from coinseg.pipeline.run import Workspace, train
from conftest import tiny_settings, write_images

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"
SOURCE = Path(coinseg.__file__).parent


def needed(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that do not follow from others (the transitive reduction of a graph without circles)."""

    def behind(room: str) -> set[str]:
        return graph.get(room, set()) | {far for near in graph.get(room, set()) for far in behind(near)}

    return {(a, b) for a, others in graph.items() for b in others if not any(b in behind(c) for c in others - {b})}


def test_the_diagram_of_the_rooms_has_the_arrows_of_the_imports() -> None:
    text = (GUIDE / "architecture.md").read_text(encoding="utf-8").split("<!-- rooms -->")[1].split("```")[1]
    drawn = set(re.findall(r"([\w.]+) --> ([\w.]+)", text))
    graph = {room: others - {"errors", "types"} for room, others in arrows().items() if room not in ("errors", "types")}
    wanted = needed(graph)
    assert drawn == wanted, "\n".join(f"    {a} --> {b}" for a, b in sorted(wanted))


def test_from_the_command_line_to_the_losses_in_five_files() -> None:
    """Files that import one another, the one of the command first and that of the losses last."""
    files = {module_of(path): imported(path) for path in SOURCE.rglob("*.py")}
    found = [[name] for name in files if room(name) == "cli"]
    while found and found[0][-1] != "explain.counterfactual.losses":
        trip = found.pop(0)
        nearer = {name for full in files[trip[-1]] for name in (full, full.rpartition(".")[0]) if name in files and name}
        found += [[*trip, name] for name in sorted(nearer - set(trip))] if len(trip) < 5 else []
    assert found
    assert len(found[0]) <= 5, found[0]


def test_every_room_stands_in_the_table() -> None:
    text = (GUIDE / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    assert named == {room for room in arrows() if room not in ("errors", "types") and not room.startswith("explain.")}


def test_the_way_of_the_data_names_functions_that_are_there() -> None:
    text = (GUIDE / "architecture.md").read_text(encoding="utf-8").split("<!-- way -->")[1].split("```")[1]
    steps = re.findall(r"([\w/]+\.py):(\w+)", text)
    assert len(steps) == len(text.strip().splitlines()) - 1  # the first line names the language
    for file, name in steps:
        names = {getattr(node, "name", "") for node in ast.parse((SOURCE / file).read_text(encoding="utf-8")).body}
        assert name in names, f"{file} has no {name}"


def test_the_blocks_about_arrays_run_and_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("coinseg.training.student.LEAST", 1)
    rng, labels = np.random.default_rng(0), np.arange(24) % 2
    images = rng.normal(0.4, 0.05, (24, 32, 32)) + 0.3 * labels[:, None, None] * (np.indices((32, 32)) < 9).all(0)
    base = tiny_settings()
    student = replace(base.student, steps=2, trust=0.0, imagenet_steps=0)
    names: dict[str, Any] = {
        "images": np.clip(images, 0, 1), "labels": labels, "patients": np.arange(24) // 3, "torch": torch,
        "settings": replace(base, classifier=replace(base.classifier, threshold=0.0), student=student),
    }  # fmt: skip
    for block in re.findall(r"```python\n(.*?)```", (GUIDE / "arrays.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    assert names["predictor"].student is not None
    assert names["masks"].shape == (4, 32, 32)
    assert names["counterfactual"].shape == names["explanation"].counterfactual.shape == (4, 1, 32, 32)
    with torch.no_grad():  # f alone is the f of the predictor
        torch.testing.assert_close(names["f"](names["x"]), names["predictor"].f(names["x"]))
    assert list(tmp_path.iterdir()) == []
    injected = replace(base, anomaly=replace(base.anomaly, kind="blob"))
    with pytest.raises(coinseg.UserError, match=r"anomaly\.kind is blob and the images have labels of their own"):
        coinseg.train(names["data"], injected)


@pytest.mark.slow
def test_the_toy_part_is_trained_saved_loaded_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (GUIDE / "adding-a-part.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Brightness" in block)
    assert len(code.split("class Brightness")[1].splitlines()) <= 40
    (tmp_path / "brightness.py").write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("brightness", tmp_path / "brightness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "brightness", module)
    spec.loader.exec_module(module)
    row = re.search(r"^PARTS = \((.*)\)$", page, re.MULTILINE)
    assert row is not None
    assert [part.strip() for part in row[1].split(",")] == [*(part.__name__ for part in table.PARTS), "Brightness"]
    monkeypatch.setattr(table, "PARTS", (*table.PARTS, module.Brightness))
    for place in ("training.pseudo_masks", "training.student", "pipeline.recipe"):
        monkeypatch.setattr(f"coinseg.{place}.LEAST", 1)
    settings = tiny_settings()
    settings = replace(
        settings,
        classifier=replace(settings.classifier, threshold=0.0),
        student=replace(settings.student, steps=2, trust=0.0, teachers=1, imagenet_steps=0, patchcore_quantile=0.0),
    )
    work = Workspace(write_images(tmp_path / "data", masks=False), tmp_path / "out", settings)
    work.start()
    predictor = train(work).predictor
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    part = next(part for part in predictor.parts if part.name == "brightness")
    assert json.loads((work.root / "model.json").read_text())["parts"]["brightness"] == part.state()
    with torch.no_grad():
        score = predictor.image_score(images)
        alone = predictor.f(images) + predictor.image_score.shift
        by_hand = alone + 0.1 * (images.mean((1, 2, 3)) - part.state()["mean"]) / part.state()["spread"]
        torch.testing.assert_close(score, by_hand)
        export_run(work.root, tmp_path / "away")
        for root in (work.root, tmp_path / "away"):
            torch.testing.assert_close(coinseg.load(root).image_score(images), score)
