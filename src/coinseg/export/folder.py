"""A run in one folder that loads anywhere: settings, threshold, window and weights, none of the data and no path to it.

model.json                      what `coinseg.load` reads
classifier/model.safetensors    f
coin/generator.safetensors      the generator of a counterfactual method
student/model.safetensors       the network that draws the final masks, where there is one
teacher-2/classifier/model.safetensors and so on,
opinion/classifier/model.safetensors    the other classifiers that say which images it is asked about
novelty/model.safetensors       what is remembered of normal images, where anything is
manifest.json                   what the run scored, on what, with which versions (docs/guide/manifest.md)
f.onnx, generator.onnx, student.onnx, posterior.onnx, novelty.onnx     on request
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
from coinseg.inference.checkpoint import load, save, weights_of
from coinseg.runtime.files import directory_written_aside, read_json, write_json
from coinseg.runtime.locks import claimed

SCHEMA = 1
KEPT = ("seed", "scores", "threshold", "versions")
"""Of the manifest of the run, as they are."""
KEPT_OF_DATA = ("layout", "cases", "slices", "patients", "patients_held_out", "abnormal", "fingerprint", "window", "intensity")


@contextmanager
def new_folder(out: Path, overwrite: bool, ours: str) -> Iterator[Path]:
    """Yield an empty folder to fill, which is moved to `out` when the block ends well.

    Args:
        out: must not exist, be empty, or (with `overwrite`) hold an earlier output of the same kind.
        overwrite: whether an earlier output may be replaced.
        ours: a file whose presence marks such an output; it holds JSON with the key "coinseg".

    Raises:
        UserError: `out` is a file, holds something else, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", "a folder for the output", "choose another -o")
    with claimed(out, overwrite=overwrite) as claim:
        if out.is_dir() and any(out.iterdir()):
            made = read_json(out / ours) if (out / ours).is_file() else None
            if not isinstance(made, dict) or "coinseg" not in made:
                raise UserError(f"{out} exists and holds something else", "a new folder", "choose another -o")
            if not claim.may_replace:
                raise UserError(f"{out} exists", "a new folder", "choose another -o or give --overwrite")
        with directory_written_aside(out) as part:
            yield part
            claim.begin()


def portable(settings: Settings) -> Settings:
    """The settings without anything that names a place on this machine, computed on whatever is there.

    Pretrained weights are no longer looked for: the trained ones are in the folder.
    """
    return replace(
        settings,
        data=replace(settings.data, organ_from=None, masks=None, normal=(), abnormal=()),
        classifier=replace(settings.classifier, weights=None),
        engine=EngineSettings(),
    )


def excerpt(root: Path) -> dict[str, Any]:
    """What the manifest of a run says of it, without its command, paths and cases; null where there is no manifest."""
    made = read_json(root / "manifest.json", "data", "scores") if (root / "manifest.json").is_file() else {}
    data = made.get("data") or {}
    if not isinstance(data, dict):
        raise UserError(f"{root / 'manifest.json'} has wrong data", "a file coinseg wrote", "take the folder as coinseg left it")
    return {
        "coinseg": version("coinseg"), "kind": "exported run", "schema": SCHEMA,
        "trained_with": made.get("version"), "trained": made.get("created"),
        "data": {
            **{name: data.get(name) for name in KEPT_OF_DATA},
            "labels_from_lesion_masks": "from the lesion masks" in str(data.get("label_source", "")),
        } if data else None,
        **{name: made.get(name) for name in KEPT},
    }  # fmt: skip


def export_run(
    root: Path, out: Path, overwrite: bool = False, onnx: bool = False, classifier: str | None = None
) -> dict[str, Any]:
    """Export a finished run to a folder that `coinseg.load` and `coinseg segment --model` take.

    Args:
        root: the output folder of `coinseg run`; not modified.
        out: the new folder.
        overwrite: replace an earlier export.
        onnx: also write f.onnx, generator.onnx, student.onnx, posterior.onnx and novelty.onnx, those there are, checked against torch.
        classifier: the factory of your own classifier, see `coinseg.load`.

    Returns:
        {"files": names relative to the folder, "bytes": of all of them, "onnx": see `to_onnx.write_onnx`, or None,
        "needs": module that must be importable where it is loaded, or None}

    Raises:
        UserError: `root` is no finished run, `out` is taken, or the ONNX networks do not agree with torch.
    """
    if out.resolve() == root.resolve():
        raise UserError(f"-o is the run {out} itself", "another folder", "choose another -o")
    run = load(root, accelerator="cpu", classifier=classifier)
    checked = None
    with new_folder(out, overwrite, "manifest.json") as part:
        save(run.with_settings(portable(run.settings)), part)
        write_json(part / "manifest.json", excerpt(root))
        for name in weights_of(root):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, part / name)
        if onnx:
            from .to_onnx import probe_images, write_onnx

            checked = write_onnx(run, part, probe_images(root, run))
        files = sorted(path for path in part.rglob("*") if path.is_file())
        said = {
            "files": [path.relative_to(part).as_posix() for path in files],
            "bytes": sum(path.stat().st_size for path in files),
        }
    return said | {"onnx": checked, "needs": own_module(run.settings.classifier)}
