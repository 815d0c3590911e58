"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinseg.errors import UserError
from coinseg.runtime import files as storage
from coinseg.runtime.files import directory_written_aside, key_of, read_json, require_room, write_json, write_text, written_aside
from coinseg.runtime.locks import locked

Usage = namedtuple("Usage", "total used free")


class Stopped(Exception):
    """Anything that ends a block early."""


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def half_a_file(path: Path, how: type[BaseException]) -> None:
    with written_aside(path) as part:
        part.write_text("half")
        raise how


def half_a_folder(path: Path, how: type[BaseException], aside: Callable[[Path], AbstractContextManager[Path]]) -> None:
    with aside(path) as part:
        part.mkdir(exist_ok=True)
        (part / "a").write_text("half")
        raise how


# Files


def test_written_aside_moves_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with written_aside(path) as part:
        assert part.parent == path.parent
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("how", [Stopped, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_behind(tmp_path: Path, how: type[BaseException]) -> None:
    with pytest.raises(how):
        half_a_file(tmp_path / "a.txt", how)
    assert names(tmp_path) == []


def test_an_exception_does_not_touch_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    stamp = path.stat()
    with pytest.raises(Stopped):
        half_a_file(path, Stopped)
    assert path.read_text() == "old"
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (stamp.st_mtime_ns, stamp.st_ino)
    assert names(tmp_path) == ["a.txt"]


def test_the_old_file_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_aside(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["mask.nii.gz", "picture.png", "data.tar.xz", "bare"])
def test_the_suffixes_are_kept(tmp_path: Path, name: str) -> None:
    with written_aside(tmp_path / name) as part:
        assert part.name.startswith(".")
        assert part.suffixes[-len(Path(name).suffixes) :] == Path(name).suffixes or name == "bare"
        assert part.name.endswith(name)
        part.touch()


def test_nothing_written_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), written_aside(path):
        pass
    assert path.read_text() == "old"


def test_a_folder_left_by_an_exception_goes_too(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        half_a_folder(tmp_path / "b", Stopped, written_aside)
    assert names(tmp_path) == []


def test_write_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "µ ≥ 0\n")
    assert (tmp_path / "a.txt").read_bytes() == "µ ≥ 0\n".encode()


# JSON


def test_json_there_and_back(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"µ": "x\ny"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": [bad]})
    assert read_json(path) == {"a": 1}
    assert names(tmp_path) == ["a.json"]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "nan.json", {"a": np.float32("nan")})
    write_json(tmp_path / "a.json", {"a": np.float32(0.5), "b": np.int64(3)})
    assert read_json(tmp_path / "a.json") == {"a": 0.5, "b": 3}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe\x00", b"1" + b"0" * 400])
def test_what_is_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    text = str(caught.value)
    assert text.startswith(f"{path} is damaged (it is not readable as JSON: ")
    assert text.endswith("); required: a file coinseg wrote; remove it, the stage is done again by the command that made it")
    assert "\n" not in text


# Folders


def filled(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = filled(tmp_path / "store", a="old", b="old")
    with directory_written_aside(path) as part:
        assert part.parent == tmp_path
        assert list(part.iterdir()) == []
        (part / "b").write_text("new")
        assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["store", "store/b"]
    assert (path / "b").read_text() == "new"


@pytest.mark.parametrize("how", [Stopped, KeyboardInterrupt])
def test_or_not_at_all(tmp_path: Path, how: type[BaseException]) -> None:
    path = filled(tmp_path / "store", a="old")
    with pytest.raises(how):
        half_a_folder(path, how, directory_written_aside)
    assert names(tmp_path) == ["store", "store/a"]
    assert (path / "a").read_text() == "old"


def test_a_new_folder_and_its_parents(tmp_path: Path) -> None:
    with directory_written_aside(tmp_path / "x" / "store") as part:
        (part / "a").touch()
    assert names(tmp_path) == ["x", "x/store", "x/store/a"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    filled(tmp_path / ".part-99999999-store", a="half")
    filled(tmp_path / "other", a="not mine")
    with directory_written_aside(tmp_path / "store") as part:
        assert list(part.iterdir()) == []
    assert names(tmp_path) == ["other", "other/a", "store"]


def test_a_folder_with_a_longer_name_is_left_alone(tmp_path: Path) -> None:
    with directory_written_aside(tmp_path / "new-store") as part:
        (part / "a").touch()
        with directory_written_aside(tmp_path / "store"):
            assert part.exists()
        (part / "b").touch()
    assert names(tmp_path) == ["new-store", "new-store/a", "new-store/b", "store"]


# Room on the disk


def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(Path(path))
        return Usage(10**12, 0, 2_500_000_000)

    monkeypatch.setattr(storage.shutil, "disk_usage", usage)
    folder = tmp_path / "not" / "yet"
    require_room(folder, 2_500_000_000, "the slices")
    assert asked == [tmp_path]  # the nearest folder that exists
    with pytest.raises(UserError) as caught:
        require_room(folder, 2_510_000_000, "the slices")
    assert str(caught.value) == (
        f"2.51 GB are needed for the slices in {folder} and 2.50 GB are free; required: room on the disk; "
        "free some space or choose another output folder"
    )
    assert not folder.exists()


# Keys


def test_keys_are_the_same_on_every_machine() -> None:
    assert key_of({}) == "44136fa355b3678a"
    assert key_of({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a": [2], "b": 1}').hexdigest()[:16]


def test_keys_do_not_depend_on_the_order_or_on_lists_and_tuples() -> None:
    one: dict[str, Any] = {"a": 1, "b": {"c": (1, 2), "d": None}}
    other: dict[str, Any] = {"b": {"d": None, "c": [1, 2]}, "a": 1}
    assert key_of(one) == key_of(other) == key_of(json.loads(json.dumps(one)))


def test_keys_tell_values_apart() -> None:
    values = [None, 0, 1, "1", 1.5, True, [], {}, [1], [1, 2], [2, 1], {"a": 1}, {"a": "1"}, {"b": 1}, Path("x"), Path("y")]
    assert len({key_of(v) for v in values}) == len(values)


HOLDS = """
import sys, time
from pathlib import Path
from coinseg.runtime.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_an_output_has_one_writer_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError) as caught, locked(out):
            pass
        assert str(caught.value) == (
            f"another coinseg is writing to {out}; required: one at a time; wait until it has ended, or choose another -o"
        )
        other.kill()
    with locked(out):
        (out / "made").touch()
    assert [path.name for path in out.iterdir()] == ["made"]


def test_a_folder_nothing_was_written_to_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), locked(tmp_path / "out"):
        raise ValueError("refused")
    assert not (tmp_path / "out").exists()
