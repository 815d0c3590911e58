"""Numbers by hand; what is bold is the best; every format is read back and says the same."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinseg.errors import UserError
from coinseg.thesis.tables import orderings, summarise, write_table

COLUMNS = {"fid": ("FID", "down", ".4f"), "cv": ("CV", "up", ".1%"), "iou": ("IoU", "up", ".3f")}
NOTES = ["The replica protocol chooses its threshold with the masks & 100% of them.", "A | B"]


def record(method: str, **changes: Any) -> dict[str, Any]:
    """What one method scored with three seeds."""
    return {
        "method": method,
        "title": f"title of {method}",
        "settings": "skips 0, masks yes",
        "protocol": "replica",
        "set": "phantom-blob",
        "seeds": 3,
        "scores": {"iou": [0.5, 0.6, 0.7], "cv": [1.0, 1.0, None], "fid": [None, None, None]},
        "thesis": {},
        "seconds": [1.0, 2.0, 6.0],
    } | changes


def records() -> list[dict[str, Any]]:
    """Two protocols, two sets, a method with one seed, and values that are missing or no number."""
    better = {"iou": [0.7, 0.7, 0.7], "cv": [0.5, 0.5, 0.5], "fid": [0.003, 0.003, float("nan")]}
    return [
        record("A", title="Singla et al.*", thesis={"iou": 0.02, "fid": 1.619}),
        record("COIN", scores=better, thesis={"iou": 0.646}),
        record("A", protocol="honest"),
        record("A", set="tumour_1", seeds=1, scores={"iou": [0.25]}),
    ]


def written(folder: Path, given: list[dict[str, Any]], **changes: Any) -> dict[str, str]:
    """Everything `write_table` writes, by suffix."""
    how = {"title": "Table 1", "columns": COLUMNS, "notes": NOTES} | changes
    paths = write_table(folder, "table1", how["title"], given, how["columns"], how["notes"])
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in paths)
    return {p.suffix[1:]: p.read_text(encoding="utf-8") for p in paths}


def cells(markdown: str) -> list[list[str]]:
    """The cells of all rows of all tables."""
    return [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]


def test_rows_by_hand() -> None:
    row, other, *_ = summarise(records())
    assert {name: row[name] for name in ("method", "title", "protocol", "set", "seeds")} == {
        "method": "A",
        "title": "Singla et al.*",
        "protocol": "replica",
        "set": "phantom-blob",
        "seeds": 3,
    }
    # Deviations of 0.1, 0 and 0.1 from 0.6: 0.02 over n - 1 = 2 is 0.01, its root 0.1.
    assert row["iou_mean"] == pytest.approx(0.6)
    assert row["iou_sd"] == pytest.approx(0.1)
    assert (row["iou_n"], row["iou_thesis"], row["seconds_mean"]) == (3, 0.02, 3.0)
    assert (row["cv_mean"], row["cv_sd"], row["cv_n"]) == (1.0, 0.0, 2)
    assert (row["fid_mean"], row["fid_sd"], row["fid_n"], row["fid_thesis"]) == (None, None, 0, 1.619)
    assert "cv_thesis" not in row
    assert (other["fid_mean"], other["fid_n"]) == (0.003, 2), "what is not finite is no value"
    assert other["iou_mean"] == 0.7, "three times the same is the same"


def test_one_value_has_no_deviation() -> None:
    row = summarise([record("A", seeds=1, scores={"iou": [np.float32(0.25)]}, thesis={"cv": 0.9}, seconds=[])])[0]
    assert (row["iou_mean"], row["iou_sd"], row["iou_n"]) == (0.25, None, 1)
    assert (row["cv_mean"], row["cv_n"], row["cv_thesis"]) == (None, 0, 0.9), "the thesis has it, we have not"
    assert row["seconds_mean"] is None
    with pytest.raises(ValueError, match="A: 2 values of iou for 3 seeds"):
        summarise([record("A", scores={"iou": [1.0, 2.0]})])


def test_markdown_says_it(tmp_path: Path) -> None:
    text = written(tmp_path, records())["md"]
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Table 1",
        "## Protocol: replica",
        "## Protocol: honest",
    ]
    assert "Set phantom-blob; 3 seeds, mean ± sample standard deviation." in text
    assert "Set tumour\\_1; 1 seed." in text
    assert cells(text)[:4] == [
        ["method", "what it is", "FID ↓", "thesis", "CV ↑", "IoU ↑", "thesis"],
        ["---", "---", *["---:"] * 5],
        ["A", "Singla et al.\\*; skips 0, masks yes", "–", "(1.6190)",
            "**100.0% ± 0.0% (n = 2)**", "0.600 ± 0.100", "(0.020)"],
        [
            "COIN", "title of COIN; skips 0, masks yes", "**0.0030 ± 0.0000 (n = 2)**", "", "50.0% ± 0.0%",
            "**0.700 ± 0.000**", "(0.646)",
        ],
    ]  # fmt: skip
    assert cells(text)[6] == ["A", "title of A; skips 0, masks yes", "**0.250**"], "columns of nothing are left out"
    assert text.endswith("- A \\| B\n")


def test_the_best_is_bold_by_direction_and_ties_are_both(tmp_path: Path) -> None:
    values = {"A": 0.50001, "B": 0.4, "C": 0.50002}
    given = [record(name, seeds=1, scores={"s": [value], "missing": [None]}) for name, value in values.items()]
    for direction, best in {"up": ["A", "C"], "down": ["B"], "": []}.items():
        columns = {"s": ("S", direction, ".3f"), "missing": ("M", direction, ".3f")}
        made = written(tmp_path, given, columns=columns)
        assert [row[0] for row in cells(made["md"]) if "**" in row[2]] == best, "equal as printed is equal"
        assert [line[2] for line in made["tex"].splitlines() if "textbf" in line] == best
        assert {len(row) for row in cells(made["md"])} == {3}, "a column nobody has a number in is left out"


def test_what_marks_nothing_is_never_the_best(tmp_path: Path) -> None:
    def scored(iou: float | None, flip: float, area: float) -> dict[str, Any]:
        return {"seeds": 1, "scores": {"iou": [iou], "flip_rate": [flip], "area": [area]}}

    columns = {"iou": ("IoU", "up", ".3f"), "flip_rate": ("flips", "up", ".3f"), "area": ("area", "down", ".4f")}
    given = [
        record("nothing", **scored(0.0, 0.0, 0.0)), record("some", **scored(0.4, 0.5, 0.01)),
        record("more", **scored(0.3, 0.4, 0.02)), record("alike", **scored(0.0, 0.0, 0.01)),
        record("unscored", set="no masks", **scored(None, 0.0, 0.0)), record("turns", set="no masks", **scored(None, 0.7, 0.3)),
        record("all nothing", set="worthless", **scored(0.0, 0.0, 0.0)), record("too", set="worthless", **scored(0.0, 0.0, 0.0)),
    ]  # fmt: skip
    made = cells(written(tmp_path, given, columns=columns)["md"])
    bold = {row[0]: sum("**" in cell for cell in row) for row in made if row[0] not in ("method", "---")}
    others = dict.fromkeys(("nothing", "more", "alike", "unscored", "all nothing", "too"), 0)
    assert bold == others | {"some": 3, "turns": 2}


def test_csv_is_read_back(tmp_path: Path) -> None:
    given = [*records(), record("=HYPERLINK(1)", title='@a, "b"\nc', settings="-0.5")]
    text = written(tmp_path, given)["csv"]
    with (tmp_path / "table1.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    rows = summarise(given)
    assert len(found) == len(rows)
    for line, row in zip(found[:-1], rows[:-1], strict=True):
        for name, cell in line.items():
            value = row.get(name)
            assert cell == ("" if value is None else value if isinstance(value, str) else repr(value)), name
    assert (found[-1]["method"], found[-1]["title"]) == ("'=HYPERLINK(1)", '\'@a, "b"\nc')
    assert found[-1]["settings"] == "-0.5", "a number is no formula"
    assert not re.search(r"(^|,)\"?[=@+]", text, re.M)


def test_json_is_read_back(tmp_path: Path) -> None:
    text = written(tmp_path, records())["json"]
    whole = json.loads(text, parse_constant=lambda name: pytest.fail(f"JSON has no {name}"))
    assert list(whole) == ["table", "title", "rows", "per_seed", "notes"]
    assert (whole["table"], whole["title"], whole["notes"]) == ("table1", "Table 1", NOTES)
    assert whole["rows"] == summarise(records())
    assert whole["per_seed"][1]["scores"]["fid"] == [0.003, 0.003, None]
    assert whole["per_seed"][0] == records()[0]


def test_tex_is_balanced_and_escaped(tmp_path: Path) -> None:
    title = r"50% of a_b & #1 {x} \end{table} ~ ^ $y$ λ <"
    text = written(tmp_path, [record("[1]", title=title), record("*", title="plain")], title=title)["tex"]
    escaped = r"50\% of a\_b \& \#1 \{x\} \textbackslash{}end\{table\} \textasciitilde{} \textasciicircum{} \$y\$ $\lambda$ $<$"
    assert text.count(escaped) == 2
    bare = re.sub(r"\\[{}$%&#_\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert [line for line in bare.splitlines() if "%" in line] == ["% usepackage{booktabs}".replace("use", "\\use")]
    assert "_" not in bare
    assert "#" not in bare
    assert text.isascii(), "no package for other letters is needed"
    for command in ("begin", "end"):
        assert len(re.findall(rf"\\{command}{{tabular}}", text)) == 1
    rows = [line for line in bare.splitlines() if " & " in line]
    assert len(rows) == 3
    assert {row.count("&") for row in rows} == {3}, "four columns, as the tabular says"
    assert r"\begin{tabular}{lp{0.3\linewidth}rr}" in text
    assert "CV $\\uparrow$" in text
    assert r"\textbf{100.0\% $\pm$ 0.0\% (n = 2)}" in text
    assert all(row.startswith("{}") for row in rows), r"[ after \\ would be read as a length"


def test_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results for table1"):
        written(tmp_path, [])
    with pytest.raises(ValueError, match="A comes twice: protocol replica, set phantom-blob"):
        written(tmp_path, [record("A"), record("A")])
    with pytest.raises(ValueError, match="format"):
        written(tmp_path, [record("A")], columns={"iou": ("IoU", "up", "no format")})
    assert not list(tmp_path.iterdir())


def test_records_are_left_alone(tmp_path: Path) -> None:
    given = records()
    first = written(tmp_path, given)
    assert repr(given) == repr(records())
    assert written(tmp_path, given) == first


def test_orderings_by_hand() -> None:
    given = [
        record("A", scores={"iou": [0.1, 0.5, None], "fid": [3.0, 3.0, 3.0]}),
        record("B", scores={"iou": [0.4, 0.4, 0.4], "fid": [1.0, 3.0, 2.0]}),
        record("C", scores={"iou": [None, None, None], "fid": [3.0, 3.0, 3.0]}),
        record("A", protocol="honest"),
    ]
    pairs = [("A", "B", "skips help"), ("B", "A", "skips harm"), ("A", "C", "unknown")]
    found = orderings(given, "iou", pairs)
    assert [(f["protocol"], f["statement"]) for f in found] == [(p, s) for p in ("replica", "honest") for _, _, s in pairs]
    assert [f["holds"] for f in found] == [True, False, None, None, None, None]
    # 0.4 against (0.1 + 0.5) / 2; B is better in the first of the two seeds that both have.
    assert found[0]["by"] == pytest.approx(0.1)
    assert [(f["seeds_held"], f["seeds"]) for f in found[:3]] == [(1, 2), (1, 2), (0, 0)]
    lower = orderings(given, "fid", pairs, direction="down")
    assert (lower[0]["holds"], lower[0]["by"], lower[0]["seeds_held"], lower[0]["seeds"]) == (True, 1.0, 2, 3)
    assert (lower[2]["holds"], lower[2]["by"]) == (False, 0.0), "equal is not better"
