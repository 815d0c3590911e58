"""The benchmarks compare like with like: their plain networks are coinseg's, their ratios what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are not part of the package

from benchmarks import grid
from benchmarks.__main__ import run
from benchmarks.timing import Row, require_close
from benchmarks.training import networks, of_device, our_step, plain_step

from coinseg.config.schema import CoinSettings


def test_ratio_and_floor_by_hand() -> None:
    assert Row("a", 6.0, 2.0, 3.0, "").ratio == 3
    assert Row("a", 6.0, 2.0, 3.0, "").holds is True
    assert Row("a", 5.9, 2.0, 3.0, "").holds is False
    assert Row("seconds", None, 0.4, 0.5, "").holds is True
    assert Row("seconds", None, 0.6, 0.5, "").holds is False
    assert Row("told", 6.0, 2.0, None, "").holds is None
    assert Row("not measured", None, None, 3.0, "").holds is None


def test_versions_that_differ_end_the_benchmark() -> None:
    with pytest.raises(SystemExit, match=r"differ by 0\.2"):
        require_close("a", 0.2, 0.1)
    with pytest.raises(SystemExit):
        require_close("a", float("nan"), 0.1)


def test_a_plain_step_and_ours_have_the_same_losses_and_leave_the_same_weights() -> None:
    torch.manual_seed(3)
    x, s = torch.rand(4, 1, 32, 32) * 2 - 1, replace(CoinSettings(), width=4, discriminator_width=4)
    plain, ours = networks(s)
    one, other = plain_step(x, s, *plain), our_step(x, s, *ours)
    a, b = one(), other()
    assert {n: v.item() for n, v in a.items()} == pytest.approx({n: v.item() for n, v in b.items()}, abs=1e-4)
    for p, q in zip(plain[1].parameters(), ours[1].parameters(), strict=True):
        # Adam's first step has the size of the learning rate whatever the gradient: only its sign is compared, almost everywhere.
        assert ((p - q).abs() < s.lr).float().mean() > 0.95


@pytest.mark.parametrize("against", ["plain", "authors"])
def test_both_sides_of_the_grid_are_the_same_networks(against: str) -> None:
    torch.manual_seed(0)
    plain, ours = grid.networks(against, grid.settings_of(against, 2))
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    for one, other in zip(plain, ours, strict=True):
        torch.testing.assert_close(one.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-5)
    found = grid.Cell(against, 2, 32, 1, (3.0, 2.0), (1.0, 2.0))
    assert found.ratios == (1.5, 0.5)
    assert list(grid.cells(True, 8**2 * 64**2)) == [(8, 64, 1)]
    assert len(list(grid.cells(False, 2.0**40))) == 36


def test_the_row_of_a_gpu_is_computed_also_without_one() -> None:
    row = of_device("cpu", 32, 4, compiled=False)
    assert row.ratio is not None
    assert "of the rate of bf16 matrix products" in row.note


def test_a_subject_that_fails_is_a_row_and_not_the_end_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(quick: bool) -> Iterator[Row]:
        yield Row("before", 4.0, 2.0, 1.5, "")
        require_close("bad", 0.2, 0.1)

    def good(quick: bool) -> Iterator[Row]:
        yield Row("after", 6.0, 2.0, 3.0, "")

    for name, rows in (("bad", bad), ("good", good)):
        module = ModuleType(name)
        module.rows = rows  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
    assert run(("bad", "good"), True, tmp_path) == 1
    found = json.loads((tmp_path / "speed.json").read_text())
    assert [(r["name"], r["ratio"], r["holds"]) for r in found["rows"]] == [
        ("before", 2, True),
        ("bad", None, None),
        ("after", 3, True),
    ]
    assert "differ by 0.2" in found["rows"][1]["note"]
    assert {"cpu", "cores", "threads", "torch", "commit"} <= found["machine"].keys()
    assert "| after | 6 | 2 | 3 | 3 | yes |" in (tmp_path / "speed.md").read_text()
    assert run(("good",), True, tmp_path) == 0
