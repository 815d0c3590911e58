"""`auto` sizes: what limits them, by hand; and that a run keeps the number that was chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coinseg.cli import main as cli
from coinseg.config.parsing import settings_from
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.sizes import Machine, chosen_sizes, native_shapes, proposal
from coinseg.errors import UserError
from coinseg.pipeline.run import Workspace
from coinseg.pipeline.sizes import sized
from conftest import TINY
from tiles import images, tiled

CPU, GPU = Machine(False, 64 * 10**9, 1), Machine(True, 80 * 10**9, 16)


def auto(size: object = "auto", tile: object = 0, **data: object) -> Settings:
    return settings_from({"data": {"size": size, "tile": tile, **data}})


@pytest.mark.parametrize(
    ("longer", "machine", "minutes", "size", "why"),
    [
        (70, CPU, 60, 80, "the median image is 70 pixels long"),  # up to the next multiple of 16
        (500, CPU, 60, 96, "60 min on 1 CPU cores allow about 103 pixels"),
        (500, CPU, 240, 192, "240 min on 1 CPU cores allow about 206 pixels"),  # four times as long, twice the side
        (500, replace(CPU, cores=4), 60, 192, "60 min on 4 CPU cores"),
        (500, GPU, 60, 256, "a GPU allow about 256 pixels"),
        (500, replace(GPU, free=11 * 10**9 // 2), 60, 128, "6 GB of memory allow about 128 pixels"),
        (30, CPU, 60, 64, "the median image is 30 pixels long"),
        (500, CPU, 1, 64, "1 min on 1 CPU cores allow about 13 pixels"),
        (5000, Machine(False, 10**12, 64), 6000, 512, ""),
    ],
)
def test_the_least_of_need_time_and_memory(longer: int, machine: Machine, minutes: int, size: int, why: str) -> None:
    chosen, (line, *others) = chosen_sizes([(20, longer)] * 3, auto(minutes=minutes), machine)
    assert chosen.data.size == size
    assert line.startswith(f"data.size {size}: {why}")
    assert bool(others) == (longer > 1.5 * size)


@pytest.mark.parametrize(
    ("minutes", "machine", "recipe"),
    [
        (60, CPU, (2, 2, 600)),
        (20, CPU, (2, 2, 300)),  # the default recipe takes 52 * (64 / 96)**2 = 23.1 minutes at the smallest side
        (19, CPU, (1, 1, 300)),
        (12, CPU, (1, 1, 300)),
        (11, CPU, (2, 2, 0)),
        (1, CPU, (2, 2, 0)),
        (12, replace(CPU, cores=4), (2, 2, 600)),
        (1, GPU, (2, 2, 600)),
    ],
)
def test_a_lighter_recipe_is_taken_where_the_smallest_side_takes_too_long(
    minutes: int, machine: Machine, recipe: tuple[int, int, int]
) -> None:
    chosen, lines = chosen_sizes([(60, 64)], auto(minutes=minutes), machine)
    assert (chosen.student.teachers, chosen.student.networks, chosen.student.steps) == recipe
    assert chosen.data.size == 64
    assert (len(lines) > 1) == (recipe != (2, 2, 600))
    assert replace(chosen, data=auto().data, student=Settings().student) == auto()  # and nothing else is changed


def test_a_student_that_was_set_by_hand_stays() -> None:
    asked = replace(auto(minutes=1), student=replace(Settings().student, teachers=3))
    chosen, (line, known) = chosen_sizes([(60, 64)], asked, CPU)
    assert chosen.student == asked.student
    assert line.startswith("data.size 64")
    assert known == "data.minutes is reckoned for the default recipe, without what is set of student: --dry-run measures it"


def test_what_the_time_is_not_known_of_is_said() -> None:
    asked = replace(auto(), method="rise", coin=replace(Settings().coin, steps=9))
    assert "without what is set of method, coin:" in chosen_sizes([(60, 64)], asked, CPU)[1][1]
    assert len(chosen_sizes([(60, 64)], asked, GPU)[1]) == 1


def test_a_budget_is_kept_in_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = images(tmp_path / "data", shape=(60, 60)), tmp_path / "out"
    words = ["prepare", str(table), "-o", str(out), "--budget", "20m", "--engine.threads", "1", "--engine.accelerator", "cpu"]
    assert cli.main(words) == 0
    lighter = "student.steps 300: the default recipe takes about 23 min at 64 pixels on 1 CPU cores, this about 20"
    assert lighter in capsys.readouterr().out
    text = (out / "settings.yaml").read_text()
    assert "minutes: 20" in text
    assert "steps: 300" in text
    for again in (words, [*words, "--preset", "default"]):
        assert cli.main(again) == 0
        assert (out / "settings.yaml").read_text() == text
    assert cli.main([*words[:4], "--budget", "3h"]) == 2
    assert "made with other settings (data.minutes: 20 -> 180)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--budget", "soon"], "--budget soon; required: minutes or hours, such as 20m or 2h; mend it"),
        (["--budget", "0h"], "--budget 0h; required: minutes or hours"),
        (["--budget", "20m", "--data.size", "64"], "--budget beside data.size; required: the time or the size"),
        (["--budget", "20m", "--data.minutes", "5"], "--budget beside data.minutes; required: the time or the size"),
    ],
)
def test_a_budget_that_says_nothing_is_refused(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(images(tmp_path / "data")), "-o", str(tmp_path / "out"), *words]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tiles_are_as_large_as_squares_or_shrunk_where_there_would_be_many() -> None:
    assert chosen_sizes([(300, 400)], auto(96, "auto"), CPU)[0].data.tile == 96
    many = chosen_sizes([(3000, 4000)], auto(96, "auto"), CPU)[0].data.tile
    assert isinstance(many, int)
    assert many > 400
    assert chosen_sizes([(90, 100)], auto(96, "auto"), CPU)[0].data.tile == 0
    both, lines = chosen_sizes([(300, 400)], auto("auto", "auto"), CPU)
    assert (both.data.size, both.data.tile) == (96, 96)
    assert lines[1] == "data.tile 96: 24 tiles of the median image, at their own size (data.tile auto)"
    assert chosen_sizes([(300, 400)], auto("auto", 64), GPU)[0].data.size == 64  # no larger than the tile


def test_numbers_stay_and_nothing_is_said() -> None:
    assert chosen_sizes([], auto(96, 64), CPU) == (auto(96, 64), [])
    with pytest.raises(UserError, match="no image whose size can be read"):
        chosen_sizes([], auto(), CPU)


def test_tiles_are_proposed_where_images_would_be_shrunk_without_a_word() -> None:
    assert proposal([(100, 300)], auto(96)) == [
        "images of 300 pixels are shrunk 3.1 times to data.size 96: where lesions are small, --data.tile 96 (or auto) keeps them "
        "at their own size"
    ]
    assert proposal([(100, 144)], auto(96)) == proposal([(100, 300)], auto(96, 64)) == proposal([], auto(96)) == []
    assert proposal([(100, 300)], auto(96, roi="organ")) == []


def test_a_run_keeps_the_number_and_goes_on_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = images(tmp_path / "data", shape=(90, 70)), tmp_path / "out"
    words = ["prepare", str(table), "-o", str(out), *TINY, "--data.size", "auto", "--data.tile", "auto"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "data.size 92: the median image is 90 pixels long (data.size auto)" in said
    assert "data.tile 0: no tiles" in said
    text = (out / "settings.yaml").read_text()
    assert "size: 92" in text
    assert cli.main(words) == 0
    assert "data.size 92" not in capsys.readouterr().out  # whatever would be chosen now
    with pytest.raises(UserError, match="numbers here"):
        Workspace(table, out, auto()).check()
    asked = tiled(size="auto")
    assert sized(asked, table, out)[0].data.size == 92
    assert native_shapes(read_layout(table, asked.data), asked) == [(90, 70)] * 12
