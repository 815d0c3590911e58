"""Every command of README.md and of the tables of docs/guide is run on tiny data, as it stands there but for paths and a few
sizes; so are the Python blocks.

A new row needs an example here: what the row starts with, and a function that makes its data in a folder and says what the words
of the command that stand for files (DATA, OUT, `scan.nii.gz`, ...) are there.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coinseg.cli import main as cli
from coinseg.data.slices.store import SliceStore
from coinseg.report import page as report
from conftest import TINY, tiny_settings, write_images
from examples import EXAMPLES, LPS, hounsfield, labelled, save
from tiles import images
from writers import make_run, write_series

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = [*TINY, "--data.size", "16", "--classifier.steps", "2", "--coin.steps", "1"]
"""Added to every `coinseg run`."""
Files = dict[str, Path]
Example = Callable[[Path], Files]


def made(layout: str) -> Example:
    return lambda folder: {"DATA": EXAMPLES[layout].make(folder / "data"), "OUT": folder / "out"}


def other_names(folder: Path) -> Files:
    data = write_images(folder / "data", patients=3)
    for name, other in (("normal", "Free"), ("abnormal", "Break")):
        (data / "images" / other).parent.mkdir(exist_ok=True)
        (data / name).rename(data / "images" / other)
    (data / "images" / "Crack").mkdir()
    for path in sorted((data / "images" / "Break").iterdir())[:2]:
        path.rename(data / "images" / "Crack" / path.name)
    return {"DATA": data, "OUT": folder / "out"}


def a_table(folder: Path) -> Files:
    return {"labels.csv": EXAMPLES["csv"].make(folder / "data") / "labels.csv", "OUT": folder / "out"}


def two_kidneys(folder: Path) -> Files:
    files = made("totalsegmentator")(folder)
    for scan in sorted(files["DATA"].glob("s*")):
        shutil.copy(scan / "segmentations/kidney_left.nii.gz", scan / "segmentations/kidney_right.nii.gz")
    return files


def without_labels(folder: Path) -> Files:
    files = two_kidneys(folder)
    (files["DATA"] / "labels.csv").unlink()
    return files


def coloured(folder: Path) -> Files:
    """Images whose abnormal squares differ in hue alone."""
    data = write_images(folder / "data")
    for path in (*data.glob("normal/*"), *data.glob("abnormal/*")):
        grey = np.asarray(Image.open(path))
        rusty = grey > 150
        pixels = np.stack([np.where(rusty, 200, grey), grey // 2 + 60, np.where(rusty, 20, grey // 2)], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return {"soy-rust": data, "OUT": folder / "out", "out": folder / "out"}


def three_classes(folder: Path) -> Files:
    rng, rows = np.random.default_rng(0), ["file,patient,inclusion,patches,scratches"]
    (folder / "data").mkdir(parents=True)
    for i in range(16):
        pixels, has = rng.integers(90, 120, (20, 20), dtype=np.uint8), [i % 2, i // 2 % 2, i // 4 % 2]
        for number in np.flatnonzero(has):
            pixels[4 * number + 2 : 4 * number + 5] = (250, 10, 180)[number]
        Image.fromarray(pixels).save(folder / "data" / f"{i}.png")
        rows.append(f"{i}.png,p{i // 2},{has[0]},{has[1]},{has[2]}")
    (folder / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    return {"neu-steel": folder / "data", "OUT": folder / "out", "out": folder / "out"}


def larger_than_a_tile(folder: Path) -> Files:
    return {"rails.csv": images(folder / "data", shape=(100, 130)), "OUT": folder / "out", "out": folder / "out"}


def two_sequences(folder: Path) -> Files:
    for i in range(4):
        labels = labelled()
        for name, scan in (("flair", hounsfield(labels, i)), ("t2", -hounsfield(labels, i))):
            save(folder / "data" / f"patient{i}_{name}.nii.gz", scan)
        save(folder / "data" / f"patient{i}_lesions.nii.gz", (labels == 2).astype(np.uint8))
    return {"ms3d": folder / "data", "OUT": folder / "out", "out": folder / "out"}


def a_model(folder: Path) -> Path:
    settings = tiny_settings()
    return make_run(folder / "run", replace(settings, data=replace(settings.data, size=16)))


def a_scan(folder: Path) -> Files:
    scan = save(folder / "scan.nii.gz", hounsfield(labelled()))
    names = ("mask.nii.gz", "c.nii.gz", "cf.nii.gz", "d.nii.gz", "model")
    return {"scan.nii.gz": scan, "OUT": a_model(folder), "out/run": folder / "run", **{name: folder / name for name in names}}


def a_data_set(folder: Path) -> Files:
    return {**made("totalsegmentator")(folder), "MODEL": a_model(folder)}


def a_series(folder: Path) -> Files:
    write_series(folder / "series", hounsfield(labelled()).T, LPS, FrameOfReferenceUID="1.2.3.9")
    mask = folder / "mask.nii.gz"
    return {"FOLDER": folder / "series", "mask.nii.gz": mask, "OUT": a_model(folder)}


def a_mask_of_a_series(folder: Path) -> Files:
    files = a_series(folder)
    save(files["mask.nii.gz"], (labelled() == 2).astype(np.uint8))
    return {**files, "SERIES": files["FOLDER"], "mask.dcm": folder / "mask.dcm"}


def a_run(folder: Path) -> Files:
    assert (
        cli.main(
            [
                "run",
                str(EXAMPLES["nnunet"].make(folder / "data")),
                "-o",
                str(folder / "run"),
                *EXAMPLES["nnunet"].words(),
                *OPTIONS,
            ]
        )
        == 0
    )
    return {"out/run": folder / "run", "Dataset101_lesion": folder / "Dataset101_lesion"}


YOUR_DATA: dict[str, Example] = {
    "folders of images with other names": other_names,
    "a CSV": a_table,
    "DICOM: one folder": made("dicom"),
    "TotalSegmentator": two_kidneys,
    "scans without labels": without_labels,
    "lesions better seen": made("dicom"),
    "nnU-Net raw": made("nnunet"),
    "KiTS": made("kits"),
    "Medical Segmentation Decathlon": made("decathlon"),
    "one CT scan": a_scan,
    "a folder or `.csv` of new scans": a_data_set,
    "one DICOM series": a_series,
}
TO_OTHERS: dict[str, Example] = {
    "the model elsewhere": a_scan,
    "DICOM SEG": a_mask_of_a_series,
    "training data for nnU-Net": a_run,
    "to know which voxels to trust": a_scan,
    "the scan without the lesion": a_scan,
}
QUESTIONS: dict[str, Example] = {
    "leaf rust in colour": coloured,
    "steel, three classes": three_classes,
    "rails, images of any size": larger_than_a_tile,
    "MR, FLAIR and T2": two_sequences,
}
OUTPUTS = ("mask.nii.gz", "mask.dcm", "c.nii.gz", "cf.nii.gz", "d.nii.gz", "model", "Dataset101_lesion")
NO_COMMAND = ("index.csv", "the same commands", "torchrun")
"""In the second cell of a row without a command to run here: files of a run, what other rows do, several processes."""


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(name: str, header: str) -> list[tuple[str, list[str]]]:
    """What stands in the first column of a page's table, and the commands in the second; rows that need none are left out."""
    text = page(name)
    lines = text[text.index(header) :].partition("\n\n")[0].splitlines()[2:]
    found = []
    for line in lines:
        first, second, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
        commands = [code for code in re.findall(r"`([^`]+)`", second) if re.match("(coinseg|segment) ", code)]
        assert commands or any(word in second for word in NO_COMMAND), f"the row '{first}' of {name} has no command"
        found += [(first, commands)] if commands else []
    return found


def words_of(command: str, files: Files) -> list[str]:
    """The words of a command with its files in their place, `...` filled in, and the tiny sizes."""
    command = command.removeprefix("coinseg ").replace("segment ...", "segment -i scan.nii.gz -o mask.nii.gz --model OUT")
    command = re.sub("^segment (?=--model)", "segment -i scan.nii.gz -o mask.nii.gz ", command)
    words = [str(files.get(word, word)) for word in shlex.split(command)]
    return words + OPTIONS if words[0] == "run" else words


def named(first: str, examples: dict[str, Example]) -> Example:
    found = [example for start, example in examples.items() if first.startswith(start)]
    assert len(found) == 1, f"the row '{first}' has {len(found)} examples in this file"
    return found[0]


YOURS, OTHERS = rows("docs/guide/your-data.md", "| your data | command |"), rows("docs/guide/clinic.md", "| you want | command |")
ANY = rows("README.md", "| data | command | IoU |")


@pytest.mark.parametrize(("first", "commands"), [pytest.param(*row, id=row[0][:24]) for row in [*YOURS, *OTHERS, *ANY]])
def test_the_commands_of_the_tables(
    first: str, commands: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = named(first, {**YOUR_DATA, **TO_OTHERS, **QUESTIONS})(tmp_path)
    monkeypatch.chdir(tmp_path)
    # Half the time of a tiny run would go into the curves; tests/report/test_page.py has them.
    monkeypatch.setattr(report, "_curves", lambda *ignored: None)
    inputs = {path: path.stat().st_mtime_ns for path in files.get("DATA", tmp_path / "none").rglob("*")}
    for command in commands:
        assert cli.main(words_of(command, files)) == 0, capsys.readouterr().err
    assert all(path.stat().st_mtime_ns == then for path, then in inputs.items())
    if commands[0].startswith("coinseg run"):
        assert (files["OUT"] / "report.html").is_file()
        assert any(path.suffix in (".gz", ".png") for path in (files["OUT"] / "masks").iterdir())
    outputs = {word for command in commands for word in shlex.split(command.replace("segment ...", "")) if word in OUTPUTS}
    assert all(files[word].exists() for word in outputs)


def test_every_example_has_its_row() -> None:
    assert (len(YOURS), len(OTHERS), len(ANY)) == (len(YOUR_DATA), len(TO_OTHERS), len(QUESTIONS))


def test_the_rows_of_readme_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour stays colour, classes and sequences are found, and large images are cut: what the store has of each row."""
    monkeypatch.chdir(tmp_path)
    wanted = {
        "leaf rust in colour": (("red", "green", "blue"), (), 24),
        "steel, three classes": (("grey",), ("inclusion", "patches", "scratches"), 16),
        "rails, images of any size": (("grey",), (), 12 * 4),
        "MR, FLAIR and T2": (("flair", "t2"), (), 4 * 4),
    }
    for first, commands in ANY:
        name = next(start for start in QUESTIONS if first.startswith(start))
        words = words_of(commands[0], QUESTIONS[name](tmp_path / name))
        assert cli.main(["prepare", *words[1:]]) == 0
        store = SliceStore(tmp_path / name / "out" / "slices")
        assert (store.channels, store.classes, len(store)) == wanted[name]


def test_the_commands_of_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"^    \.venv/bin/coinseg (.+)$", page("README.md"), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["run", "segment"]
    write_images(tmp_path / "my_images", patients=3)
    (tmp_path / "my_images" / "abnormal").rename(tmp_path / "abnormal")
    shutil.copytree(tmp_path / "abnormal", tmp_path / "my_images" / "abnormal")
    (tmp_path / "abnormal").rename(tmp_path / "new_images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "_curves", lambda *ignored: None)
    for command in commands:
        assert cli.main(words_of(command, {})) == 0, capsys.readouterr().err
    assert (tmp_path / "out/run/report.html").is_file()
    assert (tmp_path / "out/run/masks/index.csv").is_file()
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == len(list((tmp_path / "new_images").iterdir()))


@pytest.mark.parametrize("name", ["README.md", "docs/guide/python.md"])
def test_the_python_of_a_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.+?)^```$", page(name), re.MULTILINE | re.DOTALL)
    assert blocks
    (tmp_path / "out").mkdir()
    a_scan(tmp_path / "out")
    (tmp_path / "out/scan.nii.gz").rename(tmp_path / "scan.nii.gz")
    settings = tiny_settings()
    several = replace(settings, data=replace(settings.data, size=16))
    make_run(tmp_path / "out" / "several", several, classes=("cyst", "tumour"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"images": torch.rand(2, 1, 16, 16) * 2 - 1}
    for block in blocks:
        exec(block, names)
    mask = names["mask"] if "mask" in names else names["result"].mask
    assert mask.shape == hounsfield(labelled()).shape
    assert mask.dtype == bool
    assert names["explanation"].saliency.shape == (2, 16, 16)


def test_readme_is_short() -> None:
    assert len(page("README.md").split()) <= 900


def test_make_demo_is_what_readme_names() -> None:
    assert "\n    make demo\n" in page("README.md")
    assert "\ndemo:" in page("Makefile")
