"""All benchmarks: prints the table and writes out/bench/speed.json and out/bench/speed.md.

python -m benchmarks [--quick] [--only training attribution ...]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

from benchmarks.timing import Row

SUBJECTS = ("starting", "training", "segmenting", "attribution", "files")
LONG = ("schedule",)
"""What takes minutes of its own."""
OUT = Path("out/bench")


def machine() -> str:
    """Processor, cores, torch and commit in one line."""
    cpu = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
        if cpu.exists()
        else []
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip() or "unknown"
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{(models or [platform.processor()])[0]}, {os.cpu_count()} CPUs, {torch.get_num_threads()} thread, torch {torch.__version__}, commit {commit}{load}"


def line(row: Row) -> str:
    """A line of the markdown table."""
    shown = [f"{value:.3g}" if value is not None else "-" for value in (row.plain_s, row.ours_s, row.ratio, row.floor)]
    return f"| {row.name} | {' | '.join(shown)} | {({True: 'yes', False: '**no**', None: '-'})[row.holds]} | {row.note} |"


def main() -> None:
    """Run the subjects one after another; what is done is written after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns and sizes")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS + LONG, default=SUBJECTS)
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    about, rows = machine(), []
    lines = [about, "", "| what | plain s | coinseg s | ratio | floor | holds | how |", "|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for subject in given.only:
        for row in importlib.import_module(f"benchmarks.{subject}").rows(given.quick):
            rows.append(row.as_dict())
            lines.append(line(row))
            print(lines[-1], flush=True)
            (OUT / "speed.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")
            (OUT / "speed.md").write_text("\n".join(lines) + "\n")
    if not torch.cuda.is_available():
        print("no GPU at hand: the GPU rows were not measured")


if __name__ == "__main__":
    main()
