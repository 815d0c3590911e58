"""The page says everything, needs nothing else, and survives what is missing; the colours are right by hand."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coinseg.config.schema import Settings
from coinseg.errors import UserError
from coinseg.report.examples import MARKS, figures, load_examples, marks, outline
from coinseg.report.page import examples_figure, write_report
from coinseg.report.patients import patients_of
from coinseg.report.pictures import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE, heat, overlay
from coinseg.types import NativeSlice

SHOWN = {
    "iou_mask_free": (0.4123, "0.412"),
    "iou_oracle": (0.4671, "0.467"),
    "dice_per_image": (0.3871, "0.387"),
    "false_positive_area": (0.00042, "0.042%"),
    "normals_marked": (0.0722, "7.22%"),
    "lesions_touched": (0.7432, "74.3%"),
    "cv": (0.6111, "61.1%"),
    "flip_rate": (0.9321, "93.2%"),
    "auroc": (0.9218, "0.922"),
    "accuracy": (0.861, "86.1%"),
    "calibration_error": (0.0618, "0.062"),
    "posterior_auroc": (0.9514, "0.951"),
    "posterior_accuracy": (0.883, "88.3%"),
    "posterior_calibration_error": (0.0433, "0.043"),
}
ORACLE = "oracle: uses the masks it is scored with, for comparison only"
COUNTED = {"slices_abnormal": 211, "slices_scored": 208, "slices_normal": 143}


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest as a run writes it."""
    settings = json.loads(json.dumps(Settings().as_dict()))
    settings["data"]["size"] = 80
    scores: dict[str, Any] = {name: value for name, (value, _) in SHOWN.items()} | COUNTED | {"null_because": {}}
    return {
        "schema": 1,
        "version": "0.1.0",
        "command": "coinseg run <data> -o out",
        "created": "2025-11-23T12:00:00+00:00",
        "seed": 7,
        "settings": settings,
        "data": {"layout": "csv", "label_source": "column abnormal", "cases": 5, "fingerprint": {"low": 0.0}},
        "timings_s": {"prepare": 12.4, "coin": 1834.0},
        "scores": scores,
        "threshold": {"value": 0.0612, "rule": "0.99 quantile of the difference on training images labelled normal"},
        "outputs": {"report": "report.html", "masks": "masks", "model": "model.json", "mask_count": 3},
        "warnings": ["the classifier is weak"],
    } | changes


def write_examples(out: Path, names: list[str], groups: list[str], known: bool = True) -> Path:
    """Tiny examples, all different, written as `coinseg.evaluation.evaluate` does."""
    n, rng = len(names), np.random.default_rng(0)
    image = rng.random((n, 8, 8)).astype(np.float16)
    mask, truth = np.zeros((n, 8, 8), bool), np.zeros((n, 8, 8), bool)
    mask[:, 2:6, 2:6], truth[:, 2:6, 3:7] = True, True
    path = out / "evaluation" / "examples.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        group=np.array(groups, dtype=str),
        name=np.array(names, dtype=str),
        image=image,
        counterfactual=image[::-1],
        difference=np.abs(image - image[::-1]),
        mask=mask,
        truth=truth,
        known=np.full(n, known),
        before=np.linspace(0.9, 0.2, n).astype(np.float32),
        after=np.full(n, 0.1, np.float32),
    )
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with everything the page reads."""
    write_examples(tmp_path, ["one, slice 3", "two, slice 4", "three, slice 5"], ["best", "worst", "normal"])
    for name, lines in {
        "classifier": [{"step": s, "time": 1.0, "loss": 1 / s} for s in range(1, 40)],
        "coin": [{"step": 1, "classifier": 3.0, "tv": 0.1}, {"step": 2, "probe_flip_rate": 0.5}],
    }.items():
        (tmp_path / name).mkdir()
        # The last line is cut short, as a killed run leaves it.
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo'
        (tmp_path / name / "stats.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "model.json").write_text("{}")
    return tmp_path


def page_of(out: Path, **changes: Any) -> str:
    return write_report(out, manifest(**changes)).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees, without markup."""
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S)).split())


def test_examples_say_how_far_to_trust_them_where_it_is_known(run: Path) -> None:
    assert "(confidence " not in text_of(page_of(run))  # as in runs of earlier versions
    path = run / "evaluation" / "examples.npz"
    with np.load(path) as file:
        there = {name: file[name] for name in file}
    np.savez_compressed(path, **there, confidence=np.array([0.91, 0.12, np.nan]))
    words = text_of(page_of(run))
    assert "trusted (confidence 0.91)" in words
    assert "doubtful, look at it (confidence 0.12)" in words
    failed = text_of(page_of(run, verdict="NOT USABLE: <all> is wrong"))
    assert "coinseg report NOT USABLE: <all> is wrong coinseg 0.1.0" in failed, "it is the first line"
    assert "not trusted: the run is not usable (confidence 0.91)" in failed
    assert " trusted (confidence" not in failed
    unknown = text_of(page_of(run, verdict="NOT JUDGED: only 2 abnormal images are held out"))
    assert "not doubtful, and not called trusted: the run is not judged (confidence 0.91)" in unknown
    assert "doubtful, look at it (confidence 0.12)" in unknown
    assert " trusted (confidence" not in unknown


def row_of(page: str, score: str) -> str:
    """The row of the table of scores that belongs to a score."""
    return next(row for row in re.findall(r"<tr.*?</tr>", page, re.S) if f">{score}</code>" in row)


def test_page_says_everything(run: Path) -> None:
    page = page_of(run)
    for name, (_, shown) in SHOWN.items():
        assert f'<td class="value">{shown}</td>' in row_of(page, name), name
        assert (ORACLE in row_of(page, name)) == ("oracle" in name)
    text = text_of(page)
    for words in (
        "On held-out patients, the masks agree in part with the true lesions (IoU 0.41, where 1 is perfect)",
        "1 warning",
        "the classifier is weak",
        "No lesion mask was used for training or threshold",
        "0.0612 (0.99 quantile of the difference on training images labelled normal)",
        "211 abnormal (208 of them with a true mask to score against) and 143 normal",
        "one, slice 3 f 0.90 → 0.10, now called normal Dice 0.75",
        "three, slice 5 f 0.20: called normal, so left as it is, without a mask 25% of the image marked, all of it false",
        "Normal images, and the errors of f: 1 more",
        "data.size 80 96",
        "0:30:34",
        "not a medical device",
    ):
        assert words in text, words
    assert len(re.findall(r'<image href="data:image/webp;base64,[^"]+"', page)) == 3 * 4
    assert page.count('aria-label="mask against truth of ') == 3
    places = [
        page.index(f'id="{name}"') for name in ("pictures", "scores", "audit", "curves", "data", "settings", "files", "limits")
    ]
    assert places == sorted(places), "pictures first"
    assert {f'href="#{name}"' for name in ("pictures", "scores", "limits")} <= set(re.findall(r'href="#\w+"', page))
    assert 'href="#patients"' not in page, "there is no table"
    assert '<img class="curves" src="data:image/png;base64,' in page
    assert '<a href="model.json">' in page
    assert 'href="masks"' not in page, "nothing is linked that is not there"


def test_a_pooled_iou_says_over_which_images_it_is(run: Path) -> None:
    scores = manifest()["scores"] | {"iou_all_images": 0.3141}
    page = page_of(run, scores=scores)
    assert "(IoU 0.41, where 1 is perfect) over 208 abnormal images (0.31 with the 143 normal ones)" in text_of(page)
    assert "over all pixels of the 208 abnormal images" in row_of(page, "iou_mask_free")
    assert "143 normal images" in row_of(page, "iou_all_images")


def test_nulls_have_their_reason_and_unknown_scores_are_kept(run: Path) -> None:
    names = [name for name in SHOWN if name != "auroc"]
    scores = dict.fromkeys(names) | COUNTED | {"null_because": {n: f"why <{n}>" for n in names}, "new_score": 0.25}
    page = page_of(run, scores=scores)
    for name in names:
        assert f"none: why &lt;{name}&gt;" in row_of(page, name)
    assert "none: not recorded" in row_of(page, "auroc")
    assert "0.250" in row_of(page, "new_score")
    assert "On held-out patients, how well the masks fit the lesions could not be scored." in text_of(page)


def test_page_needs_nothing_else(run: Path) -> None:
    page = page_of(run)
    assert not re.search(r"""(?:src|href|srcset|action|data)\s*=\s*["']?\s*(?:https?:|//|javascript:)""", page, re.I)
    assert not re.search(r"<(?:script|link|iframe|object|embed)\b|@import|url\(", page, re.I)
    assert "default-src 'none'" in page
    for source in re.findall(r'(?:src|<image href)="([^"]*)"', page):
        assert source.startswith(("data:image/png;base64,", "data:image/webp;base64,"))


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    write_examples(tmp_path, [f"{evil}, slice 1", "'\"><img src=x onerror=y>\udce9"], ["best", evil])
    settings = manifest()["settings"]
    settings["data"]["masks"] = evil
    page = page_of(
        tmp_path,
        settings=settings,
        warnings=[evil],
        command=evil,
        data={evil: evil},
        outputs={evil: "javascript:alert(1)"},
        scores={evil: evil, "auroc": None, "null_because": {"auroc": evil}},
        threshold={"value": 0.1, "rule": evil},
        timings_s={evil: 1.0},
    )
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page
    assert 'href="javascript' not in page


@pytest.mark.parametrize("broken", [None, b"", b"PK\x03\x04 not really", b"no archive"])
def test_missing_or_broken_files_are_said(tmp_path: Path, broken: bytes | None) -> None:
    if broken is not None:
        (tmp_path / "evaluation").mkdir()
        (tmp_path / "evaluation" / "examples.npz").write_bytes(broken)
    text = text_of(write_report(tmp_path, {}).read_text(encoding="utf-8"))
    for words in (
        "There are no pictures: evaluation/examples.npz is not there or cannot be read.",
        "There are no curves for this stage: classifier/stats.jsonl is not there or is empty.",
        "There are no curves for this stage: coin/stats.jsonl is not there or is empty.",
        "The threshold is not in the manifest.",
        "The manifest has no settings.",
        "The manifest says nothing about the data.",
        "No times were recorded.",
    ):
        assert words in text, words
    with pytest.raises(UserError, match="has no examples"):
        examples_figure(tmp_path / "evaluation" / "examples.npz", tmp_path / "grid.png")


def test_a_cut_archive_is_no_failure(run: Path) -> None:
    path = run / "evaluation" / "examples.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "There are no pictures" in page_of(run)


def test_special_runs_are_told_apart(run: Path) -> None:
    write_examples(run, ["a", "b"], ["abnormal", "abnormal"], known=False)
    settings = manifest()["settings"]
    settings["data"]["split_by"], settings["anomaly"]["kind"] = "slice", "blob"
    given = {"value": 0.1, "rule": "given by the user"}
    text = text_of(page_of(run, settings=settings, threshold=given, warnings=[f"w{i}" for i in range(14)]))
    for words in (
        "On held-out slices of patients also trained on, the masks agree in part with the injected, synthetic anomalies",
        "The split is inside patients",
        "The anomalies were injected",
        "coinseg cannot know",
        "There is no truth for this image.",
        "2 more w12 w13",
    ):
        assert words in text, words
    assert "Dice 0" not in text


def test_the_page_is_deterministic(run: Path) -> None:
    first = page_of(run)
    assert page_of(run) == first
    assert not list(run.glob(".part-*"))


def test_overlay_colours_by_hand() -> None:
    image = np.full((2, 2), 0.4)
    mask, truth = np.array([[1, 1], [0, 0]], bool), np.array([[1, 0], [1, 0]], bool)
    found = overlay(image, mask, truth)
    assert (TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE) == ((0, 200, 83), (229, 28, 35), (255, 214, 0))
    # Half of the grey 0.4 * 255 = 102, half of green, red and yellow; the true negative stays grey.
    expected = [[[51, 151, 92], [166, 65, 68]], [[178, 158, 51], [102, 102, 102]]]
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=1)


def test_overlay_without_truth_is_an_outline() -> None:
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    found = overlay(np.zeros((5, 5)), mask, None)
    outline = mask.copy()
    outline[2, 2] = False
    assert (found[outline] == TRUE_POSITIVE).all()
    assert not found[~outline].any()


def test_heat_leaves_the_unchanged_alone() -> None:
    image = np.array([[0.2, 0.2, np.nan]])
    found = heat(image, np.array([[0.0, 1.0, 0.0]]), 0.5)
    assert found[0, 0].tolist() == [51, 51, 51]
    assert found[0, 1, 0] > 200
    assert found[0, 2].tolist() == [0, 0, 0]


def test_examples_figure(tmp_path: Path) -> None:
    examples = write_examples(tmp_path, list("abcd"), ["best", "best", "worst", "normal"])
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    examples_figure(examples, one, rows=2)
    examples_figure(examples, two, rows=2)
    assert one.read_bytes() == two.read_bytes()
    examples_figure(examples, two, rows=9)
    heights = [Image.open(path).height for path in (one, two)]
    assert heights[1] - heights[0] == pytest.approx(2 * 1.84 * 110, abs=2), "four rows, although nine were asked for"


# --- pictures in native pixels, and the table by patient


def polygon_of(path: str) -> list[list[tuple[float, float]]]:
    return [[tuple(map(float, point.split())) for point in ring.split("L")] for ring in re.findall(r"M([^Z]*)Z", path)]  # type: ignore[misc]


def test_the_outline_of_a_rectangle_by_hand_and_holes_stay_open() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    (ring,) = polygon_of(outline(mask))
    # Corners are cut by half a pixel; the edges lie on the edges of the pixels: columns 2 to 7, rows 1 to 4.
    assert {x for x, _ in ring} == {2, 2.5, 6.5, 7}
    assert {y for _, y in ring} == {1, 1.5, 3.5, 4}
    mask[2, 4] = False
    assert len(polygon_of(outline(mask))) == 2
    assert outline(np.zeros((3, 3), bool)) == ""


def test_marks_are_told_apart_by_colour_blind_readers_and_in_black_and_white() -> None:
    mask, truth = np.zeros((2, 9, 9), bool)
    mask[2:5, 2:5], truth[3:7, 3:7] = True, True
    assert re.findall(r'class="(\w+)"', marks(mask, truth)) == ["found", "false", "missed", "mask", "truth"]
    assert re.findall(r'class="(\w+)"', marks(mask, None)) == ["mask"]
    assert re.findall(r'class="(\w+)"', marks(mask, mask)) == ["found", "mask", "truth"]
    # Brettel, Vienot and Mollon 1997, as Vienot, Brettel and Mollon 1999 simplify it: linear RGB without the red-green channel.
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in MARKS.values()]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for kept in ([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
                 [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]):  # fmt: skip
        seen = np.clip(linear @ np.array(kept).T, 0, 1)
        for i in range(3):
            for j in range(i):
                assert np.abs(seen[i] - seen[j]).max() > 0.35, "protanopes and deuteranopes see a difference"


def test_an_example_is_shown_in_the_pixels_it_was_cut_from(tmp_path: Path) -> None:
    (example,) = load_examples(write_examples(tmp_path, ["a, slice 3, region 1"], ["best"])) or []
    ground, lesion = np.zeros((20, 30), np.float32), np.zeros((20, 30), bool)
    lesion[8:12, 8:12] = True

    def lift(values: np.ndarray) -> np.ndarray:
        whole = np.zeros((20, 30), np.float32)
        whole[2:18, 4:20] = np.repeat(np.repeat(values, 2, 0), 2, 1)
        return whole

    native = NativeSlice(ground, lesion, lift, "a, slice 3, kidney_left", ("R", "L"), 2.0)
    pictures = figures(example, 1.0, native)
    assert list(pictures) == ["input", "counterfactual", "difference", "mask against truth"]
    assert all('viewBox="0 0 30 40"' in picture for picture in pictures.values()), "pixels twice as high as wide"
    assert ">R</text>" in pictures["input"]
    over = pictures["mask against truth"]
    (mask,) = polygon_of(re.findall(r'class="mask" d="([^"]*)"', over)[0])
    assert (min(x for x, _ in mask), max(x for x, _ in mask)) == (4 + 2 * 2, 4 + 2 * 6), "the prepared mask, lifted"
    (truth,) = polygon_of(re.findall(r'class="truth" d="([^"]*)"', over)[0])
    assert (min(y for _, y in truth), max(y for _, y in truth)) == (8, 12), "the truth of the file, not the prepared one"
    page = write_report(tmp_path, manifest(), find=lambda name: native).read_text(encoding="utf-8")
    assert "a, slice 3, kidney_left" in text_of(page)


def test_an_image_with_a_lesion_is_not_normal_among_patients_whatever_its_label(tmp_path: Path) -> None:
    lines = ["case,patient,label,mask_px,doubtful,truth_px,dice", "a,anna,0,10,0,10,1.0", "b,anna,0,0,,0,"]
    file = tmp_path / "slices.csv"
    file.write_text("\n".join(lines) + "\n")
    (anna,) = patients_of(file)
    assert (anna["images"], anna["abnormal"], anna["normal"], anna["marked"], anna["dice"]) == (2, 1, 1, 0.0, 1.0)


def test_the_table_of_patients_says_that_it_counts_tiles(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "slices.csv").write_text("case,patient,label,mask_px,doubtful,truth_px,dice\na,anna,1,10,0,10,1.0\n")
    scores = dict.fromkeys(("slices_abnormal", "slices_scored", "slices_normal"))
    assert "Images (abnormal)" in text_of(page_of(tmp_path))
    told = text_of(page_of(tmp_path, scores=scores | {"of_tiles": ["cv"]}, settings={"data": {"tile": 32}}))
    assert "Tiles (abnormal)" in told
    assert "counted by their tiles here" in told


def test_patients_are_numbered_and_the_worst_comes_first(tmp_path: Path) -> None:
    lines = [
        "case,patient,slice,region,label,f,f_counterfactual,posterior,mask_px,confidence,doubtful,truth_px,dice",
        "a1,SECRET^ANNA,0,-1,1,0.9,,,10,0.9,0,12,0.5", "a2,SECRET^ANNA,0,-1,1,0.9,,,0,,,9,0.0",
        "a3,SECRET^ANNA,0,-1,0,0.2,,,5,0.4,1,0,0",
        "b1,bob,0,-1,1,0.9,,,10,0.3,1,12,0.1", "c1,carl,0,-1,0,0.1,,,0,,,0,",
    ]  # fmt: skip
    file = tmp_path / "evaluation" / "slices.csv"
    file.parent.mkdir()
    file.write_text("\n".join(lines) + "\n")
    rows = patients_of(file)
    assert [(row["number"], row["case"], row["dice"]) for row in rows] == [(2, "b1", 0.1), (1, "a1", 0.25), (3, "c1", None)]
    (anna,) = [row for row in rows if row["number"] == 1]
    assert (anna["images"], anna["abnormal"], anna["normal"], anna["lowest"], anna["found"]) == (3, 2, 1, 0.0, 0.5)
    assert (anna["marked"], anna["doubtful"], anna["masks"]) == (1.0, 1, 2)
    page = page_of(tmp_path)
    assert "2 b1 1 (1) 0.10 0.10 100% – 1 of 1 1 a1 3 (2) 0.25 0.00 50% 100% 1 of 2" in text_of(page)
    assert "SECRET" not in page
    file.write_text("case\nx\n")
    assert patients_of(file) == patients_of(tmp_path / "none.csv") == []
