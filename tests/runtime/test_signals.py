"""Ctrl-C and SIGTERM: a training writes its checkpoint first, everything else stops where it is, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coinseg.cli import main as cli
from coinseg.cli.progress import ConsoleReport
from coinseg.errors import Terminated, UserError
from coinseg.runtime.process_group import workers
from coinseg.runtime.signals import asked, obey, patient, signals_heard
from coinseg.runtime.stage import COST
from conftest import TINY

LONG = [*TINY, "--classifier.steps", "30", "--coin.steps", "30", "--engine.checkpoint_every", "1000"]
BOTH = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A shell starts what it runs in the background deaf to Ctrl-C, and coinseg leaves that so; here it is heard."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalled(patch: pytest.MonkeyPatch, stage: str, at: int, *numbers: int) -> None:
    """Signals reach this process when a stage reports that `at` steps are done."""

    def report(self: ConsoleReport, name: str, done: int, total: int, values: object) -> None:
        if (name, done) == (stage, at):
            for number in numbers:
                os.kill(os.getpid(), number)

    patch.setattr(ConsoleReport, "__call__", report)


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(["run", str(images), "-o", str(out), *LONG]) == 0
    return out


def results(out: Path) -> dict[str, bytes]:
    """What must not depend on interruptions."""
    names = ("classifier/model.safetensors", "coin/generator.safetensors", "evaluation/slices.csv", "evaluation/examples.npz")
    return {name: (out / name).read_bytes() for name in names} | {p.name: p.read_bytes() for p in (out / "masks").glob("*.png")}


@pytest.mark.parametrize("stage", ["classifier", "coin"])
@pytest.mark.parametrize(("number", "code", "word"), BOTH)
@pytest.mark.slow
def test_the_first_signal_finishes_the_step_and_writes_a_checkpoint(
    images: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    stage: str, number: int, code: int, word: str,
) -> None:  # fmt: skip
    command, out = ["run", str(images), "-o", str(tmp_path / "run"), *LONG], tmp_path / "run"
    with monkeypatch.context() as patch:
        signalled(patch, stage, 20, number)
        capsys.readouterr()
        assert cli.main(command) == code
    assert capsys.readouterr().err == f"coinseg: {word}; the same command goes on from where it was\n"
    assert json.loads((out / "manifest.json").read_text())["status"]["state"] == "interrupted"
    assert (out / stage / "checkpoint.pt").exists()
    logged = [json.loads(line)["step"] for line in (out / stage / "stats.jsonl").read_text().splitlines()]
    assert logged[-1] == 20
    assert cli.main(command) == 0
    assert results(out) == results(undisturbed)
    read = (out / stage / "stats.jsonl").read_text().splitlines()
    assert [{**json.loads(line), **dict.fromkeys(("time", *COST))} for line in read] == [
        {**json.loads(line), **dict.fromkeys(("time", *COST))}
        for line in (undisturbed / stage / "stats.jsonl").read_text().splitlines()
    ]


def test_the_second_signal_ends_at_once(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled(monkeypatch, "classifier", 10, signal.SIGTERM, signal.SIGINT)
    assert cli.main(["run", str(images), "-o", str(tmp_path / "run"), *LONG]) == 130
    assert not (tmp_path / "run" / "classifier" / "checkpoint.pt").exists()


def test_outside_training_the_first_signal_ends_at_once_and_a_signal_in_the_last_step_waits_for_the_weights(
    images: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, out = ["run", str(images), "-o", str(tmp_path / "run"), *LONG], tmp_path / "run"
    for stage, at, there, missing in (
        ("prepare", 3, "settings.yaml", "slices"),
        ("classifier", 30, "classifier/checkpoint.pt", "classifier/stage.json"),
        ("masks", 0, "evaluation/scores.json", "masks/index.json"),
    ):
        with monkeypatch.context() as patch:
            signalled(patch, stage, at, signal.SIGTERM)
            assert cli.main(command) == 143
        assert (out / there).exists()
        assert not (out / missing).exists()
    assert cli.main(command) == 0
    assert results(out) == results(undisturbed)


def test_handlers_are_given_back_and_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup
    try:
        with signals_heard():
            os.kill(os.getpid(), signal.SIGINT)
            with patient():
                os.kill(os.getpid(), signal.SIGTERM)
                assert asked()
                with pytest.raises(Terminated):
                    obey()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_third_signal_is_the_systems() -> None:
    """Whatever Python is busy with."""
    code = """
import os, signal
from coinseg.runtime.signals import signals_heard
with signals_heard():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGTERM


# --- workers


def _die(index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, workers(1, "--processes") as pool:
        pool.submit(_die, 0).result()
    assert str(caught.value) == (
        "one of 1 processes was killed or died; required: all of them, and memory for them; "
        "lower --processes, then give the same command again"
    )


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def eventually(what: Callable[[], bool]) -> bool:
    """Whether it comes true within a minute."""
    end = time.monotonic() + 60
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


def test_workers_do_not_outlive_a_killed_command(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from coinseg.data.phantom.cohort import *\n"
        "if __name__ == '__main__': write_cohort(Path(sys.argv[1]), PhantomSettings(patients=3, slices=400, size=256), 2)\n"
    )
    (tmp_path / "make.py").write_text(script)
    with subprocess.Popen([sys.executable, str(tmp_path / "make.py"), str(tmp_path / "out")]) as command:
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        if not children.parent.exists():
            pytest.skip("needs /proc")
        # One is Python's resource tracker; the workers are at their first patients.
        assert eventually(lambda: len(children.read_text().split()) >= 3)
        pids = [int(pid) for pid in children.read_text().split()]
        command.kill()
    assert eventually(lambda: all(gone(pid) for pid in pids))
