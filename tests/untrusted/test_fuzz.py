"""Random bytes for every reader, and random values for every setting: an answer or a `UserError`, never anything else.

The examples are the same in every run. `COINSEG_FUZZ=2000 pytest tests/untrusted/test_fuzz.py` draws so many new ones for
each target;
`benchmarks/fuzz.py` goes on for hours, and survives readers that end the process (docs/research/fuzz.md).
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coinseg.config.declare import declarations
from coinseg.config.parsing import setting_names, settings_from
from coinseg.config.schema import Settings
from coinseg.data.readers.dicom_frames import size_of_frame
from coinseg.errors import UserError, plain
from coinseg.runtime.files import csv_text, read_json, read_yaml, safe_cell
from fuzz_targets import TARGETS, attempt, mutated

RANGES = {each.name: (each.range.low, each.range.high) for each in declarations(Settings()) if each.range}
LONG = int(os.environ.get("COINSEG_FUZZ", "0"))
PROFILE = settings(
    max_examples=LONG or 40, derandomize=not LONG, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_answers_or_refuses(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = TARGETS[name]
    path = target.make(tmp_path_factory.mktemp("fuzz"))
    whole = path.read_bytes()
    assert attempt(target, path, whole) == ""  # what is mutated was right

    @PROFILE
    @given(st.integers(0, 2**32), st.integers(1, 5))
    def read(seed: int, edits: int) -> None:
        attempt(target, path, mutated(whole, seed, edits))

    read()


@pytest.mark.parametrize("name", [".nii", ".nrrd", ".mha", "dicom", ".zip", ".png", ".tif", "table of files", "model.json"])
def test_any_bytes_are_refused_by_a_reader(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = TARGETS[name]
    path = target.make(tmp_path_factory.mktemp("fuzz"))

    @PROFILE
    @given(st.binary(max_size=600))
    def read(content: bytes) -> None:
        assert attempt(target, path, content) != ""

    read()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner,
        max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@PROFILE
@given(st.dictionaries(st.sampled_from([*setting_names(), "coin", "data", "datas.x"]), VALUES, max_size=4))
def test_settings_of_anything_are_whole_or_refused(values: dict[str, object]) -> None:
    nested: dict[str, object] = {}
    for name, value in values.items():
        place, (*parents, last) = nested, name.split(".")
        for parent in parents:
            inner = place.setdefault(parent, {})
            place = inner if isinstance(inner, dict) else {}
        place[last] = value
    try:
        found = settings_from(nested)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    assert isinstance(found, Settings)
    assert settings_from(found.as_dict()) == found


@pytest.mark.parametrize("name", sorted(RANGES))
def test_numbers_out_of_their_range_are_refused(name: str) -> None:
    group, _, leaf = name.rpartition(".")
    low, high = RANGES[name]
    whole = isinstance(eval_default(name), int)
    for value in (low - 1, high + 1, math.nan, math.inf, -math.inf, 10**400):
        number = value if whole or value == 10**400 else float(value)
        with pytest.raises(UserError, match=name):
            settings_from({group: {leaf: number}} if group else {leaf: number})


def eval_default(name: str) -> object:
    """The default of a setting by its dotted name."""
    value: object = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    return value


def test_defaults_lie_in_their_ranges() -> None:
    assert set(RANGES) <= set(setting_names())
    assert settings_from(Settings().as_dict()) == Settings()
    numbers = {n for n in setting_names() if isinstance(eval_default(n), int | float) and not isinstance(eval_default(n), bool)}
    assert numbers - set(RANGES) == set()


@PROFILE
@given(st.text())
def test_a_cell_is_never_a_formula_and_a_line_never_more(text: str) -> None:
    cell = safe_cell(text)
    assert not cell.startswith(("=", "@", "\t", "\r", "\n"))
    assert cell in (text, f"'{text}")
    if cell.startswith(("+", "-")):
        float(cell)
    assert plain(text).isprintable()
    assert len(plain(text * 100)) <= 2100


def test_numbers_in_cells_stay_numbers() -> None:
    assert [safe_cell(v) for v in (-1.5, "-1.5", "+2", "-.5e-3", "-1+cmd|' /C calc'!A0", "=1", "a=1", None)] == [
        -1.5, "-1.5", "+2", "-.5e-3", "'-1+cmd|' /C calc'!A0", "'=1", "a=1", None,
    ]  # fmt: skip
    assert csv_text([["a", "b"], ["=HYPERLINK(1)", -2]]) == "a,b\n'=HYPERLINK(1),-2\n"


def test_sizes_of_frames() -> None:
    j2k = b"\xff\x4f\xff\x51" + struct.pack(">HH4I", 41, 0, 640, 480, 0, 30)
    assert size_of_frame(b"\0" * 20 + j2k) == (450, 640)
    jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc3" + struct.pack(">HBHH", 11, 8, 480, 640)
    assert size_of_frame(jpeg + b"\0" * 9) == (480, 640)
    assert size_of_frame(b"RLE" * 40) is None
    assert size_of_frame(b"\xff\xd8" + b"\0" * 40) is None


def test_plain_files_that_are_read_strictly(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.yaml").write_text("a: [1, two]\nb: {c: 0.5}\n")
    assert read_yaml(tmp_path / "a.yaml", "a") == {"a": [1, "two"], "b": {"c": 0.5}}
    (tmp_path / "a.yaml").write_text("a: &x [1]\nb: *x\n")
    with pytest.raises(UserError, match="it has aliases"):
        read_yaml(tmp_path / "a.yaml")
