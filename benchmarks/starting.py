"""How long a person waits for `import coinseg` and for the help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Row, seconds

WORDS = {
    "import coinseg": (["-c", "import coinseg"], 0.5),
    "coinseg --help": (["-m", "coinseg", "--help"], 0.3),
    "coinseg segment --help": (["-m", "coinseg", "segment", "--help"], 0.3),
    "coinseg run --help": (["-m", "coinseg", "run", "--help"], 0.5),
}


def rows(quick: bool) -> Iterator[Row]:
    """Processes of their own, the best of several."""
    for name, (words, floor) in WORDS.items():
        start = lambda words=words: subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        yield Row(
            name,
            None,
            min(seconds(start) for _ in range(3 if quick else 10)),
            floor,
            "seconds of a process; the floor is in seconds",
        )
