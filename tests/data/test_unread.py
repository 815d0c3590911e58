"""What lies in a data set and is not read is said: endings, folders, archives, later frames; names in another form are found."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from coinseg.cli import main as cli
from coinseg.cli.inspect import inspect
from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.shared import existing, safe_id
from coinseg.data.layouts.unread import parts_left
from coinseg.data.readers.paths import parts_of
from coinseg.data.readers.volume import read_volume
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.runtime.files import read_json
from conftest import tiny_settings
from examples import EXAMPLES
from writers import make_run, scan_of, write_series

SETTINGS = DataSettings()


def picture(path: Path, seed: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24)).astype(np.uint8)).save(path, **options)  # type: ignore[arg-type]
    return path


def animated(path: Path) -> Path:
    """Two frames in one file: of a PNG an animation, of a JPEG what some telephones write beside a photograph."""
    frames = [Image.new("L", (24, 24), grey) for grey in (9, 200)]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, format="MPO" if path.suffix == ".jpg" else "PNG", save_all=True, append_images=frames[1:])
    return path


def classes(root: Path, count: int = 4) -> Path:
    for i in range(count):
        picture(root / ("abnormal" if i % 2 else "normal") / f"i{i}.png", i)
    return root


def table(root: Path, rows: list[str], header: str = "file,label,patient", separator: str = ",", start: str = "") -> Path:
    for i in range(4):
        picture(root / "images" / f"i{i}.png", i)
    lines = [line.replace(",", separator) for line in (header, *rows)]
    (root / "labels.csv").write_text(start + "\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("text", ["abnormal/i1.png,1\n", "PK\3\4", "<html></html>", '[{"file": 1}]', "\ufefffile,label\na,1\n"])
def test_a_table_beside_folders_that_is_not_read_is_said(tmp_path: Path, text: str) -> None:
    classes(tmp_path)
    assert not any("tables" in line for line in read_layout(tmp_path, SETTINGS).problems)
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "more.xlsx").write_bytes(b"PK")
    (line,) = [line for line in read_layout(tmp_path, SETTINGS).problems if line.startswith("tables not read")]
    assert line.startswith("tables not read: labels.csv, more.xlsx; a table of files is one .csv with a column file or image")


def test_tables_beside_the_one_that_is_read_are_said_and_one_that_is_passed_over_is_said_once(tmp_path: Path) -> None:
    table(tmp_path / "a", [f"i{i}.png,{i % 2},p{i}" for i in range(4)])
    assert not any("tables" in line for line in read_layout(tmp_path / "a", SETTINGS).problems)
    (tmp_path / "a/notes.csv").write_text("who,when\n")
    assert any(line.startswith("tables not read: notes.csv;") for line in read_layout(tmp_path / "a", SETTINGS).problems)
    classes(tmp_path / "b")
    (tmp_path / "b/labels.csv").write_text("file,label\nelsewhere.png,1\n")
    lines = [line for line in read_layout(tmp_path / "b", SETTINGS).problems if "labels.csv" in line]
    assert lines == ["labels.csv is passed over, no file that its first rows name is there: the folders are read"]


def test_a_table_may_be_separated_by_bars(tmp_path: Path) -> None:
    cohort = read_layout(table(tmp_path, [f"i{i}.png,{i % 2},p{i}" for i in range(4)], separator="|"), SETTINGS)
    assert [(case.label, case.patient) for case in cohort.cases] == [(0, "p0"), (1, "p1"), (0, "p2"), (1, "p3")]


def labels(root: Path) -> list[tuple[str, int | None, str]]:
    return [(case.image.name, case.label, case.patient) for case in read_layout(root, SETTINGS).cases]


FOUR = [(f"i{i}.png", i % 2, f"p{i}") for i in range(4)]
ROWS = [f"{name},{label},{patient}" for name, label, patient in FOUR]


# --- what is not read


def test_endings_and_archives_are_counted_once_and_documents_are_not(tmp_path: Path) -> None:
    root = classes(tmp_path)
    for name in ("normal/a.webp", "abnormal/b.webp", "masks/c.gif", "x.tar", "labels.xlsx", "README.md", "notes.txt", "LICENSE"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("a.png", b"x")
    (root / "normal" / "IM0001").write_bytes(bytes(128) + b"DICM")
    (root / "more").mkdir()
    (root / "more" / "IM0002").write_bytes(bytes(128) + b"DICM")
    cohort = read_layout(root, SETTINGS)
    assert "normal__IM0001" in {case.id for case in cohort.cases}  # read as DICOM, which will say that it is broken
    assert any(line.startswith("folders not read: more (1)") for line in cohort.problems)
    said = [line for line in cohort.problems if "ending" in line]
    counts = "1 x .gif, 1 x .tar, 2 x .webp, 1 x .xlsx, 1 x .zip"
    assert said == [f"6 files not read, for their ending: {counts}"]
    assert said[0] in inspect(root, Settings())["problems"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    root = classes(tmp_path)
    for name in ("more.zip", "more.webp", "IM0001", "normal/x.zip"):
        os.mkfifo(root / name)
    assert "2 x .zip" in "".join(read_layout(root, SETTINGS).problems)


def test_the_entries_of_a_dataset_json_may_be_those_of_windows(tmp_path: Path) -> None:
    root = EXAMPLES["decathlon"].make(tmp_path)
    about = json.loads((root / "dataset.json").read_text())
    for entry in about["training"]:
        entry["image"] = entry["image"].replace("/", "\\")
    (root / "dataset.json").write_text(json.dumps(about))
    cohort = read_layout(root, EXAMPLES["decathlon"].settings().data)
    assert (len(cohort.cases), cohort.problems) == (4, ())


def test_the_voxels_of_a_metaimage_are_read(tmp_path: Path) -> None:
    for i in range(4):
        folder = tmp_path / ("abnormal" if i % 2 else "normal")
        folder.mkdir(exist_ok=True)
        header = f"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = {i}.raw\n"
        (folder / f"{i}.mhd").write_text(header)
        (folder / f"{i}.raw").write_bytes(bytes(8))
    (tmp_path / "normal" / "other.raw").write_bytes(bytes(8))
    assert "1 files not read, for their ending: 1 x .raw" in read_layout(tmp_path, SETTINGS).problems


@pytest.mark.parametrize("inside", ["", "images/"])
def test_folders_of_other_classes_are_named(tmp_path: Path, inside: str) -> None:
    root = classes(tmp_path / inside) and tmp_path
    for name in ("Cyst/a.png", "Cyst/b.png", "Stone/deep/c.png"):
        picture(root / inside / name)
    picture(root / "masks" / "i1.png")
    said = read_layout(root, SETTINGS).problems[0]
    assert said.startswith("folders not read: Cyst (2), Stone/deep (1), with 3 images or volumes; data.normal and data.abnormal")
    named = replace(SETTINGS, normal=(f"{inside}NORMAL",), abnormal=(f"{inside}abnormal", f"{inside}Cyst", f"{inside}Stone"))
    cohort = read_layout(root, named)
    assert len(cohort.cases) == 7
    assert not any("not read" in line for line in cohort.problems)


def test_a_table_says_how_many_images_beside_its_own_it_does_not_name(tmp_path: Path) -> None:
    root = table(tmp_path, [f"images/{row}" for row in ROWS[:3]])
    (root / "images" / "i9.webp").write_bytes(b"x")
    picture(root / "elsewhere" / "x.png")
    problems = read_layout(root, SETTINGS).problems
    assert "1 images or volumes not read, no row of labels.csv names them: i3.png" in problems
    assert "1 files not read, for their ending: 1 x .webp" in problems


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_later_frames_are_said(tmp_path: Path, name: str) -> None:
    root = classes(tmp_path / "data", 8)
    animated(root / "normal" / name)
    line = f"in 1 images only the first of several frames is read: {name}"
    assert line in inspect(root, Settings())["problems"]
    settings = tiny_settings()
    assert line in prepare(read_layout(root, settings.data), settings, tmp_path / "store").meta["problems"]


def test_a_file_that_is_no_image_has_no_parts_left(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    assert parts_left([tmp_path / "a.png", picture(tmp_path / "b.png"), tmp_path / "c.nii"]) == []


def test_segment_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "model", kind="percentile")
    source = tmp_path / "in"
    picture(source / "a.png")
    animated(source / "b.png")
    (source / "c.webp").write_bytes(b"x")
    words = [
        "segment",
        "-i",
        str(source),
        "-o",
        str(tmp_path / "out"),
        "--model",
        str(tmp_path / "model"),
        "--accelerator",
        "cpu",
    ]
    assert cli.main(words) == 0
    lines = ["1 files not read, for their ending: 1 x .webp", "in 1 images only the first of several frames is read: b.png"]
    # before them: that this model kept no record of its training, and that a frame of one grey is odd
    assert read_json(tmp_path / "out" / "manifest.json")["warnings"][2:] == lines
    said = capsys.readouterr().out
    assert all(f"warning: {line}" in said for line in lines)
    words[2], words[4] = str(source / "b.png"), str(tmp_path / "b.png")
    assert cli.main(words) == 0
    assert f"warning: {lines[1]}" in capsys.readouterr().out


# --- names that differ in form


def decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def test_a_mask_is_never_the_image_that_a_row_names(tmp_path: Path) -> None:
    """Images beside the table with decomposed names, and the only folder beside it holds masks of the very names in the table."""
    for i in range(4):
        picture(tmp_path / decomposed(f"Müller_{i}.png"))
        picture(tmp_path / "masks" / f"Müller_{i}.png")
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"Müller_{i}.png,{i % 2}\n" for i in range(4)), "utf-8")
    found = read_layout(tmp_path, DataSettings())
    assert [case.image.parent for case in found.cases] == [tmp_path] * 4
    assert all(case.lesion[0].path.parent == tmp_path / "masks" for case in found.cases if case.label == 1)


def test_decomposed_names_are_those_of_the_table(tmp_path: Path) -> None:
    root = table(tmp_path, [f"Müller_{i}.png,{i % 2},é{i}" for i in range(4)])
    for i in range(4):
        (root / "images" / f"i{i}.png").rename(root / "images" / decomposed(f"Müller_{i}.png"))
        picture(root / "masks" / f"Müller_{i}.png") if i % 2 else None
    (root / "labels.csv").write_text((root / "labels.csv").read_text("utf-8").replace("é1", decomposed("é1")), "utf-8")
    cohort = read_layout(root, SETTINGS)
    assert [case.id for case in cohort.cases] == [f"Müller_{i}" for i in range(4)]
    assert [bool(case.lesion) for case in cohort.cases] == [False, True, False, True]
    assert [case.patient for case in cohort.cases] == [f"é{i}" for i in range(4)]


def test_decomposed_masks_scans_and_entries_are_matched(tmp_path: Path) -> None:
    root = classes(tmp_path / "folders")
    for path in [*root.glob("*/*.png")]:
        path.rename(path.with_name(decomposed(f"ü{path.name}")))
    picture(root / "masks" / "üi1.png")
    assert [case.id for case in read_layout(root, SETTINGS).cases if case.lesion] == ["abnormal__üi1"]
    scans = tmp_path / "scans"
    for name in "äö":
        (scans / decomposed(name)).mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), scans / decomposed(name) / "ct.nii.gz")
    (scans / "labels.csv").write_text("image_id,label\nä,0\nö,1\n", "utf-8")
    (scans / "meta.csv").write_text("image_id;study_type\nä;ct abdomen\nö;ct abdomen\n", "utf-8")
    cohort = read_layout(scans, SETTINGS)
    assert ([case.label for case in cohort.cases], cohort.problems) == ([0, 1], ())
    raw = tmp_path / "raw"
    for name in "äö":
        for path in (raw / "imagesTr" / decomposed(f"{name}_0000.nii.gz"), raw / "labelsTr" / f"{name}.nii.gz"):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path)
    (raw / "dataset.json").write_text('{"labels": {"background": 0, "tumor": 1}, "numTraining": 2, "file_ending": ".nii.gz"}')
    cohort = read_layout(raw, replace(SETTINGS, lesion=("tumor",)))
    assert ([case.id for case in cohort.cases], cohort.problems) == (["ä", "ö"], ())


def test_the_only_name_in_another_case_is_found_and_of_two_none(tmp_path: Path) -> None:
    picture(tmp_path / "Images" / "a.png")
    assert existing(tmp_path, "images/A.PNG") == tmp_path / "Images" / "a.png"
    assert existing(tmp_path, "images/b.png").exists() is False
    picture(tmp_path / "Images" / "A.png")
    assert existing(tmp_path, "images/A.png") == tmp_path / "Images" / "A.png"
    assert existing(tmp_path, "images/A.PNG").exists() is False


@pytest.mark.parametrize("rows", [[row.replace(".png", ".PNG") for row in ROWS], [f"Images\\{row}" for row in ROWS]])
def test_names_as_windows_writes_them(tmp_path: Path, rows: list[str]) -> None:
    assert labels(table(tmp_path, rows)) == FOUR


@pytest.mark.parametrize("name", [r"..\secret.png", r"images\..\..\secret.png", r"C:\data\i0.png"])
def test_backslashes_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"row 2 of .* (outside of the folder|that is missing)"):
        read_layout(table(tmp_path / "data", [f"{name},0,p", *ROWS]), SETTINGS)


@pytest.mark.parametrize(
    ("separator", "start"),
    [(";", "sep=;\r\n"), (";", "\ufeffsep=;\n"), (";", '"sep=;"\n'), ("\t", "SEP=\t\n"), ("|", "sep=|\n"), (",", "sep=,,,\n")],
)
def test_the_line_that_names_the_separator(tmp_path: Path, separator: str, start: str) -> None:
    assert labels(table(tmp_path, ROWS, separator=separator, start=start)) == FOUR


def test_numbers_of_a_german_spreadsheet(tmp_path: Path) -> None:
    rows = [f"i{i}.png;{i % 2},0;p{i // 2};{i % 2},00" for i in range(4)]
    root = table(tmp_path, [], "", start="file;label;patient;slice\n" + "\n".join(rows))
    cases = read_layout(root, SETTINGS).cases
    assert [(case.label, case.place, case.series) for case in cases] == [(i % 2, i % 2, f"p{i // 2}") for i in range(4)]


def test_the_best_known_column_of_labels_is_read_and_the_others_named(tmp_path: Path) -> None:
    rows = [f"i{i}.png,{17 + i},{i % 2}" for i in range(4)]
    root = table(tmp_path, rows, "file,y,Target")
    assert [label for _, label, _ in labels(root)] == [0, 1, 0, 1]
    assert read_layout(root, SETTINGS).label_source == "image labels from labels.csv, column target (not y)"


def test_patients_that_may_be_one_are_counted_and_not_named(tmp_path: Path) -> None:
    names = ["Anna", "ANNA ", "07", "7.0"]
    root = table(tmp_path, [f"i{i}.png,{i % 2},{name}" for i, name in enumerate(names)])
    assert read_layout(root, SETTINGS).problems == (
        "4 patients differ from another only in capitals, spaces, leading zeros or a trailing .0: "
        "they are taken for different people",
    )


def test_names_that_differ_in_odd_characters_have_ids_and_patients_of_their_own(tmp_path: Path) -> None:
    root = classes(tmp_path)
    odd = [picture(root / "abnormal" / f"{name}.png", seed) for seed, name in enumerate(("=1", "＝1", "_1"))]
    cases = {case.image: case for case in read_layout(root, SETTINGS).cases}
    ids = [cases[path].id for path in odd]
    assert len(set(ids)) == 3
    assert all(name.startswith("abnormal___1_") and name == safe_id(name) for name in ids)
    assert [cases[path].patient for path in odd] == ids
    assert cases[root / "abnormal" / "i1.png"].id == "abnormal__i1"


@pytest.mark.parametrize(("alpha", "said"), [(255, False), (254, True)])
def test_transparent_pixels_are_said_and_an_opaque_alpha_channel_is_not(tmp_path: Path, alpha: int, said: bool) -> None:
    root = classes(tmp_path / "data", 8)
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[2, 3] = 10, 20, 30, alpha
    Image.fromarray(pixels).save(root / "normal" / "glass.png")
    line = "in 1 images transparent pixels are read as the colour that is stored below: glass.png"
    assert (line in inspect(root, Settings())["problems"]) == said
    settings = tiny_settings()
    store = prepare(read_layout(root, settings.data), settings, tmp_path / "store")
    assert (line in store.meta["problems"]) == said
    assert parts_left([root / "normal" / "glass.png"]) == ([line] if said else [])


@pytest.mark.parametrize("system", ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"])
def test_what_a_system_leaves_in_folders_is_no_image(tmp_path: Path, system: str) -> None:
    root = classes(tmp_path / "data")
    usual = read_layout(root, DataSettings())
    for place in (root, root / "abnormal"):
        picture(place / system / "normal" / "i0.png", 7)
        picture(place / system / "i1.png" / "SYNOPHOTO_THUMB_M.jpg", 8)
    assert read_layout(root, DataSettings()) == usual
    series = write_series(tmp_path / "series", scan_of())
    slices = parts_of(series)
    write_series(series / system, scan_of(seed=1), series="1.9", number=8)
    assert parts_of(series) == slices
    assert read_volume(series).scan.shape == (4, 5, 6)


def test_the_names_of_columns_are_shown_where_one_of_them_is_a_label(tmp_path: Path) -> None:
    root = table(tmp_path, ["i0.png,1,0", "i1.png,0,1"], "file,negative,positive")
    problems = read_layout(root, DataSettings()).problems
    assert (
        "labels.csv has no column label (file, negative, positive): labels can only come from lesion masks or anomalies"
        in problems
    )


@pytest.mark.parametrize(
    ("samples", "extra", "said"),
    [
        (4, "unspecified", "a further channel is not read (of two the second, of four the fourth)"),
        (2, "unspecified", "a further channel is not read (of two the second, of four the fourth)"),
        (4, "unassalpha", "transparent pixels are read as the colour that is stored below"),
        (4, "constant", ""),
        (3, "", ""),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_further_channel_of_a_tiff_is_said(tmp_path: Path, samples: int, extra: str, said: str, dtype: type[np.uint8]) -> None:
    root = classes(tmp_path / "data", 8)
    pixels = np.random.default_rng(0).integers(1, 99, (8, 8, samples)).astype(dtype)
    if extra == "constant":
        pixels[..., 3] = 7
    kinds = [extra.replace("constant", "unspecified")] if extra else []
    kind = "rgb" if samples > 2 else "minisblack"
    path = root / "normal" / "x.tif"
    tifffile.imwrite(path, pixels, photometric=kind, planarconfig="contig", extrasamples=kinds or None)
    line = f"in 1 images {said}: x.tif"
    assert parts_left([path]) == ([line] if said else [])
    settings = tiny_settings()
    store = prepare(read_layout(root, settings.data), settings, tmp_path / "store")
    assert [one for one in store.meta["problems"] if "x.tif" in one] == ([line] if said else [])


@pytest.mark.parametrize("ending", [".json", ".xml", ".txt"])
def test_annotations_named_as_images_are_said(tmp_path: Path, ending: str) -> None:
    root = classes(tmp_path / "data", 8)
    (root / "notes.txt").write_text("about them")
    for path in sorted((root / "abnormal").iterdir()):
        path.with_suffix(ending).write_text("0 0.5 0.5 0.1 0.1")
    count = len([*root.glob(f"abnormal/*{ending}")])
    assert f"{count} annotations not read, named as images: only images are masks ({count} x {ending})" in (
        read_layout(root, SETTINGS).problems
    )
