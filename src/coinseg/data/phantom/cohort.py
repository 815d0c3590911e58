"""Write a procedural abdominal CT cohort in Hounsfield units, to try and test coinseg without patients."""

import gzip
import os
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from coinseg.errors import UserError
from coinseg.runtime.files import directory_written_aside, holds_nothing, read_json, require_room, write_json, write_text
from coinseg.runtime.locks import locked
from coinseg.runtime.process_group import workers

from .anatomy import add_scanner, paint_body, paint_bowel, paint_solid_organs, paint_spine, paint_vessels
from .canvas import BIT, LAST, LESIONS, ORGANS, RECORD, TUMOUR_PIXELS, Canvas, PhantomSettings
from .kidneys import paint_cysts, paint_kidney, paint_tumours
from .patient import Body, draw_look

_META = "image_id;age;gender;institute;study_type;split;manufacturer;scanner_model;kvp;pathology;pathology_location"


@dataclass(frozen=True)
class PhantomPatient:
    """One scan: row 0 is anterior, column 0 the patient's right, slice 0 inferior."""

    scan: np.ndarray  # int16 Hounsfield units, (slices, rows, columns)
    masks: dict[str, np.ndarray]  # bool, by TotalSegmentator class name; a tumour overlaps its kidney and may reach out of it
    spacing: tuple[float, float, float]  # (slice, row, column) in mm


def make_patient(settings: PhantomSettings, index: int) -> PhantomPatient:
    """Make the patient of an index from 0; the same settings and index always give the same patient."""
    rng = np.random.default_rng([settings.seed, index])
    plump = rng.beta(1.2, 1.5)
    deep = rng.uniform(91, 101) + 22 * plump
    wide, fat = rng.uniform(132, 144) + 13 * plump, 4 + 34 * plump * rng.uniform(0.6, 1.1)
    body = Body(wide, deep, fat, deep - rng.uniform(70, 77), 2 + 18 * plump)
    size = rng.uniform(0.9, 1.06)
    canvas = Canvas(rng, settings, rng.uniform(148, 176), (rng.uniform(-6, 6), rng.uniform(-4, 6), rng.uniform(-6, 6)))
    masses = settings.lesions != "none"
    look = draw_look(rng, enhanced=masses)  # a renal mass is imaged with contrast; without it, it would only be an outline
    paint_body(canvas, body)
    paint_bowel(canvas, body)
    paint_solid_organs(canvas, body, look)
    kidneys = [paint_kidney(canvas, body, look, side, size) for side in (1, -1)]
    paint_vessels(canvas, body, look, [centre for centre, _ in kidneys])
    tumour, cyst = rng.random(2) < 0.5
    if masses and cyst:
        paint_cysts(canvas, kidneys)
    if masses and tumour:
        paint_tumours(canvas, kidneys, look)
    paint_spine(canvas, body)
    add_scanner(canvas, body)
    scan = np.clip(np.rint(canvas.hu), -1024, 3071).astype(np.int16)
    names = ORGANS + LESIONS if masses else ORGANS
    return PhantomPatient(scan, {name: (canvas.bits & BIT[name]) > 0 for name in names}, canvas.spacing)


def _nifti(path: Path, picture: np.ndarray, spacing: tuple[float, float, float]) -> None:
    """Write canonical slices as RAS+ NIfTI (axes: to the right, to the front, to the head)."""
    data = np.ascontiguousarray(picture[:, ::-1, ::-1]).T
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = [-step * (n - 1) / 2 for step, n in zip(spacing[::-1], data.shape, strict=True)]
    path.write_bytes(gzip.compress(nib.Nifti1Image(data, affine).to_bytes(), 1, mtime=0))


def _name(index: int) -> str:
    return f"s{index + 1:04d}"


def _write_patient(out: Path, settings: PhantomSettings, index: int) -> int:
    """Write one patient's folder whole or not at all."""
    patient = make_patient(settings, index)
    with directory_written_aside(out / _name(index)) as part:
        (part / "segmentations").mkdir()
        _nifti(part / "ct.nii.gz", patient.scan, patient.spacing)
        for name, mask in patient.masks.items():
            _nifti(part / "segmentations" / f"{name}.nii.gz", mask.astype(np.uint8), patient.spacing)
    return index


def _claim(out: Path, settings: PhantomSettings) -> None:
    """Raise `UserError` unless the settings are possible and `out` is empty or has an unfinished cohort of the same settings."""
    if (
        settings.patients < 1
        or settings.slices < 4
        or settings.size < 32
        or settings.lesions not in ("none", "masses", "classes")
    ):
        required = "patients >= 1, slices >= 4, size >= 32, lesions none, masses or classes"
        raise UserError(f"phantom settings {asdict(settings)}", required, "change the settings")
    record, mine = out / RECORD, asdict(settings)
    if record.exists():
        if (earlier := read_json(record)) != mine:
            got = f"{out} holds a phantom cohort made with {earlier}"
            raise UserError(got, f"the same settings ({mine})", "choose another folder or these settings")
    elif out.exists() and not holds_nothing(out):
        raise UserError(f"{out} is not empty and has no {RECORD}", "an empty or new folder", "choose another folder")
    else:
        require_room(out, int(1.6 * settings.patients * settings.slices * settings.size**2), "the phantom cohort")
        write_json(record, mine)


def _tables(out: Path, settings: PhantomSettings) -> None:
    """Write labels.csv, from the masks on disk, and then meta.csv."""
    names = [_name(i) for i in range(settings.patients)]
    if settings.lesions != "none":
        lesions = LESIONS if settings.lesions == "classes" else LESIONS[:1]
        rows = [f"image_id,slice,{','.join(lesions) if len(lesions) > 1 else 'label'}"]
        for name in names:
            files = (out / name / "segmentations" / f"{lesion}.nii.gz" for lesion in lesions)
            pixels = [np.asarray(nib.load(file).dataobj).sum((0, 1), dtype=int) for file in files]  # type: ignore[attr-defined]
            labels = (np.stack(pixels, 1) >= TUMOUR_PIXELS).astype(int)  # of each slice, by lesion
            rows += [f"{name},{z},{','.join(map(str, row))}" for z, row in enumerate(labels)]
        _write_once(out / "labels.csv", "\n".join(rows) + "\n")
    rows = [_META]
    for index, name in enumerate(names):
        rng = np.random.default_rng([settings.seed, index, 1])
        who = f"{name};{rng.integers(25, 88)};{rng.choice(['m', 'f'])}"
        rows.append(f"{who};phantom;ct abdomen-pelvis;train;coinseg;phantom;120;;")
    _write_once(out / LAST, "\ufeff" + "\n".join(rows) + "\n")  # spreadsheets know UTF-8 by the mark before it


def _write_once(path: Path, text: str) -> None:
    """Write a table that is always the same; `UserError` where another one is there."""
    if not path.exists():
        write_text(path, text)
    elif path.read_bytes() != text.encode():
        raise UserError(f"{path} exists and is not what coinseg wrote there", "the table as it was written", "move it elsewhere")


def write_cohort(
    out: Path, settings: PhantomSettings, processes: int = 0, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a cohort in the layout of TotalSegmentator; the same command continues a killed one.

    Args:
        out: a new or empty folder, or an unfinished cohort of the same settings.
        settings: the cohort.
        processes: worker processes; 0 is one for each CPU, 1 works in this process.
        progress: called with (finished, all) patients.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", "a folder for the cohort", "choose another folder")
    with locked(out):
        _claim(out, settings)
        missing = [i for i in range(settings.patients) if not (out / _name(i)).exists()]
        finished = _run(out, settings, missing, processes or os.cpu_count() or 1)
        for done, _ in enumerate(finished, settings.patients - len(missing) + 1):
            if progress is not None:
                progress(done, settings.patients)
        _tables(out, settings)


def _run(out: Path, settings: PhantomSettings, missing: list[int], processes: int) -> Iterator[int]:
    """Write the missing patients, here or in processes, and yield the index of each finished one."""
    if processes == 1 or len(missing) < 2:
        yield from (_write_patient(out, settings, index) for index in missing)
        return
    with workers(min(processes, len(missing)), "--processes") as pool:
        for future in as_completed([pool.submit(_write_patient, out, settings, i) for i in missing]):
            yield future.result()
