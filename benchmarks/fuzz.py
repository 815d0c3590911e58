"""Fuzz every reader for a stated time: `python benchmarks/fuzz.py --seconds 600 [--only .nii dicom] [--coverage]`.

Each target of `tests/fuzz_targets.py` runs in a process of its own with bounded memory, so that a crash, a hang or too much
memory differs from an exception. Inputs that break something are kept in --out, with what they broke. `--coverage` lets atheris
(libFuzzer) choose the inputs by the branches they reach, where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

MEMORY = 14 * 2**30
"""Bytes of addresses one process may take; torch and its libraries have some of them from the start."""
SLOW = 20.0
"""Seconds for one input after which it counts as a hang."""


def hammer(name: str, seconds: float, seed: int, out: Path) -> None:
    """Mutate the file of one target until the time is over; the last input lies in `out` until it is answered."""
    from fuzz_targets import TARGETS, attempt, mutated

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    target, said, last = TARGETS[name], set(), out / "last"
    counts = {"inputs": 0, "read": 0, "refused": 0, "defects": 0, "slowest_s": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        path = target.make(Path(folder))
        whole, began = path.read_bytes(), time.monotonic()
        while time.monotonic() - began < seconds:
            content = mutated(whole, seed + counts["inputs"], 1 + (seed + counts["inputs"]) % 4)
            last.write_bytes(content)
            counts["inputs"] += 1
            start = time.monotonic()
            faulthandler.dump_traceback_later(SLOW, exit=True)
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    answer = attempt(target, path, content)
                counts["refused" if answer else "read"] += 1
            except Exception as error:
                counts["defects"] += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                key = f"{type(error).__name__} {Path(where.filename).name}:{where.lineno}"
                if key not in said:
                    said.add(key)
                    (out / f"{len(said)}.bin").write_bytes(content)
                    (out / f"{len(said)}.txt").write_text(traceback.format_exc())
            counts["slowest_s"] = max(counts["slowest_s"], round(time.monotonic() - start, 2))
            faulthandler.cancel_dump_traceback_later()
            (out / "counts.json").write_text(json.dumps(counts | {"kinds": sorted(said)}))
    last.unlink()


def instrumented() -> contextlib.AbstractContextManager[None]:
    """Python modules that are imported within tell atheris which branches are taken; compiled ones do not."""
    import atheris

    return atheris.instrument_imports(include=["coinseg", "nibabel", "pydicom", "tifffile"])


def guided(name: str, seconds: float, out: Path) -> None:
    """Let atheris choose; it ends the process when the time is over or a defect is found."""
    import atheris

    from fuzz_targets import TARGETS, attempt

    target, folder = TARGETS[name], Path(tempfile.mkdtemp())
    path, corpus = target.make(folder), out / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(path.read_bytes())
    atheris.Setup(
        [
            sys.argv[0], str(corpus), f"-max_total_time={int(seconds)}", f"-artifact_prefix={out}/", f"-timeout={int(SLOW)}",
            "-rss_limit_mb=8000",
        ],
        lambda content: attempt(target, path, content),
    )  # fmt: skip
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="in all, shared by the targets")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--coverage", action="store_true")
    o = parser.parse_args()
    with instrumented() if o.coverage else contextlib.nullcontext():
        from fuzz_targets import TARGETS
    names = o.only or list(TARGETS)
    for name in names:
        folder = o.out / "".join(c if c.isalnum() else "_" for c in name)
        folder.mkdir(parents=True, exist_ok=True)
        share = o.seconds / len(names)
        work = (guided, (name, share, folder)) if o.coverage else (hammer, (name, share, o.seed, folder))
        process = multiprocessing.get_context("fork").Process(target=work[0], args=work[1])
        process.start()
        process.join(share + 10 * SLOW)
        hung = process.is_alive()
        process.kill()
        counts = folder / "counts.json"
        print(
            name, "HANGS" if hung else f"ended with {process.exitcode}", counts.read_text() if counts.exists() else "", flush=True
        )


if __name__ == "__main__":
    main()
