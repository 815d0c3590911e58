"""Files of the folders that coinseg itself wrote, for `fuzz_targets`: somebody may hand them on, changed.

Each is made without its checksum, which would answer for the reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from coinseg.config.schema import AnomalySettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.inference.distribution import Distribution
from coinseg.inference.table import write_table
from coinseg.pipeline.mask_table import MaskTable
from coinseg.pipeline.run_folder import resolve, write_settings
from coinseg.review.kept.changes import Change
from coinseg.review.kept.records import CaseRecord
from coinseg.review.kept.store import Store, reviewed
from coinseg.runtime.ledger import Ledger, line, lines_of
from coinseg.runtime.records import CHECKSUMS
from conftest import tiny_settings, write_images

Made = tuple[Callable[[Path], Path], Callable[[Path], object]]
"""What makes the file in a folder, and what reads it."""


def _store(folder: Path) -> None:
    settings = tiny_settings()
    prepare(read_layout(write_images(folder / "images", patients=4, each=2), settings.data), settings, folder)


def _read_store(path: Path) -> None:
    store = SliceStore(path.parent)
    store.unit(np.arange(len(store)))
    store.chains(np.arange(len(store)))
    for side in (TRAINING, VALIDATION):
        TrainingSlices(store, AnomalySettings(), 0, side).labels()


def _masks(folder: Path) -> None:
    """As `segment` leaves it, with the notes of a process that was killed."""
    (folder / "a.png").write_bytes(b"mask")
    row: dict[str, object] = {"case": "a", "mask": "a.png", "area_mm2": 3.5}
    write_table(folder, [row], sha256={"a.png": "0" * 64})
    facts = {"kind": "segment", "model": {"sha256": {"model.json": "0" * 64}}, "outputs": {"mask_table": "index.csv"}}
    (folder / "manifest.json").write_text(json.dumps(facts))
    notes = [{"wrote": {"a.png": "0" * 64}}, {"path": "a", "state": "written", "mask": "a.png", "error": None, "row": row}]
    (folder / ".done-0.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))


def _read_masks(path: Path) -> None:
    table = MaskTable(path.parent, None, False)
    table.manifest()
    table.rows()
    table.ledger().settled()


def _distribution(folder: Path) -> None:
    known = Distribution(torch.zeros(6, 9), torch.zeros(9), torch.ones(9))
    (folder / "distribution").mkdir()
    save_file(known.state_dict(), folder / "distribution" / "model.safetensors")


def _outputs(folder: Path) -> None:
    (folder / "outputs.sha256").write_text(line("masks/a.png", "0" * 64) + line("masks/ü.png", "f" * 64))


def _run(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "run").mkdir()
    write_settings(folder / "data", folder / "run", Settings())


def _reviews(folder: Path) -> None:
    store = Store(folder)
    store.list_cases([CaseRecord("a", "p", "a.nii.gz", True, "training", {"pixels": 3})])
    store.keep_draft("a", np.ones((2, 4, 5), bool))
    store.stroke("a", "ann", "brush", Change((0, 1, 0, 1, 0, 1), np.ones((1, 1, 1), bool)), "key")
    store.decide("a", "ann", "corrected", store.mask("a", "ann"))
    store.close()


def _read_reviews(path: Path) -> None:
    for leftover in path.parent.glob(f"{path.name}-*"):
        leftover.unlink()
    for one in reviewed(path.parent):
        one.mask.sum()
    store = Store(path.parent, write=False)
    try:
        for case in store.cases(gone=True):
            store.mask(case.id, "ann")
    finally:
        store.close()


def _of_folder(name: str, make: Callable[[Path], object], read: Callable[[Path], object]) -> Made:
    def made(folder: Path) -> Path:
        make(folder)
        for checksums in folder.rglob(CHECKSUMS):
            checksums.unlink()
        return folder / name

    return made, read


OWN: dict[str, Made] = {
    "store.json": _of_folder("store.json", _store, _read_store),
    "index of slices": _of_folder("index.csv", _store, _read_store),
    "settings of a run": _of_folder("run/settings.yaml", _run, lambda path: resolve(None, path.parent, Settings(), True)),
    **{f"{name} of masks": _of_folder(name, _masks, _read_masks) for name in ("index.json", "manifest.json", ".done-0.jsonl")},
    "known images": _of_folder("distribution/model.safetensors", _distribution, lambda path: Distribution.load(path.parents[1])),
    "reviews": _of_folder("review.sqlite", _reviews, _read_reviews),
    "outputs": _of_folder(
        "outputs.sha256", _outputs, lambda path: Ledger(path.parent, [path.parent], False, lines_of(path)).settled()
    ),
}
