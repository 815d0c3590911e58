"""manifest.json and index.json are what their schemas say, after good ends and bad ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from coinseg.cli import main as cli
from coinseg.data.readers.paths import sha256_of
from coinseg.pipeline import manifest
from coinseg.pipeline.request import Request
from coinseg.runtime.records import write_record
from conftest import TINY
from writers import PLAIN, make_run, make_scan, scan_of, write_series

SCHEMAS = {name: json.loads((files("coinseg") / f"{name}.schema.json").read_text()) for name in ("manifest", "index")}


def valid(path: Path) -> dict[str, Any]:
    """What a file holds, once its schema has nothing against it."""
    found = json.loads(path.read_text())
    schema = SCHEMAS[path.stem]
    if "oneOf" in schema:  # one kind at a time, so that a failure says which key is wrong
        schema = schema["$defs"][found["kind"]]
    errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(found)]
    assert not errors, errors
    return found


def keys(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key a schema describes, with what it says."""
    for name, said in schema.get("properties", {}).items():
        yield f"{place}.{name}", said
        yield from keys(said, f"{place}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from keys(schema["items"], f"{place}[]")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_describes_every_key(name: str) -> None:
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    found = [key for part in (schema, *schema.get("$defs", {}).values()) for key in keys(part)]
    assert len(found) > 15
    assert [place for place, said in found if not said.get("description", "").endswith(".")] == []


def test_a_run_that_ends_well_badly_or_is_interrupted(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    assert cli.main(["run", str(images), "-o", str(root), *TINY, "--classifier.steps", "2", "--coin.steps", "2"]) == 0
    done = valid(root / "manifest.json")
    assert done["status"] == {"state": "done", "exit_code": 0, "error": None}
    assert next(iter(done)) == "verdict"
    assert done["verdict"].startswith("NOT JUDGED: only ")
    assert capsys.readouterr().out.splitlines()[:2] == ["", done["verdict"]], "the first line of the summary"
    assert len(valid(root / "masks" / "index.json")["masks"]) == 12
    assert {one["role"] for one in done["inputs"]} == {"image", "lesion"}
    for one in (*done["inputs"], *({"path": root / name, "sha256": made} for name, made in done["model"]["sha256"].items())):
        assert one["sha256"] == hashlib.sha256(Path(one["path"]).read_bytes()).hexdigest()
    assert done["outputs"].keys() - {"report", "mask_count"} == {
        name for name, place in done["outputs"].items() if name not in ("report", "mask_count") and (root / place).exists()
    }
    assert (root / done["outputs"]["report"]).exists()

    with monkeypatch.context() as patch:
        patch.setattr("coinseg.pipeline.classes.evaluate", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(["report", str(root)]) == 130
    assert valid(root / "manifest.json")["status"]["state"] == "interrupted"

    with monkeypatch.context() as patch:  # a run that failed: none of its masks is trusted, nor one by its model
        patch.setattr(manifest, "judge", lambda scores, audit: "NOT USABLE: guesses")
        (root / "masks" / "index.json").unlink()
        assert cli.main(["report", str(root)]) == 0
    assert valid(root / "manifest.json")["verdict"] == "NOT USABLE: guesses"
    assert [row["doubtful"] for row in valid(root / "masks" / "index.json")["masks"]] == [True] * 12
    scans, masks = images / "abnormal", tmp_path / "segmented"
    capsys.readouterr()
    assert cli.main(["segment", "-i", str(scans), "-o", str(masks), "--model", str(root)]) == 0
    assert "warning: the run that trained the model was judged NOT USABLE: guesses\n" in capsys.readouterr().out
    assert valid(masks / "manifest.json")["warnings"] == ["the run that trained the model was judged NOT USABLE: guesses"]
    assert {row["doubtful"] for row in valid(masks / "index.json")["masks"]} == {True}

    weights = root / "classifier" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(b"not weights")
    capsys.readouterr()
    assert cli.main(["report", str(root)]) == 2
    failed = valid(root / "manifest.json")
    assert (failed["status"]["state"], failed["status"]["exit_code"]) == ("failed", 2)
    assert f"coinseg: error: {failed['status']['error']}\n" in capsys.readouterr().err
    assert (failed["scores"], failed["verdict"]) == (None, None)
    assert failed["settings"] == done["settings"]

    weights.write_bytes(kept)
    assert cli.main(["report", str(root)]) == 0
    again = valid(root / "manifest.json")
    assert {name: again[name] for name in ("inputs", "model", "scores", "data")} == {
        name: done[name] for name in ("inputs", "model", "scores", "data")
    }


def test_segment_on_a_folder_says_what_became_of_every_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, scans, out = make_run(tmp_path / "run"), tmp_path / "scans", tmp_path / "masks"
    make_scan(scans / "b.nii.gz")
    write_series(scans / "a", scan_of((40, 44, 3)), PLAIN)
    command = ["segment", "-i", str(scans), "-o", str(out), "--model", str(root)]
    assert cli.main(command) == 0
    first = valid(out / "manifest.json")
    assert first["status"] == {"state": "done", "exit_code": 0, "error": None}
    assert first["command"].split()[:2] == ["coinseg", "segment"]
    assert (first["failed"], first["outputs"]["mask_count"], first["processes"]) == ([], 2, 1)
    (scans / "c.nii.gz").write_bytes(b"no scan")
    assert cli.main(command) == 2
    again, table = valid(out / "manifest.json"), valid(out / "index.json")
    assert [(one["path"], one["state"], one["mask"]) for one in again["inputs"]] == [
        ("a", "skipped", "a.nii.gz"), ("b.nii.gz", "skipped", "b.nii.gz"), ("c.nii.gz", "failed", None),
    ]  # fmt: skip
    assert again["failed"] == ["c.nii.gz"]
    assert "c.nii.gz cannot be read" in again["inputs"][2]["error"]
    assert f"coinseg: error: {again['status']['error']}\n" in capsys.readouterr().err
    assert [one["sha256"] for one in again["inputs"][:2]] == [row["sha256"] for row in table["masks"]]
    assert again["inputs"][:2] == [one | {"state": "skipped"} for one in first["inputs"]]


def test_the_hash_of_a_scan(tmp_path: Path) -> None:
    """Of one file as `sha256sum` has it; of a series it changes with any file and any name, and not with the folder's place."""
    (tmp_path / "a.nii").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a.nii") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "none.nii") is None
    folder = write_series(tmp_path / "s", scan_of())
    before = sha256_of(folder)
    assert sha256_of(tmp_path / "s#3") == before is not None
    (tmp_path / "other").mkdir()
    folder = folder.rename(tmp_path / "other" / "s")
    assert sha256_of(folder) == before
    one = sorted(folder.iterdir())[0]
    one.rename(folder / "renamed.dcm")
    assert sha256_of(folder) != before


@pytest.mark.parametrize("classes", [("",), ("disc", "square")])
def test_a_model_whose_run_was_not_ended_is_judged_by_its_scores_and_not_judged_without(tmp_path: Path, classes: Any) -> None:
    root = make_run(tmp_path / "run", classes=classes)
    assert manifest.verdict_of(root) is None  # an export of an older run
    (root / "settings.yaml").touch()
    place = root / f"classes/{classes[-1]}" if len(classes) > 1 else root
    assert str(manifest.verdict_of(root)).startswith("NOT JUDGED: ")
    write_record(place / "evaluation" / "scores.json", {"abnormals_marked": 0.0, "slices_abnormal": 9})
    assert str(manifest.verdict_of(root)).startswith("NOT USABLE: ")
    (root / "manifest.json").write_text('{"verdict": "OK: as the run said at its end"}')
    assert manifest.verdict_of(root) == "OK: as the run said at its end"


def test_the_masks_of_a_class_are_trusted_by_its_own_verdict(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", classes=("disc", "square"))
    (root / "settings.yaml").touch()
    write_record(root / "classes/square/evaluation/scores.json", {"abnormals_marked": 0.0, "slices_abnormal": 9})
    scans = Request(tmp_path, tmp_path / "out", root)
    trusted = lambda name: replace(scans, class_name=name).trusted
    assert [trusted("disc"), trusted("square"), trusted("")] == [True, False, False]  # of a run that was killed
    both = {"disc": {"verdict": "OK: sound"}, "square": {"verdict": "NOT USABLE: guesses"}}
    (root / "manifest.json").write_text(json.dumps({"verdict": "NOT USABLE: square: guesses", "classes": both}))
    assert [trusted("disc"), trusted("square"), trusted("")] == [True, False, False]
    assert manifest.verdict_of(root, "disc") == "OK: sound"
    (root / "manifest.json").write_text('{"verdict": "NOT USABLE: square: guesses"}')  # an export has that of all
    assert not trusted("disc")
