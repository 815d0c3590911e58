"""What `pip install` of a distribution would bring, and nothing else, linked from this environment into an empty one.

    python tests/lean_environment.py VENV/bin/python DISTRIBUTION

The distribution itself is not linked: `pip install --no-deps` of its wheel comes after it. It downloads nothing, so that
`tests/stranger.sh --quick` shows in seconds whether a dependency is missing; which versions pip finds it does not show.
"""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(name: str) -> set[str]:
    """The distributions that an installation of `name` needs, with the extras that are asked for on the way, without itself."""
    found, waiting = set[tuple[str, str]](), [(canonicalize_name(name), "")]
    while waiting:
        needed, extra = waiting.pop()
        if (needed, extra) in found:
            continue
        found.add((needed, extra))
        for line in distribution(needed).requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return {needed for needed, _ in found} - {canonicalize_name(name)}


def link(name: str, site: Path) -> int:
    """Link the packages of `closure` into a folder of packages; returns how many distributions they are."""
    names = closure(name)
    for each in names:
        files = distribution(each).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            source, target = Path(str(distribution(each).locate_file(top))), site / top
            if source.exists() and not target.exists():
                target.symlink_to(source.resolve())
    return len(names)


def main() -> None:
    """See the top of this file."""
    python, name = sys.argv[1:]
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    print(f"{link(name, site)} distributions linked into {site}")


if __name__ == "__main__":
    main()
