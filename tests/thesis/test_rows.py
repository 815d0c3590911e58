"""The rows of the tables: the figures that the thesis prints, and what each row changes."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from coinseg.config.parsing import PRESETS
from coinseg.config.schema import AnomalySettings
from coinseg.thesis.rows import ORDERINGS, SCALES, SINGLA, TABLES, Row, settings_of

PRINTED = """
table1  A               1.6190  0.992   0.020
table1  B               0.5500  0.934   0.086
table1  C               0.3254  0.968   0.284
table1  D               0.1751  0.933   0.480
table1  E               0.0849  0.961   0.463
table1  F               0.0253  0.9542  0.509
table1  G               0.0493  0.996   0.528
table1  H               0.0466  0.998   0.445
table1  COIN            0.0029  0.997   0.646
table2  ScoreCAM        -       -       0.030
table2  LayerCAM        -       -       0.026
table2  RISE            -       -       0.397
table2  Singla_et_al.*  0.0466  0.998   0.445
table2  COIN            0.0029  0.997   0.646
table3  idt_=_0         0.0024  0.997   0.500
table3  f_=_0           0.0032  0.642   0.424
table3  tv_=_0          0.0178  0.997   0.427
table3  COIN            0.0029  0.997   0.646
"""
"""FID, CV and IoU on synthetic anomalies (tables 1 to 3 of the thesis; the last FID of table 2 are rounded there)."""
PRINTED_REAL = """
table2  ScoreCAM        -       -       0.293
table2  LayerCAM        -       -       0.296
table2  RISE            -       -       0.294
table2  Singla_et_al.*  0.203   0.992   0.352
table2  COIN            0.036   0.980   0.432
"""
"""On real tumours (table 2, Tartu University Hospital)."""


def read(printed: str) -> dict[tuple[str, str], tuple[float | None, ...]]:
    lines = [line.split() for line in printed.strip().splitlines()]
    return {
        (table, row.replace("_", " ")): tuple(None if word == "-" else float(word) for word in figures)
        for table, row, *figures in lines
    }


@pytest.mark.parametrize(("kind", "printed"), [("synthetic", PRINTED), ("real", PRINTED_REAL)])
def test_the_figures_beside_the_rows_are_those_that_the_thesis_prints(kind: str, printed: str) -> None:
    ours = {(t, name): row.thesis[kind] for t, rows in TABLES.items() for name, row in rows.items() if kind in row.thesis}
    wanted = read(printed)
    assert {place: ours.get(place) for place in wanted} == wanted
    # H and COIN are rows of several tables, with the same figures in each.
    twice = {("table1", "H"), ("table1", "COIN"), ("table3", "COIN")} if kind == "real" else set()
    assert set(ours) - set(wanted) == twice


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_singla_et_al_differ_from_coin_by_two_conditions_and_no_total_variation(scale: str) -> None:
    base = SCALES[scale]
    made = settings_of(Row("x", singla=True), base, scale)  # type: ignore[arg-type]
    changed = {name: value for name, value in asdict(made.coin).items() if value != asdict(base.coin)[name]}
    assert changed == {"conditions": 2, "tv": 0.0} | ({"classifier": 1.0} if scale == "paper" else {})
    assert SINGLA[scale] == changed
    own = settings_of(Row("x", {"tv": 0.5, "conditions": 3}, singla=True), base, scale)  # type: ignore[arg-type]
    assert (own.coin.tv, own.coin.conditions) == (0.5, 3)  # what a row says comes last
    assert settings_of(Row("x"), base, scale) == replace(base, attribution=replace(base.attribution, layer="last"))  # type: ignore[arg-type]


def test_the_scales() -> None:
    small, default, thesis = SCALES["small"], PRESETS["default"], PRESETS["thesis"]
    assert (small.data.size, small.anomaly, small.attribution.masks) == (48, AnomalySettings(template=15), 300)
    assert small.classifier == replace(default.classifier, name="small", steps=400)
    assert small.coin == replace(default.coin, fusion="tanh", identity=2.0, cycle=2.0, steps=300)
    assert small.masks == replace(default.masks, peak=0.35)
    assert SCALES["paper"] == thesis


def test_table_1_goes_from_singla_et_al_to_coin_by_one_change_a_row() -> None:
    skips = {"A": 0, "B": 0, "C": 1, "D": 2, "E": 3, "F": 4, "G": 4, "H": 4}
    with_masks = {name: {"regions": "organ"} if name in "ABCDEF" else {} for name in skips}
    wanted = {name: {**with_masks[name], "skips": skips[name]} | ({"fusion": "none"} if name in "AH" else {}) for name in skips}
    rows = TABLES["table1"]
    assert {name: row.coin for name, row in rows.items()} == wanted | {"COIN": {}}
    assert [name for name, row in rows.items() if not row.singla] == ["COIN"]
    assert [row.title for row in rows.values()][1:7] == [
        "A with perturbation", "B with 1 skip connection", "C with 2 skip connections", "D with 3 skip connections",
        "E with 4 skip connections", "F without segmentation masks",
    ]  # fmt: skip


def test_table_3_takes_away_one_term_at_a_time() -> None:
    rows = {name: row.coin for name, row in TABLES["table3"].items()}
    assert rows == {
        "idt = 0": {"identity": 0.0, "cycle": 0.0}, "f = 0": {"classifier": 0.0}, "tv = 0": {"tv": 0.0}, "COIN": {},
        "coinseg": {"fusion": "bounded", "identity": 4.0, "cycle": 0.0},
    }  # fmt: skip
    bare = PRESETS["default"].coin
    assert {name: getattr(bare, name) for name in rows["coinseg"]} == rows["coinseg"]  # what nobody sets


def test_table_2_has_each_attribution_at_its_last_each_and_best_layer() -> None:
    rows = {name: (row.method, row.layer) for name, row in TABLES["table2"].items()}
    assert rows == {
        "ScoreCAM": ("scorecam", "last"), "ScoreCAM each": ("scorecam", "each"), "ScoreCAM best": ("scorecam", "best"),
        "LayerCAM": ("layercam", "last"), "LayerCAM each": ("layercam", "each"), "LayerCAM best": ("layercam", "best"),
        "RISE": ("rise", "last"), "Singla et al.*": ("counterfactual", "last"), "COIN": ("counterfactual", "last"),
    }  # fmt: skip
    base = SCALES["small"]
    kept = settings_of(TABLES["table2"]["ScoreCAM each"], base, "small")
    assert kept.attribution.layer == base.attribution.layer


def test_orderings_are_those_of_the_figures_that_are_printed() -> None:
    """The thesis says that each step helps; of its own figures on synthetic anomalies one step (to a third skip) does not."""
    for table, pairs in ORDERINGS.items():
        for worse, better, words in pairs:
            figures = [TABLES[table][name].thesis["synthetic"][2] for name in (worse, better)]
            assert figures[0] < figures[1], words  # type: ignore[operator]
    assert {(worse, better) for worse, better, _ in ORDERINGS["table1"]} >= {("A", "B"), ("F", "G"), ("G", "COIN")}
