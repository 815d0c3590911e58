"""Tables 1, 2 and 3 of the thesis: every row as changes to the settings of a scale."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from coinseg.config.parsing import PRESETS
from coinseg.config.schema import AnomalySettings, AttributionSettings, Settings

Scale = Literal["small", "paper"]
Figures = tuple[float | None, float | None, float | None]  # FID, CV, IoU; None where there is none
_DEFAULT, _THESIS = PRESETS["default"], PRESETS["thesis"]

SCALES: dict[str, Settings] = {
    # For two CPU cores: the recipe of `coinseg run` on small slices with few steps, but with the fusion tanh(X + delta) and both
    # terms of L_idt of the thesis; template and share of the peak are those of docs/research/thesis.md.
    "small": replace(
        _DEFAULT, data=replace(_DEFAULT.data, size=48), anomaly=AnomalySettings(template=15),
        classifier=replace(_DEFAULT.classifier, name="small", steps=400), attribution=AttributionSettings(masks=300),
        coin=replace(_DEFAULT.coin, fusion="tanh", identity=2.0, cycle=2.0, steps=300), masks=replace(_DEFAULT.masks, peak=0.35),
    ),
    # 256x256 with the authors' networks, losses and lengths, for a GPU.
    "paper": _THESIS,
}  # fmt: skip

# The differences of Singla et al. to COIN (runs of the authors: KL weight 1, no total variation).
SINGLA: dict[str, dict[str, Any]] = {"small": {"conditions": 2, "tv": 0.0}}
SINGLA["paper"] = {**SINGLA["small"], "classifier": 1.0}


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    title: str  # its description
    coin: dict[str, Any] = field(default_factory=dict)  # changes to the settings `coin`
    singla: bool = False  # whether the changes of `SINGLA` come first
    method: str = "counterfactual"  # "counterfactual" or an attribution
    layer: str = "last"  # of an attribution; "each" makes one row for each layer of f
    thesis: dict[str, Figures] = field(default_factory=dict)  # data set -> the figures of the thesis


def _totalsegmentator(fid: float | None, cv: float | None, iou: float) -> dict[str, Figures]:
    return {"synthetic": (fid, cv, iou)}


CARL = {"regions": "organ"}
COIN = Row("COIN", thesis={"synthetic": (0.0029, 0.997, 0.646), "real": (0.036, 0.980, 0.432)})
SINGLA_STAR = Row(
    "Singla et al.*: G without perturbation", {"skips": 4, "fusion": "none"}, True,
    thesis={"synthetic": (0.0466, 0.998, 0.445), "real": (0.203, 0.992, 0.352)},
)  # fmt: skip

TABLES: dict[str, dict[str, Row]] = {
    "table1": {
        "A": Row("Singla et al.", {**CARL, "skips": 0, "fusion": "none"}, True, thesis=_totalsegmentator(1.6190, 0.992, 0.020)),
        "B": Row("A with perturbation", {**CARL, "skips": 0}, True, thesis=_totalsegmentator(0.5500, 0.934, 0.086)),
        "C": Row("B with 1 skip connection", {**CARL, "skips": 1}, True, thesis=_totalsegmentator(0.3254, 0.968, 0.284)),
        "D": Row("C with 2 skip connections", {**CARL, "skips": 2}, True, thesis=_totalsegmentator(0.1751, 0.933, 0.480)),
        "E": Row("D with 3 skip connections", {**CARL, "skips": 3}, True, thesis=_totalsegmentator(0.0849, 0.961, 0.463)),
        "F": Row("E with 4 skip connections", {**CARL, "skips": 4}, True, thesis=_totalsegmentator(0.0253, 0.9542, 0.509)),
        "G": Row("F without segmentation masks", {"skips": 4}, True, thesis=_totalsegmentator(0.0493, 0.996, 0.528)),
        "H": SINGLA_STAR,
        "COIN": COIN,
    },
    "table2": {
        "ScoreCAM": Row("last layer", method="scorecam", thesis={"synthetic": (None, None, 0.030), "real": (None, None, 0.293)}),
        "ScoreCAM each": Row("", method="scorecam", layer="each"),
        "ScoreCAM best": Row("layer chosen without masks", method="scorecam", layer="best"),
        "LayerCAM": Row("last layer", method="layercam", thesis={"synthetic": (None, None, 0.026), "real": (None, None, 0.296)}),
        "LayerCAM each": Row("", method="layercam", layer="each"),
        "LayerCAM best": Row("layer chosen without masks", method="layercam", layer="best"),
        "RISE": Row("random masks", method="rise", thesis={"synthetic": (None, None, 0.397), "real": (None, None, 0.294)}),
        "Singla et al.*": SINGLA_STAR,
        "COIN": COIN,
    },
    "table3": {
        "idt = 0": Row("no self-consistency", {"identity": 0.0, "cycle": 0.0}, thesis=_totalsegmentator(0.0024, 0.997, 0.500)),
        "f = 0": Row("no classifier consistency", {"classifier": 0.0}, thesis=_totalsegmentator(0.0032, 0.642, 0.424)),
        "tv = 0": Row("no total variation", {"tv": 0.0}, thesis=_totalsegmentator(0.0178, 0.997, 0.427)),
        "COIN": COIN,
        # Not in the thesis: what `coinseg run` does when nobody sets anything.
        "coinseg": Row("fusion exactly the identity at 0, no cyclic term", {"fusion": "bounded", "identity": 4.0, "cycle": 0.0}),
    },
}  # fmt: skip

# Orderings the thesis states: (worse, better, words).
ORDERINGS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "table1": (
        ("A", "B", "perturbation helps Singla et al."),
        ("B", "C", "the first skip connection helps"),
        ("C", "D", "the second skip connection helps"),
        ("B", "F", "skip connections help"),
        ("F", "G", "doing without masks helps"),
        ("H", "G", "perturbation helps with skip connections"),
        ("G", "COIN", "one condition is better than two"),
        ("A", "COIN", "COIN is better than Singla et al."),
    ),
    "table2": (
        ("ScoreCAM", "RISE", "RISE is better than ScoreCAM at the last layer"),
        ("LayerCAM", "RISE", "RISE is better than LayerCAM at the last layer"),
        ("RISE", "Singla et al.*", "Singla et al.* is better than RISE"),
        ("Singla et al.*", "COIN", "COIN is better than Singla et al.*"),
        ("RISE", "COIN", "COIN is better than RISE"),
    ),
    "table3": (
        ("idt = 0", "COIN", "self-consistency helps"),
        ("f = 0", "COIN", "classifier consistency helps"),
        ("tv = 0", "COIN", "total variation helps"),
    ),
}


def settings_of(row: Row, base: Settings, scale: Scale) -> Settings:
    """The settings of a row; rows with equal settings share one result.

    Args:
        row: its changes; `skips` is limited to the number of levels.
        base: the settings of the scale with the changes of the user.
        scale: selects the changes of `SINGLA`.
    """
    changes = {**(SINGLA[scale] if row.singla else {}), **row.coin}
    if "skips" in changes:
        changes["skips"] = min(changes["skips"], base.coin.depth - 1)
    layer = base.attribution.layer if row.layer == "each" else row.layer
    attribution = replace(base.attribution, layer=layer)
    return replace(base, method=row.method, coin=replace(base.coin, **changes), attribution=attribution)
