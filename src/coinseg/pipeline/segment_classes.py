"""Segmenting a folder with a run of several classes: what one class gives lies in its folder, label maps above them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coinseg.errors import UserError
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.predictor import Predictor
from coinseg.inference.table import CLASSES, CSV, JSON, class_folder, write_table
from coinseg.runtime.files import read_json, write_json
from coinseg.runtime.locks import locked, recorded
from coinseg.runtime.process_group import rank_info
from coinseg.runtime.report import Report

from .label_maps import LABELS, names_of, require_classes, write_label_maps
from .manifest import MANIFEST, doubts, facts, model_of, verdict_of
from .request import Request

Written = tuple[int, list[str]]


def segment_classes(
    predictor: ClassPredictors, request: Request, folder_of: Callable[[Predictor, Request, Sequence[Path]], Written]
) -> Written:
    """Segment a folder: OUT/classes/NAME has masks, confidence and table of one class, OUT a label map of each input.

    Args:
        predictor: of the run.
        request: what is to be segmented, and where the results go.
        folder_of: (predictor of one class, request, places) -> the number of masks written, and a line for each failed input.

    Raises:
        UserError: one folder was asked for the confidences of all classes, or OUT has masks of other ones.
    """
    if request.confidence:
        got, required = f"--confidence and a run of {len(predictor.of)} classes", "no place for them: those of each class lie in"
        raise UserError(got, f"{required} {request.out / CLASSES}", "leave --confidence out")
    require_classes(request.out, predictor.names)
    written, failed, folders = 0, list[str](), {}
    for name, one in predictor.of.items():
        folder = request.out / class_folder(name)
        own = replace(request, out=folder / "masks", confidence=folder / "confidence", class_name=name)
        own = replace(own, report=_named(request.report, name))
        count, lines = folder_of(one, own, [own.out, folder / "confidence"])
        written, failed, folders[name] = written + count, [*failed, *(f"{name}: {line}" for line in lines)], folder
    if not rank_info().is_main:
        return written, failed
    names = [*names_of(folders), LABELS, JSON, CSV, MANIFEST]
    with locked(request.out), recorded(request.out, names, request.overwrite):
        write_label_maps(folders, request.out)
        _write_table(request, predictor, failed)
    return written, failed


def _write_table(request: Request, predictor: ClassPredictors, failed: list[str]) -> None:
    """Leave the table of all classes, and a manifest that leads to that of each."""
    rows, warnings, manifests = [], list[str](), []
    for name in predictor.names:
        folder = f"{class_folder(name)}/masks"
        manifests.append(manifest := read_json(request.out / folder / MANIFEST))
        table = request.out / folder / JSON
        masks = read_json(table)["masks"] if table.is_file() else []  # there is none where every input failed
        rows += [row | {"class": name, "mask": f"{folder}/{row['mask']}"} for row in masks]
        warnings += [f"{name}: {line}" for line in manifest["warnings"]]
    if rows:
        write_table(request.out, rows)
    tables = {"mask_index": JSON, "mask_table": CSV} if rows else {}
    error = UserError("; ".join(failed[:5]), "readable inputs", "mend or remove them") if failed else None
    write_json(request.out / MANIFEST, facts("segment", request.command, error) | {
        "source": str(request.source.resolve()), "model": model_of(request.model), "classes": list(predictor.names),
        "inputs": manifests[0]["inputs"], "failed": list(dict.fromkeys(path for one in manifests for path in one["failed"])),
        "processes": manifests[0]["processes"],
        "outputs": {"mask_count": len(rows), **tables, "labels": LABELS, "classes": CLASSES},
        "warnings": [*doubts(verdict_of(request.model)), *dict.fromkeys(warnings)],
    })  # fmt: skip


def _named(report: Report, name: str) -> Report:
    def told(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        report(stage if stage.startswith("warning") else f"{stage} {name}", done, total, values)

    return told
