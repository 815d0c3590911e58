"""kill -9 wherever it can hurt: afterwards the same command must finish with the result of an undisturbed run, byte for byte.

    python tests/kill_harness.py                       50 kills at random moments, spread over all jobs
    python tests/kill_harness.py --walk run back       before every single change of a file, one after the other
    python tests/kill_harness.py --walk run --at 3 40  before these changes alone
    python tests/kill_harness.py --walk run --every 5  before every fifth change, the first one among them

The parent imports everything once and forks, so that a trial is the work of a command and no import. The clock of the children
stands still: nothing in the output may differ, times included. Two networks nobody would use make a run of two seconds.

A change of a file is what Python's audit events tell of: opening to write, moving, removing, making or removing a folder.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from coinseg.cli import main as cli
from coinseg.pipeline import manifest
from coinseg.report import page as report  # noqa: F401 - imported before the forks
from coinseg.runtime.ledger import RECORD
from coinseg.runtime.records import CHECKSUMS
from coinseg.thesis import reproduce  # noqa: F401 - imported before the forks
from coinseg.training import loop
from conftest import TINY, tiny_settings, write_images  # beside this file
from writers import PLAIN, make_run, make_scan, scan_of, write_nifti, write_series

torch.set_num_threads(1)
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
SHORT = [
    *TINY, "--engine.checkpoint_every", "2", "--engine.sample_every", "3", "--engine.accelerator", "cpu",
        "--coin.generator_every", "3"
]  # fmt: skip
Command = list[str]


@dataclass(frozen=True)
class Job:
    """What is killed.

    Args:
        killed: the command that is killed; "{out}" and "{data}" are filled in.
        again: the command that must put everything right; the same where it is None.
        before: makes what is there before, from the places of outputs and of inputs.
        fresh: the expected result is that of `again` in an empty folder, not that over what was there before.
        ends: the exit code of `again`.
        put: what somebody puts there after the kill: `again` must refuse it and leave it; without it all must come right.
    """

    killed: Command
    again: Command | None = None
    before: Callable[[Path, Path], None] | None = None
    fresh: bool = False
    ends: int = 0
    put: str | None = None


def finished(command: Command) -> Callable[[Path, Path], None]:
    """What a command leaves."""

    def make(out: Path, data: Path) -> None:
        if cli.main(filled(command, out, data)):
            raise RuntimeError("what is there before did not finish")

    return make


def filled(command: Command, out: Path, data: Path) -> Command:
    """The words of a command with its places."""
    return [word.format(out=out, data=data) for word in command]


def drawn_by_hand(out: Path, data: Path) -> None:
    """A mask that somebody drew, where one of the command would go."""
    (out / "masks").mkdir()
    shutil.copy(data / "masks" / "b.nii.gz", out / "masks" / "b.nii.gz")


def of_other_scans(out: Path, data: Path) -> None:
    """Masks of scans of which one was corrected since, and one is gone."""
    shutil.copytree(data / "scans", data / "before")
    make_scan(data / "before" / "b.nii.gz", seed=8)
    make_scan(data / "before" / "d.nii.gz", seed=9)
    finished(["segment", "-i", "{data}/before", *SEGMENT[3:], "{data}/model"])(out, data)
    shutil.rmtree(data / "before")


def taken(out: Path, data: Path) -> None:
    """Masks, and those of somebody who corrected them."""
    MASKS(out, data)
    finished(TAKE)(out, data)


def without_report(out: Path, data: Path) -> None:
    """A finished run without scores and masks."""
    finished(RUN)(out, data)
    for name in ("evaluation/scores.json", "masks/index.json", "report.html"):
        (out / "run" / name).unlink()


RUN = ["run", "{data}/images", "-o", "{out}/run", *SHORT]
OTHER = [*RUN, "--seed", "1", "--coin.steps", "2", "--overwrite"]
SEGMENT = ["segment", "-i", "{data}/scans", "-o", "{out}/masks", "--model"]
FILE = [
    "segment", "-i", "{data}/scans/a.nii.gz", "-o", "{out}/m.nii.gz", "--counterfactual", "{out}/c.nii.gz", "--difference",
    "{out}/d.nii.gz", "--model", "{data}/model",
]  # fmt: skip
MASKS = finished([*SEGMENT, "{data}/model"])
TAKE = ["review-import", "{out}/masks", "{data}/masks", "--reviewer", "ann", "--accept"]
EXPORT = ["export", "{data}/model", "-o", "{out}/exported"]
JOBS = {
    "run": Job(RUN),
    "other": Job(OTHER, before=finished(RUN), fresh=True),
    "back": Job(OTHER, [*RUN, "--seed", "0", "--overwrite"], before=finished(RUN), fresh=True),
    "scans": Job(["run", "{data}/ct/labels.csv", "-o", "{out}/run", *SHORT, "--data.min_organ_px", "0"]),
    "segment": Job([*SEGMENT, "{data}/model"]),
    "resegment": Job([*SEGMENT, "{data}/other", "--overwrite"], before=finished([*SEGMENT, "{data}/model"]), fresh=True),
    "file": Job(FILE),
    "phantom": Job([
        "phantom", "{out}/ct", "--patients", "2", "--slices", "4", "--size", "32", "--lesions", "masses", "--processes", "1",
    ]),
    "export": Job(EXPORT),
    "reexport": Job(
        ["export", "{data}/other", "-o", "{out}/exported", "--overwrite"], before=finished(EXPORT), fresh=True
    ),
    "onnx": Job([*EXPORT, "--onnx"]),
    "nnunet": Job(["export-nnunet", "{data}/scans", "--masks", "{data}/masks", "-o", "{out}/Dataset101_lesion"]),
    "seg": Job(["export-seg", "{data}/mask.nii.gz", "--dicom", "{data}/series", "-o", "{out}/m.dcm"]),
    "layer": Job([*RUN, "--method", "layercam", "--attribution.layer", "best"]),
    "sure": Job([*SEGMENT, "{data}/model", "--confidence", "{out}/sure"]),
    "mine": Job([*SEGMENT, "{data}/model"], before=drawn_by_hand),
    "others": Job([*SEGMENT, "{data}/model"], before=of_other_scans),
    "drawn": Job([*SEGMENT, "{data}/model"], put="masks/b.nii.gz"),
    "drawing": Job(FILE, put="m.nii.gz"),
    "evaluate": Job(["evaluate", "{out}/run"], before=finished(["prepare", *RUN[1:]])),
    "report": Job(["report", "{out}/run"], before=without_report),
    "template": Job(["inspect", "{data}/images", "--template", "{out}/labels.csv"]),
    "page": Job(["review-page", "{out}/masks", "-o", "{out}/cases.html"], before=MASKS),
    "take": Job(TAKE, before=MASKS),
    "reviewed": Job(["review-export", "{out}/masks", "masks", "-o", "{out}/reviewed"], before=taken),
    "classes": Job(["segment", "-i", "{data}/images", "-o", "{out}/masks", "--model", "{data}/classes"]),
    "labels": Job(["segment", "-i", "{data}/images/normal/i00.png", "-o", "{out}/m.png", "--model", "{data}/classes"]),
    "table": Job(["reproduce", "table3", "--data", "{data}/images", "-o", "{out}/tables", "--seeds", "1", *SHORT]),
}  # fmt: skip


def make_inputs(data: Path) -> None:
    """Everything the jobs read."""
    write_images(data / "images", each=2)
    make_run(data / "model")
    make_run(data / "other", replace(tiny_settings(), masks=replace(tiny_settings().masks, min_px=9)))
    make_run(data / "classes", kind="percentile", classes=("crack", "dent"))
    (data / "ct").mkdir()
    for i, name in enumerate(("a", "b", "sub/c")):
        make_scan(data / "scans" / f"{name}.nii.gz", seed=i)
        shutil.copytree(data / "scans", data / "masks", dirs_exist_ok=True)
    needed = {"FrameOfReferenceUID": "1.2.9", "PositionReferenceIndicator": "", "Manufacturer": "none"}
    write_series(data / "series", scan_of((40, 44, 3)), PLAIN, **needed)
    write_nifti(data / "mask.nii.gz", (scan_of((40, 44, 3)) > 300).astype(np.uint8), PLAIN)
    lines = ["file,label,patient"]
    for i in range(8):
        make_scan(data / "ct" / f"s{i}.nii.gz", seed=i)
        lines.append(f"s{i}.nii.gz,{i % 2},p{i}")
    (data / "ct" / "labels.csv").write_text("\n".join(lines) + "\n")


# --- children


class Still(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        """Always the same."""
        return datetime(2026, 1, 1, tzinfo=UTC)


def _kill_at(number: int, root: Path, notes: int) -> None:
    """Kill this process before its change number `number` below `root`; note every change."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event == "open":
            _, mode, flags = arguments
            writes = bool(set(str(mode)) & set("wax+")) if mode else bool(int(str(flags)) & (os.O_WRONLY | os.O_RDWR))
            if not writes:
                return
        elif event not in CHANGES:
            return
        name = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        bare = "/" not in name and event in ("os.remove", "os.rmdir")  # of a folder that is removed with all in it
        if not bare and str(root) not in os.path.abspath(name):
            return
        count += 1
        os.write(notes, f"{event} {name if bare else os.path.relpath(name, root)}\n".encode())
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def forked(work: Callable[[], object], said: Path) -> int:
    """The pid of a child that does `work` and ends with what it returns; its output goes to `said`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        time.perf_counter, time.time, manifest.datetime = (lambda: 0.0), (lambda: 1e9), Still  # type: ignore[misc, assignment]
        loop.peak_memory_gb = lambda device: 0.0  # type: ignore[attr-defined]
        code = int(work() or 0)  # type: ignore[call-overload]
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError


def ended(pid: int) -> int:
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- trials


SAYING_SO = (CHECKSUMS.encode(), b"  index.json", b"  index.csv", b"  manifest.json")


def digest(folder: Path) -> dict[str, bytes]:
    """Every file and folder below, hidden ones too; what was skipped because it was there counts as written.

    Speeds and checksums are left out, and so are the lines about the latter of the ledger: after a kill between a file and its
    checksum it is read without one (decision 6). So are the digests of tables that say what was skipped.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.name != CHECKSUMS):
        if path.suffix in (".sqlite", ".sqlite-shm", ".sqlite-wal"):
            found |= {} if path.suffix != ".sqlite" else {path.relative_to(folder).as_posix(): decided(path)}
            continue
        content = b"" if path.is_dir() or path.suffix == ".dcm" else path.read_bytes()  # a SEG has new UIDs each time
        content = content.replace(b'"state": "skipped"', b'"state": "written"')
        if path.name == "stats.jsonl":  # a stretch that begins after a kill is shorter, and this clock stands still
            content = re.sub(rb'"images_per_s": [0-9.e+]+', b"", content)
        if path.name == RECORD:
            content = b"\n".join(line for line in content.split(b"\n") if not line.endswith(SAYING_SO))
        # What was done is not warned of once more, nor counted.
        content = re.sub(rb'"warnings": \[[^]]*\]', b'"warnings": []', content) if b'"kind": "segment"' in content else content
        found[path.relative_to(folder).as_posix()] = content
    return found


def decided(database: Path) -> bytes:
    """The last decision of everybody on every case, in the words of the database; numbers and times are left out."""
    with closing(sqlite3.connect(database)) as opened:
        rows = opened.execute('SELECT "case", reviewer, state, comment, mask FROM decisions ORDER BY id').fetchall()
    return repr(sorted({row[:2]: row for row in rows}.items())).encode()


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """The names that only one has, or both with other contents."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


class Trials:
    """One job: what it should lead to, and kills."""

    def __init__(self, name: str, root: Path, data: Path) -> None:
        self.job, self.name, self.data = JOBS[name], name, data
        self.root, self.out, self.before, self.said = root, root / "out", root / f"{name}-before", root / "said"
        self.out.mkdir(exist_ok=True)
        self._empty()
        if self.job.before:
            make = self.job.before
            self._whole(lambda: make(self.out, data))
        shutil.rmtree(self.before, ignore_errors=True)
        shutil.copytree(self.out, self.before)
        if self.job.fresh:
            self._empty()
        self.killed = filled(self.job.killed, self.out, data)
        self.again = filled(self.job.again or self.job.killed, self.out, data)
        began = time.perf_counter()
        self._whole(lambda: cli.main(self.again) != self.job.ends)
        self.seconds = time.perf_counter() - began
        self.expected = digest(self.out)

    def _empty(self) -> None:
        for path in self.out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _whole(self, work: Callable[[], object]) -> None:
        """Do `work` in a child, and import here what it imported, so that no later child spends its time on that."""
        names = self.root / "imported"

        def noting() -> object:
            code = work()
            names.write_text("\n".join(sys.modules))
            return code

        if ended(forked(noting, self.said)):
            raise RuntimeError(self.said.read_text())
        for name in names.read_text().split("\n"):
            if name not in sys.modules:
                with suppress(Exception):  # what only its package can import comes with that
                    importlib.import_module(name)

    def _restore(self) -> None:
        self._empty()
        shutil.copytree(self.before, self.out, dirs_exist_ok=True)

    def _put(self) -> bool:
        """Put somebody's file where an output goes and give the command: is it refused, and the file left? It is gone after."""
        place = self.out / str(self.job.put)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"mine")
        refused = ended(forked(lambda: cli.main(self.again), self.said)) == 2
        left = place.read_bytes() == b"mine"
        place.unlink()
        return refused and left

    def kill(self, at: int | float) -> tuple[str, str, bool]:
        """Kill before change `at` (int) or after `at` seconds (float): moment, outcome, whether the command ended by itself."""
        self._restore()
        reader, notes = os.pipe()

        def work() -> int:
            if isinstance(at, int):
                _kill_at(at, self.out, notes)
            return cli.main(self.killed)

        pid = forked(work, self.said)
        os.close(notes)
        if isinstance(at, float):
            time.sleep(at)
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(reader) as file:
            changes = file.read().splitlines()
        code = ended(pid)
        stage = next(
            (line.split(":")[0] for line in reversed(self.said.read_text().splitlines()) if ": " in line), "before any stage"
        )
        moment = f"{at:.2f} s" if isinstance(at, float) else f"{at}: {changes[-1] if changes else 'nothing'}"
        if code >= 0:
            return moment, f"ended by itself with {code}", True
        refused = self._put() if self.job.put else True
        again = ended(forked(lambda: cli.main(self.again), self.said))
        wrong = differing(self.expected, digest(self.out)) + ([] if refused else ["what somebody put there"])
        well = again == self.job.ends and not wrong
        outcome = "the same" if well else f"WRONG: exit code {again}; differ: {', '.join(wrong[:8])}"
        if again != self.job.ends:
            outcome += f"; {self.said.read_text().splitlines()[-1:]}"
        return f"{moment} ({stage})", outcome, False


def walk(trials: Trials, at: Sequence[int], every: int = 1) -> Iterator[tuple[str, str]]:
    """Kill before every change, or before those of `at`, or before each `every`-th."""
    number = 1
    while True:
        if at and number > max(at):
            return
        if number in at if at else number % every == 1 % every:
            moment, outcome, by_itself = trials.kill(number)
            if by_itself:
                return
            yield moment, outcome
        number += 1


def scattered(trials: Trials, count: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Kill at moments drawn over the time of an undisturbed command; one that was over before is drawn again, from less time."""
    while count:
        at = rng.uniform(0, trials.seconds)
        moment, outcome, by_itself = trials.kill(at)
        if by_itself:
            trials.seconds = at
            continue
        count -= 1
        yield moment, outcome


def main() -> int:
    """Run the harness; 1 when a kill did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walk", nargs="*", choices=list(JOBS), help="kill before every change of a file in these jobs")
    parser.add_argument("--at", nargs="*", type=int, default=[], help="before these changes alone")
    parser.add_argument("--every", type=int, default=1, help="before every k-th change")
    parser.add_argument("--random", type=int, default=50, help="kills at random moments, where --walk is not given")
    parser.add_argument("--jobs", nargs="*", choices=list(JOBS), default=list(JOBS), help="for --random")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng, kills, wrong = random.Random(chosen.seed), 0, 0
    jobs = chosen.jobs if chosen.walk is None else chosen.walk
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ended(forked(lambda: make_inputs(root / "data"), root / "said"))
        for number, name in enumerate(jobs):
            trials = Trials(name, root, root / "data")
            share = chosen.random // len(jobs) + (number < chosen.random % len(jobs))
            found = scattered(trials, share, rng) if chosen.walk is None else walk(trials, chosen.at, chosen.every)
            for moment, outcome in found:
                kills, wrong = kills + 1, wrong + outcome.startswith("WRONG")
                print(f"{name:<8} {moment:<90} {outcome}", flush=True)
    print(f"{kills} kills, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
