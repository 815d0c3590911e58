"""The case pages and review.csv: what is on the page is what is on the disk, and a decision reaches the desk or says why not."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desks import masks_folder
from PIL import Image

from coinseg.cli.main import main
from coinseg.data.readers.volume import read_geometry
from coinseg.errors import UserError
from coinseg.review.decisions import COLUMNS, decision_table, import_decisions
from coinseg.review.desk import Desk, Rules, desk_on
from coinseg.review.explanations import SliceMaps
from coinseg.review.offline import HU, Limits, codes, is_of, ranked, runs, slices_by_worth, write_case_pages
from coinseg.review.scans import open_scan, read_region_of
from coinseg.review.sources import Draft, Source, read_source


def unpacked(packed: str, shape: tuple[int, ...]) -> np.ndarray:
    """What the page makes of `runs`, written from the definition of LEB128."""
    lengths, value, shift = [], 0, 0
    for byte in base64.b64decode(packed):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            lengths.append(value)
            value = shift = 0
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(shape) if lengths else np.zeros(shape, bool)


def data_of(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    return found


@pytest.fixture
def source(tmp_path: Path) -> Source:
    masks_folder(tmp_path, cases=3, images=1, colour=True)
    return read_source(tmp_path / "masks")


def page_of(source: Source, out: Path, **more: Any) -> dict[str, Any]:
    write_case_pages(out, source, **more)
    return data_of(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("seed", range(6))
def test_runs_of_a_mask_are_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 300)) < (0, 0.01, 0.5, 1, 0.001, 0.9)[seed]
    np.testing.assert_array_equal(unpacked(runs(mask), mask.shape), mask)
    assert runs(np.array([[True, False, False], [False, False, True]])) == base64.b64encode(bytes([0, 1, 4, 1])).decode()


def test_grey_values_are_fine_in_soft_tissue_and_within_a_step_everywhere() -> None:
    values = np.linspace(-1200, 1700, 500)[None]
    grey = codes(values, HU)[0].astype(float)
    assert (np.diff(grey) >= 0).all()
    back = np.interp(grey, [g for _, g in HU], [v for v, _ in HU])
    inside = (values[0] >= -1024) & (values[0] <= 1500)
    assert np.abs(back - values[0])[inside].max() < 17
    assert np.abs(back - values[0])[np.abs(values[0]) <= 200].max() < 1.6


def test_the_slices_of_a_small_page_are_the_first_one_then_marked_ones_then_their_neighbours() -> None:
    areas = np.zeros(40, int)
    areas[10:20] = [1, 2, 3, 9, 8, 7, 6, 5, 4, 3]
    order = slices_by_worth(areas, 13)
    assert order[0] == 13
    assert sorted(order[:10]) == list(range(10, 20))
    assert sorted(order[10:14]) == [8, 9, 20, 21]
    assert sorted(order) == list(range(40))
    assert np.diff(sorted(slices_by_worth(np.ones(64, int), 0)[:9])).max() == 8, "every beginning is spread"
    assert slices_by_worth(np.zeros(1, int), 0) == [0]


def test_the_page_has_every_mask_exactly_and_doubtful_cases_first(source: Source, tmp_path: Path) -> None:
    data = page_of(source, tmp_path / "p.html")
    assert [one["id"] for one in data["cases"]] == [record.id for record in ranked(source)]
    assert data["cases"][0]["numbers"]["doubtful"]
    drafts = {draft.record.id: draft for draft in source.drafts}
    for one in data["cases"]:
        draft = drafts[one["id"]]
        opened = open_scan(draft)
        mask = read_region_of(draft.mask, opened.geometry, opened.shape)
        assert [s["at"] for s in one["slices"]] == list(range(len(mask)))
        for s in one["slices"]:
            np.testing.assert_array_equal(unpacked(s["mask"], mask.shape[1:]), mask[s["at"]])
        picture = Image.open(io.BytesIO(base64.b64decode(one["slices"][one["first"]]["image"])), formats=["WEBP"])
        assert picture.size == (mask.shape[2], mask.shape[1]), "native pixels"
    scan, picture = next(one for one in data["cases"] if one["volume"]), next(one for one in data["cases"] if not one["volume"])
    geometry = read_geometry(drafts[scan["id"]].image)
    assert (scan["aspect"], scan["apart"]) == (geometry.spacing[1] / geometry.spacing[2], geometry.spacing[0])
    assert picture["colour"]


def test_a_small_page_has_fewer_slices_of_each_and_says_how_many_there_are(source: Source, tmp_path: Path) -> None:
    whole = page_of(source, tmp_path / "a.html")
    size = (tmp_path / "a.html").stat().st_size
    small = page_of(source, tmp_path / "b.html", limits=Limits(megabytes=0.02))
    assert (tmp_path / "b.html").stat().st_size < size
    for large, one in zip(whole["cases"], small["cases"], strict=True):
        assert one["shape"] == large["shape"]
        assert one["first"] in [s["at"] for s in one["slices"]]
        assert min(3, len(large["slices"])) <= len(one["slices"]) <= len(large["slices"])
    assert any(len(one["slices"]) < one["shape"][0] for one in small["cases"])
    two = page_of(source, tmp_path / "c.html", limits=Limits(cases=2))
    assert ([one["id"] for one in two["cases"]], two["total"]) == ([one["id"] for one in whole["cases"][:2]], 4)


def test_a_scan_that_is_gone_costs_its_own_place_only(source: Source, tmp_path: Path) -> None:
    source.drafts[0].image.unlink()
    written = write_case_pages(tmp_path / "p.html", source)
    assert (written.cases, len(written.left_out)) == (3, 1)
    assert "is gone" in written.left_out[0]


def test_the_counterfactual_is_of_the_slice_that_is_seen_first(source: Source, tmp_path: Path) -> None:
    asked = []

    def explain(draft: Draft, index: int) -> SliceMaps:
        asked.append((draft.record.id, index))
        if len(asked) == 2:
            raise UserError("nothing", "something", "wait")
        return SliceMaps(np.zeros((40, 48), np.float32), np.zeros((40, 48), np.float32), 0.9, 0.12345)

    written = write_case_pages(tmp_path / "p.html", source, explain=explain)
    data = data_of((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert written.unexplained == {asked[1][0]: "nothing; required: something; wait"}
    assert [(one["id"], one["first"]) for one in data["cases"]] == asked
    assert data["cases"][1]["said"] is None
    assert (data["cases"][0]["said"]["at"], data["cases"][0]["said"]["after"]) == (asked[0][1], 0.1235)


def test_nothing_on_the_page_runs_or_loads_but_its_own_script(source: Source, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>.nii.gz"
    page = tmp_path / "p.html"
    data = page_of(source, page, key="k1")
    text = page.read_text(encoding="utf-8")
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert len(policy) == 1
    assert "default-src &#39;none&#39;" in policy[0]
    assert "unsafe" not in policy[0]
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:|//)""", text)
    assert len(re.findall(r"<script", text)) == 2
    assert is_of(page, "k1")
    assert not is_of(page, "k2")
    assert not is_of(tmp_path / "none.html", "k1")
    from coinseg.review.offline import _page

    assert evil not in _page({"cases": [], "total": 0, "left_out": [evil]}, "")
    assert text == (write_case_pages(page, source, key="k1") and page.read_text(encoding="utf-8")), "the same again"
    assert len(data["cases"]) == 4


# --- review.csv


def table_of(source: Source, **decisions: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(decision_table(source, ranked(source)))))
    for row in rows:
        row["decision"] = decisions.get(row["case"].split(".")[0], "")
    return rows


def write_table(file: Path, rows: list[dict[str, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return file


def states(desk: Desk) -> dict[str, tuple[str, str, str]]:
    return {one.case: (one.reviewer, one.state, one.comment) for one in desk.store.decisions()}


def test_decisions_come_back_once_with_their_time_and_their_masks(source: Source, tmp_path: Path) -> None:
    rows = table_of(source, s00="Accept", s01="rejected", p00="not sure")
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        row |= {"comment": "'=1+1", "reviewer": "", "time": "2024-05-06T07:08:09+02:00", "seconds": "3.5"}
    rows[0]["reviewer"] = "bob"
    file = write_table(tmp_path / "review.csv", rows)
    with desk_on(source, None, Rules()) as desk:
        done = import_decisions(desk, file, "ann")
        alone = ["s02.nii.gz: it has a comment and no decision"]
        assert (done.taken, done.known, done.left_out) == (3, 0, alone)
        assert states(desk) == {
            "s00.nii.gz": ("bob", "accepted", "=1+1"), "s01.nii.gz": ("ann", "rejected", "=1+1"),
            "p00.png": ("ann", "unsure", "=1+1"),
        }  # fmt: skip
        (one,) = [one for one in desk.store.decisions() if one.case == "s00.nii.gz"]
        assert (one.time, one.seconds) == ("2024-05-06T05:08:09+00:00", 3.5)
        masks = {one.case: one.mask for one in desk.store.reviewed()}
        draft = source.drafts[0]
        np.testing.assert_array_equal(masks["s00.nii.gz"], read_region_of(draft.mask, read_geometry(draft.image), (12, 40, 48)))
        assert not masks["s01.nii.gz"].any()
        again = import_decisions(desk, file, "ann")
        assert (again.taken, again.known, again.left_out) == (0, 3, alone)
        assert len(desk.store.decisions()) == 3


def test_a_decision_about_another_mask_or_one_that_was_overtaken_is_left_out_and_says_so(source: Source, tmp_path: Path) -> None:
    rows = table_of(source, s00="accepted", s01="accepted", s02="accepted", p00="rejected")
    rows.append(rows[0] | {"case": "s99.nii.gz", "decision": "accepted"})
    for row in rows:
        row["time"], row["reviewer"] = "2024-05-06T07:08:09", "ann"
    drafts = {draft.record.id: draft for draft in source.drafts}
    file = write_table(tmp_path / "review.csv", rows)
    with desk_on(source, None, Rules()) as desk:
        mask = desk.editor.mask(drafts["s01.nii.gz"].key, "ann").copy()
        mask[0] = True
        desk.editor.replace(drafts["s01.nii.gz"].key, "ann", mask, "brush", "k1")
        desk.editor.decide(drafts["p00.png"].key, "ann", "accepted", "", 1, 0)
        before = drafts["s02.nii.gz"].mask.read_bytes()
        drafts["s02.nii.gz"].mask.write_bytes(drafts["s00.nii.gz"].mask.read_bytes())
        done = import_decisions(desk, file)
        drafts["s02.nii.gz"].mask.write_bytes(before)
        assert done.taken == 1
        said = dict(line.split(": ", 1) for line in done.left_out)
        assert "ann changed its mask on the desk" in said["s01.nii.gz"]
        assert "another than the one that was decided" in said["s02.nii.gz"]
        assert "ann decided it on the desk since" in said["p00.png"]
        assert said["s99.nii.gz"] == "no such case"
        assert states(desk)["p00.png"][1] == "accepted"


def test_a_table_that_comes_late_does_not_overrule_who_decided_since_and_a_comment_alone_is_named(
    source: Source, tmp_path: Path
) -> None:
    rows = table_of(source, s00="accepted", s01="accepted")
    for row in rows:
        row["time"], row["reviewer"] = "2024-05-06T07:08:09", "ann"
    next(row for row in rows if row["case"].startswith("s02"))["comment"] = "look again"
    drafts = {draft.record.id: draft for draft in source.drafts}
    (first,) = (row for row in rows if row["case"].startswith("s00"))
    rows.insert(0, first | {"decision": "unsure", "time": "2024-05-07T07:08:09"})  # two tables, the later one above
    with desk_on(source, None, Rules(second=1.0)) as desk:
        desk.editor.decide(drafts["s00.nii.gz"].key, "bob", "rejected", "", 1, 0)
        desk.editor.decide(drafts["s01.nii.gz"].key, "bob", "redraw", "", 1, 0)
        done = import_decisions(desk, write_table(tmp_path / "review.csv", rows))
        assert (done.taken, done.left_out) == (3, ["s02.nii.gz: it has a comment and no decision"])
        assert {one.case: (one.reviewer, one.state) for one in desk.store.reviewed()} == {"s00.nii.gz": ("bob", "rejected")}
        assert {one.state for one in desk.store.decisions() if (one.case, one.reviewer) == ("s00.nii.gz", "ann")} == {"unsure"}
        assert desk.summary()["agreement"] == []  # ann is not sure, and bob wants one redrawn


def test_a_table_without_times_counts_once_and_overrules_nobody_the_second_time(source: Source, tmp_path: Path) -> None:
    """A spreadsheet need not say when: every line was of now each time it was read, and the last to decide."""
    rows = [row | {"reviewer": "ann"} for row in table_of(source, s00="accepted", s01="unsure")]
    file = write_table(tmp_path / "review.csv", rows)
    drafts = {draft.record.id: draft for draft in source.drafts}
    with desk_on(source, None, Rules()) as desk:
        assert import_decisions(desk, file).taken == 2
        desk.store._connection.execute("UPDATE decisions SET time = '2024-05-06T07:08:09+00:00'")  # some days ago
        desk.editor.decide(drafts["s00.nii.gz"].key, "bob", "rejected", "", 1, 0)
        desk.editor.decide(drafts["s01.nii.gz"].key, "ann", "accepted", "", 1, 0)
        again = import_decisions(desk, file)
        since = "s01.nii.gz: ann decided it otherwise since; give the line a time, or decide it on the desk"
        assert (again.taken, again.known, again.left_out) == (0, 1, [since])
        assert {one.case: (one.reviewer, one.state) for one in desk.store.reviewed()} == {
            "s00.nii.gz": ("bob", "rejected"), "s01.nii.gz": ("ann", "accepted"),
        }  # fmt: skip
        other = write_table(tmp_path / "more.csv", table_of(source, s01="rejected"))
        assert import_decisions(desk, other, "ann").taken == 1  # what she never said before is of now
        rows = [row | {"reviewer": "ann", "time": "2999-01-01"} for row in table_of(source, p00="redraw")]
        file = write_table(tmp_path / "ahead.csv", rows)
        assert [import_decisions(desk, file).known for _ in range(2)] == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "perhaps"}, "row 2 of .* has the decision 'perhaps'; required: accepted, rejected"),
        ({"decision": "accepted"}, "row 2 of .* does not say who decided; required: a name of 1 to 60 letters"),
        ({"decision": "accepted", "reviewer": "x" * 61}, "row 2 of .* does not say who decided"),
        ({"time": "06/05/2024 7:08"}, r"row 2 of .* has the time '06/05/2024 7:08'; required"),
        ({"time": "0001-01-01T00:00:00+05:00"}, "row 2 of .* has the time '0001"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_taken(source: Source, tmp_path: Path, change: dict[str, str], message: str) -> None:
    rows = table_of(source)
    rows[0] |= change
    rows[1] |= {"decision": "accepted", "reviewer": "ann"}
    with desk_on(source, None, Rules()) as desk:
        with pytest.raises(UserError, match=message):
            import_decisions(desk, write_table(tmp_path / "review.csv", rows))
        assert desk.store.decisions() == []


def test_a_table_of_something_else_is_refused(source: Source, tmp_path: Path) -> None:
    (tmp_path / "review.csv").write_text("case,state\na,accepted\n")
    with desk_on(source, None, Rules()) as desk, pytest.raises(UserError, match="has no column draft"):
        import_decisions(desk, tmp_path / "review.csv", "ann")


def test_the_commands(source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks, page = str(tmp_path / "masks"), tmp_path / "cases.html"
    assert main(["review-page", masks, "-o", str(page), "--review.budget", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 cases in" in said
    assert "  without a counterfactual: 2 cases (the run that made the masks is not there)\n" in said
    assert len(data_of(page.read_text(encoding="utf-8"))["cases"]) == 2
    assert main(["review-page", masks, "-o", str(page)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["review-page", masks, "-o", str(page), "--overwrite", "--megabytes", "0"]) == 2
    file = write_table(tmp_path / "review.csv", table_of(source, s00="accepted"))
    assert main(["review-import", masks, str(file)]) == 2
    assert "does not say who decided" in capsys.readouterr().err
    assert main(["review-import", masks, str(file), "--reviewer", "ann"]) == 0
    assert "1 decisions taken, 0 were there already" in capsys.readouterr().out
    assert main(["review-import", masks, str(tmp_path / "none")]) == 2
    assert "is not there" in capsys.readouterr().err
    assert main(["review-import", masks, str(tmp_path / "scans")]) == 2
    assert "give --reviewer NAME" in capsys.readouterr().err
