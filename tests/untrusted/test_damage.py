"""Every file that a run reads again: a flipped bit is noticed, and whatever else is wrong with it ends in one line."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from coinseg.cli import main as cli
from coinseg.errors import UserError
from coinseg.runtime.records import CHECKSUMS, fits, read_record, write_record
from coinseg.runtime.stage import Stage
from conftest import TINY, write_images

pytestmark = pytest.mark.slow

Change = Callable[[bytes], bytes]
TEXT: dict[str, Change] = {
    "a list": lambda content: b"[]",
    "null": lambda content: b"null",
    "numbers that are words": lambda content: re.sub(rb"(?<=[ ,:])-?\d+(\.\d+)?(?=[,\s])", b'"many"', content),
    "numbers that are huge": lambda content: re.sub(rb"(?<=[ ,:])-?\d+(\.\d+)?(?=[,\s])", b"9" * 400, content),
    "infinity": lambda content: re.sub(rb"(?<=[ ,:])-?\d+(\.\d+)?(?=[,\s])", b"1e999", content),
    "NaN": lambda content: re.sub(rb"(?<=[ ,:])-?\d+(\.\d+)?(?=[,\s])", b"NaN", content),
    "words that are numbers": lambda content: re.sub(rb'(?<=[:,] )"[^"]*"', b"7", content),
    "other names": lambda content: re.sub(rb'"(\w)(\w*)":', rb'"\2\1":', content).replace(b"case,", b"cases,"),
    "nested": lambda content: b"[" * 100_000,
}
BYTES: dict[str, Change] = {
    "nothing": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one bit": lambda content: flipped(content, len(content) // 2),
    "other bytes": lambda content: np.random.default_rng(0).bytes(len(content)),
    "more": lambda content: content + content[:100],
}


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and beside it the images it was made of."""
    root = tmp_path_factory.mktemp("whole")
    data = write_images(root / "data", patients=4, each=2)
    words = [*TINY, "--student.steps", "0", "--engine.checkpoint_every", "2"]
    assert cli.main(["run", str(data), "-o", str(root / "run"), *words]) == 0
    return root / "run"


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """The exit code of a command and its last line on standard error; every other exception comes through."""
    code = cli.main([str(word) for word in words])
    lines = capsys.readouterr().err.splitlines()
    return code, lines[-1] if lines else ""


READ = {
    "train-coin": [
        "settings.yaml", "slices/store.json", "slices/index.csv", f"slices/{CHECKSUMS}",
        "classifier/stage.json", "classifier/model.safetensors", "coin/stage.json", "coin/generator.safetensors",
    ],
    "evaluate": ["threshold.json", "evaluation/scores.json"],
    "segment": ["model.json", "coin/generator.safetensors", f"coin/{CHECKSUMS}"],
    "export": ["manifest.json"],
}  # fmt: skip
"""The command that reads a file of a run folder again; `report` reads more, see below."""
NOTICED = ("slices/ind", "slices/s", "classifier/m", "coin/g", "coin/s", "classifier/s", "threshold", "model.json")
"""What decides a result: one flipped bit must not pass."""


def words_of(command: str, run: Path) -> list[object]:
    if command == "export":
        return ["export", run, "-o", run.parent / "model"]
    if command == "segment":
        return ["segment", "-i", run.parent / "x.png", "-o", run.parent / "m.png", "--model", run, "--overwrite"]
    return [command, run]


def damages(name: str) -> dict[str, Change]:
    return BYTES if Path(name).suffix in (".bin", ".safetensors", ".npz", ".pt") else BYTES | TEXT


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in READ.items() for name in names])
def test_a_damaged_file_ends_in_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, old: bool
) -> None:
    """A run of an earlier version (`old`) has no checksums."""
    if old and name == "settings.yaml":
        return  # half of it is one with defaults, which trains anew
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.copyfile(whole.parent / "data" / "abnormal" / "i01.png", tmp_path / "x.png")
    content = (run / name).read_bytes()
    for file in run.rglob(CHECKSUMS) if old else ():
        file.unlink()
    for how, change in damages(name).items():
        (run / name).write_bytes(change(content))
        code, line = said(capsys, *words_of(command, run))
        assert code in (0, 2), how
        assert line.startswith("coinseg: error: ") or code == 0, (how, line)
        if how == "one bit" and name.startswith(NOTICED) and not old:
            assert (code, f"{name} is damaged" in line) == (2, True), line
        shutil.rmtree(tmp_path / "model", ignore_errors=True)


def test_what_only_a_report_reads(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Truth and what is written anew is refused where it is damaged; logs and pictures are told to be missing."""
    for name, how in (
        ("slices/truth.bin", "one bit"), ("slices/images.bin", "one bit"), ("slices/images.bin", "half"),
        ("inputs.json", "one bit"),
        ("inputs.json", "words that are numbers"), ("evaluation/audit.json", "one bit"), ("evaluation/scores.json", "half"),
        ("masks/index.json", "other names"),
    ):  # fmt: skip
        run = shutil.copytree(whole, tmp_path / f"{name.replace('/', '-')}-{how}")
        if name.startswith("slices"):
            (run / "evaluation" / "scores.json").unlink()
        (run / name).write_bytes((BYTES | TEXT)[how]((run / name).read_bytes()))
        code, line = said(capsys, "report", run)
        assert (code, f"{name} is damaged" in line) == (2, True), line
    run = shutil.copytree(whole, tmp_path / "run")
    for name in ("classifier/stats.jsonl", "coin/stats.jsonl", "evaluation/examples.npz", "masks/key.txt"):
        (run / name).write_bytes(b"\xff" + (run / name).read_bytes()[:-20] + b'\n{"step": 1e999}\n{"loss": 1}\n7\n')
    assert said(capsys, "report", run)[0] == 0


@pytest.mark.parametrize("name", ["slices/images.bin", "classifier/model.safetensors", "threshold.json", "coin/stage.json"])
def test_what_is_removed_is_done_again(whole: Path, tmp_path: Path, name: str) -> None:
    """As the line about a damaged file says; the same comes out."""
    run = shutil.copytree(whole, tmp_path / "run")
    (run / name).unlink()
    assert cli.main(["evaluate", str(run)]) == 0
    for file in (name, "coin/generator.safetensors"):
        if file != "coin/stage.json":  # it has times
            assert (run / file).read_bytes() == (whole / file).read_bytes()


def test_a_schema_of_a_later_version_is_refused_by_its_number(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "model.json").write_text((run / "model.json").read_text().replace('"schema": 2', '"schema": 99'))
    code, line = said(capsys, *words_of("export", run))
    assert code == 2
    assert line.endswith("model.json has schema 99; required: schema 2 or lower; use the later coinseg that wrote it")


# --- Checkpoints ---------------------------------------------------------------------------------------------------


def checkpoint(root: Path) -> Path:
    stage = Stage(root, "key")
    stage.resume()
    stage.save(3, "coin.lr", weights={"w": torch.zeros(64)})
    return root / "checkpoint.pt"


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "coin")
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(flipped(whole, int(place)))
        with pytest.raises(
            UserError, match=r"checkpoint\.pt is damaged \(its checksum is not the recorded one\).*remove it, the"
        ):
            Stage(path.parent, "key").resume()
    path.write_bytes(whole)
    state = Stage(path.parent, "key").resume()
    assert state is not None
    assert state["step"] == 3


@pytest.mark.parametrize("how", ["nothing", "half", "other bytes"])
def test_a_checkpoint_of_an_earlier_version_that_is_none_is_refused(tmp_path: Path, how: str) -> None:
    path = checkpoint(tmp_path / "coin")
    (path.parent / CHECKSUMS).unlink()
    path.write_bytes(BYTES[how](path.read_bytes()))
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged"):
        Stage(path.parent, "key").resume()


@pytest.mark.parametrize(
    "wrong",
    [{"key": "key", "step": "3", "seconds": 0.0}, {"key": "key", "step": 3}, {"step": 3, "seconds": 1.0}, [1], torch.zeros(2)],
)
def test_a_checkpoint_of_other_contents_is_refused(tmp_path: Path, wrong: object) -> None:
    torch.save(wrong, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged"):
        Stage(tmp_path, "key").resume()


# --- Checksums and kinds -------------------------------------------------------------------------------------------


def test_a_file_between_two_checksums_is_read_unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any change of a file, what lies there never passes for damaged."""
    path = tmp_path / "a.json"
    write_record(path, {"a": 1})
    moves, replace = [], os.replace

    def killed(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == stop:
            raise KeyboardInterrupt
        replace(source, target)

    for stop in (1, 2, 3):
        moves.clear()
        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_record(path, {"a": stop + 1})
        monkeypatch.setattr(os, "replace", replace)
        assert read_record(path, {"a": int})["a"] in (1, 2, 3, 4)
        write_record(path, {"a": 1})


def test_kinds_reach_all_the_way_down() -> None:
    assert fits({"a": [1, 2.5], "b": None}, {"a": list[float], "b": str | None})
    assert fits([0.5, 1], tuple[float, float])
    for value, kind in (
        ([1, "2"], list[float]), (True, int), (float("nan"), float), (float("inf"), float), (10**400, int),
        ([1], tuple[int, int]),
        ({"a": {"b": 1}}, dict[str, dict[str, str]]), ({}, {"a": Any}), ("x", Literal["y"]), ([], Literal["y"]), (None, dict),
    ):  # fmt: skip
        assert not fits(value, kind), (value, kind)
