"""All benchmarks: prints the table and writes out/bench/speed.json and out/bench/speed.md.

python -m benchmarks [--quick] [--long] [--only training attribution ...]

A subject that fails is a row that says why; the others still run, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Row
from coinseg.runtime.files import write_json, write_text

SUBJECTS = ("starting", "training", "segmenting", "attribution", "files")
LONG = ("schedule",)
"""What takes minutes of its own: with --long or --only."""
OUT = Path("out/bench")
FAILED = "failed: "


def machine() -> dict[str, Any]:
    """Processor, cores, load, torch, threads and commit."""
    cpu = Path("/proc/cpuinfo")
    found = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.split(":")[1].strip() for line in found if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": (models or [platform.processor()])[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit or "unknown",
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def line(row: Row) -> str:
    """A line of the markdown table."""
    shown = [f"{value:.3g}" if value is not None else "-" for value in (row.plain_s, row.ours_s, row.ratio, row.floor)]
    return f"| {row.name} | {' | '.join(shown)} | {({True: 'yes', False: '**no**', None: '-'})[row.holds]} | {row.note} |"


def rows_of(subject: str, quick: bool) -> Iterator[Row]:
    """The rows of a subject; where it fails, a last row that says why instead of the end of the others."""
    try:
        yield from importlib.import_module(f"benchmarks.{subject}").rows(quick)
    except (Exception, SystemExit) as error:  # `require_close` exits; anything else may fail in its own way
        why = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")
        yield Row(subject, None, None, None, f"{FAILED}{why}")


def run(subjects: tuple[str, ...], quick: bool, out: Path) -> int:
    """Run the subjects one after another; what is done is written after each row. 1 where one failed, else 0."""
    about, rows = machine(), []
    head = ", ".join(f"{name} {value}" for name, value in about.items())
    lines = [head, "", "| what | plain s | coinseg s | ratio | floor | holds | how |", "|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for subject in subjects:
        for row in rows_of(subject, quick):
            rows.append({**row.as_dict(), "threads": torch.get_num_threads()})
            lines.append(line(row))
            print(lines[-1], flush=True)
            write_json(out / "speed.json", {"machine": about, "rows": rows})
            write_text(out / "speed.md", "\n".join(lines) + "\n")
    return int(any(row["note"].startswith(FAILED) for row in rows))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns and sizes")
    parser.add_argument("--long", action="store_true", help=f"also {', '.join(LONG)}")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS + LONG)
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    return run(tuple(given.only or SUBJECTS + (LONG if given.long else ())), given.quick, OUT)


if __name__ == "__main__":
    sys.exit(main())
