"""A run in one folder that loads anywhere: settings, threshold, window and weights, none of the data and no path to it.

`coinseg.load` reads its model.json; weights lie as in the run, ONNX files (on request) beside it; manifest.json says what the
run scored, on what, with which versions (docs/guide/manifest.md), and MODEL_CARD.md says it in words.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coinseg.config.parsing import own_module
from coinseg.config.schema import EngineSettings, Settings
from coinseg.errors import UserError
from coinseg.runtime.files import MAX_JSON, directory_written_aside, json_or_none, write_json, write_text
from coinseg.runtime.locks import claimed
from coinseg.runtime.records import read_record, sealed

from .card import NAME, model_card

SCHEMA = 1
REVIEWED = "masks that a person reviewed"  # stands for their folder
KEPT = ("verdict", "seed", "scores", "threshold", "versions")  # of the manifest of the run, as they are
KEPT_OF_DATA = ("layout", "cases", "slices", "patients", "patients_held_out", "abnormal", "fingerprint", "window", "intensity")


@contextmanager
def new_folder(out: Path, overwrite: bool, ours: str) -> Iterator[Path]:
    """Yield an empty folder to fill, which is moved to `out` when the block ends well.

    Args:
        out: must not exist, be empty, or (with `overwrite`) hold an earlier output of the same kind; else a `UserError`.
        overwrite: whether an earlier output may be replaced.
        ours: a file whose presence marks such an output; it holds JSON with the key "coinseg".
    """
    if out.name in ("", ".."):
        raise UserError(f"the output is {out}", "the name of a new folder", "choose another -o")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} is a {'link' if out.is_symlink() else 'file'}", "a folder for the output", "choose another -o")
    with claimed(out, overwrite=overwrite) as claim:
        if out.is_dir() and any(out.iterdir()):
            mark = json_or_none(out / ours) if (out / ours).is_file() else None
            if not isinstance(mark, dict) or "coinseg" not in mark:
                raise UserError(f"{out} exists and holds something else", "a new folder", "choose another -o")
            if not claim.may_replace(out):
                raise UserError(f"{out} exists", "a new folder", "choose another -o or give --overwrite")
        with directory_written_aside(out) as part:
            yield part


def portable(settings: Settings) -> Settings:
    """Return the settings without paths, pretrained weights and choices of this machine."""
    data = replace(settings.data, organ_from=None, masks=None, normal=(), abnormal=())
    student = replace(settings.student, reviewed=REVIEWED if settings.student.reviewed else None)
    classifier = replace(settings.classifier, weights=None)
    return replace(settings, data=data, classifier=classifier, student=student, engine=EngineSettings())


def excerpt(root: Path) -> dict[str, Any]:
    """Return what the manifest of a run says of it, without command, paths and cases; null where there is no manifest."""
    file = root / "manifest.json"
    manifest = read_record(file, {"data": dict | None, "scores": dict | None}, MAX_JSON) if file.is_file() else {}
    data = manifest.get("data") or {}
    kept = {name: data.get(name) for name in KEPT_OF_DATA}
    learnt = {"": data.get("reviewed")} | {name: one.get("reviewed") for name, one in (manifest.get("classes") or {}).items()}
    kept["reviewed"] = {name: one for name, one in learnt.items() if one} or None
    kept["labels_from_lesion_masks"] = "from the lesion masks" in str(data.get("label_source", ""))
    return {
        "coinseg": version("coinseg"), "kind": "exported run", "schema": SCHEMA, "trained_with": manifest.get("version"),
        "trained": manifest.get("created"), "data": kept if data else None, **{name: manifest.get(name) for name in KEPT},
    }  # fmt: skip


def export_run(
    root: Path, out: Path, overwrite: bool = False, onnx: bool = False, classifier: str | None = None
) -> dict[str, Any]:
    """Export a finished run to a folder that `coinseg.load` and `coinseg segment --model` take.

    Args:
        root: the output folder of `coinseg run`; `UserError` when it is no finished run.
        out: the new folder; `UserError` when it is taken.
        overwrite: replace an earlier export.
        onnx: also write the networks as ONNX, checked against torch, see `to_onnx.write_onnx`.
        classifier: the factory of your own classifier, see `coinseg.load`.

    Returns:
        "files" relative to the folder, their "bytes", the result of "onnx", and "needs", a module to import, or None.

    """
    from coinseg.inference.checkpoint import load, save, weights_of  # brings torch, which `new_folder` does not need
    from coinseg.inference.classes import of_all

    if out.resolve() == root.resolve():
        raise UserError(f"-o is the run {out} itself", "another folder", "choose another -o")
    run = load(root, accelerator="cpu", classifier=classifier)
    checked = None
    with new_folder(out, overwrite, "manifest.json") as part:
        save(of_all(run, lambda one: one.with_settings(portable(one.settings))), part)
        manifest = excerpt(root)
        write_json(part / "manifest.json", manifest)
        write_text(part / NAME, model_card(manifest, portable(run.settings), run.preparation.kind))
        for name in weights_of(root):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            with sealed(part / name) as copy:
                shutil.copyfile(root / name, copy)
        if onnx:
            from .to_onnx import probe_images, write_onnx

            checked = write_onnx(run, part, probe_images(root, run))
        files = sorted(path for path in part.rglob("*") if path.is_file())
        names, size = [path.relative_to(part).as_posix() for path in files], sum(path.stat().st_size for path in files)
    return {"files": names, "bytes": size, "onnx": checked, "needs": own_module(run.settings.classifier)}
