"""Settings: names, nearest names, presets, what counts as a difference."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from coinseg.config.parsing import PRESETS, differences, setting_names, settings_from
from coinseg.config.reading import unknown
from coinseg.config.schema import AnomalySettings, DataSettings, EngineSettings, Settings
from coinseg.errors import UserError

THESIS = PRESETS["thesis"]


@pytest.mark.parametrize("name", PRESETS)
def test_settings_there_and_back_through_json(name: str) -> None:
    values = json.loads(json.dumps(PRESETS[name].as_dict()))
    assert settings_from(values) == PRESETS[name]


def test_missing_keys_keep_their_defaults() -> None:
    assert settings_from({}) == Settings()
    found = settings_from({"seed": 3, "coin": {"tv": 0.5}})
    assert found == replace(Settings(), seed=3, coin=replace(Settings().coin, tv=0.5))


def test_lists_become_tuples_of_words() -> None:
    found = settings_from({"data": {"organ": ["kidney_left", 2], "normal": ("a",)}})
    assert found.data.organ == ("kidney_left", "2")
    assert found.data.normal == ("a",)


@pytest.mark.parametrize(
    ("values", "got", "do"),
    [
        ({"coin": {"widht": 3}}, "coin.widht", "did you mean 'coin.width'?"),
        ({"masks": {"treshold": 3}}, "masks.treshold", "did you mean 'masks.threshold'?"),
        ({"data": {"roi_margn": 3}}, "data.roi_margn", "did you mean 'data.roi_margin'?"),
        ({"sed": 3}, "sed", "did you mean 'seed'?"),
        ({"coins": {}}, "coins", "did you mean 'coin'?"),
        ({"xyzzy": 1}, "xyzzy", "see --print_config"),
    ],
)
def test_unknown_key_names_the_nearest(values: dict[str, Any], got: str, do: str) -> None:
    with pytest.raises(UserError) as caught:
        settings_from(values)
    assert str(caught.value) == f"unknown setting '{got}'; required: a name that --print_config shows; {do}"


def test_a_right_leaf_in_the_wrong_place() -> None:
    assert unknown("width", setting_names()).do == "did you mean 'coin.width'?"
    assert unknown("model.widht", ["coin.width", "seed"]).do == "did you mean 'coin.width'?"


@pytest.mark.parametrize("value", [3, "width", None, [1]])
def test_a_section_that_is_no_mapping(value: object) -> None:
    with pytest.raises(UserError) as caught:
        settings_from({"coin": value})
    assert str(caught.value) == f"coin is {value!r}; required: a mapping of settings; see --print_config"


@pytest.mark.parametrize(
    "values",
    [
        {"seed": None},
        {"coin": {"width": "wide"}},
        {"coin": {"fusion": "sum"}},
        {"masks": {"threshold": "otzu"}},
        {"data": {"organ": "kidney_left"}},
    ],
)
def test_a_value_of_the_wrong_type(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        settings_from(values)


def test_a_key_that_is_a_number() -> None:
    with pytest.raises(UserError):
        settings_from({"coin": {1: 2}})


def test_names_are_dotted_and_complete() -> None:
    names = setting_names()
    assert len(names) == len(set(names))
    assert {"seed", "data.size", "anomaly.kind", "coin.width", "masks.threshold", "engine.threads"} <= set(names)
    assert not {"data", "coin"} & set(names)

    def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
        return [leaf for k, v in values.items() for leaf in (leaves(v, f"{prefix}{k}.") if isinstance(v, dict) else [prefix + k])]

    assert names == leaves(Settings().as_dict())


def test_differences() -> None:
    base = Settings()
    other = replace(base, seed=5, data=replace(base.data, size=128), masks=replace(base.masks, keep="all"))
    assert differences(base, base) == []
    assert differences(base, replace(base, data=DataSettings())) == []
    assert differences(base, other) == ["seed: 0 -> 5", f"data.size: {base.data.size} -> 128", "masks.keep: seeds -> all"]
    assert differences(other, base)[0] == "seed: 5 -> 0"


def test_the_engine_is_no_difference() -> None:
    base = Settings()
    other = replace(base, engine=replace(base.engine, accelerator="cuda", precision="bf16-mixed", threads=7, compile=True))
    assert base != other
    assert differences(base, other) == []


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().seed = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        THESIS.coin.tv = 1  # type: ignore[misc]


def test_the_thesis_counterfactuals() -> None:
    coin = THESIS.coin
    weights = {name: getattr(coin, name) for name in ("adversarial", "classifier", "identity", "cycle", "tv")}
    assert weights == {"adversarial": 1.0, "classifier": 5.0, "identity": 2.0, "cycle": 1.0, "tv": 0.05}
    assert (coin.width, coin.depth, coin.skips, coin.fusion) == (64, 5, 4, "tanh")
    assert (coin.discriminator_width, coin.discriminator_depth) == (64, 5)
    assert (coin.batch, coin.generator_every, coin.ema) == (16, 5, 0.0)
    assert (coin.lr, coin.beta1, coin.beta2) == (2e-4, 0.0, 0.9)


def test_the_thesis_data_and_classifier() -> None:
    assert (THESIS.data.size, THESIS.data.min_organ_px, THESIS.data.validation) == (256, 32, 0.2)
    assert THESIS.data.study_type == "abdomen"
    f = THESIS.classifier
    assert (f.name, f.weights) == ("resnet18.tv_in1k", "timm")
    assert (f.batch, f.lr, f.beta1, f.beta2, f.weight_decay) == (16, 2e-4, 0.0, 0.9, 0.0)  # Adam and batches of the text
    assert (THESIS.masks.keep, THESIS.masks.refine) == ("largest", "none")
    assert THESIS.masks.opening > 0
    assert THESIS.masks.closing > 0


def test_the_thesis_anomaly() -> None:
    a = AnomalySettings()
    assert (a.probability, a.template, a.sigma, a.alpha, a.level) == (0.65, 20, 0.4, 0.9, 0.25)
    assert THESIS.anomaly == replace(a, kind=THESIS.anomaly.kind)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_own_networks(name: str) -> None:
    found = PRESETS[name]
    assert 0 <= found.coin.skips <= found.coin.depth - 1
    assert found.data.size % 2**found.coin.depth == 0
    assert found.data.size >= 2**found.coin.discriminator_depth


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_precisions_that_part_the_trained_from_the_frozen_are_refused(precision: str) -> None:
    from coinseg.runtime.devices import make_fabric

    with pytest.raises(UserError, match=rf"engine.precision is '{precision}'; required: .*; 32-true, bf16-mixed or 16-mixed"):
        make_fabric(EngineSettings(precision=precision, threads=1))
