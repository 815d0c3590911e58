"""Every kind of bad input of `bad_inputs`: exit code 2, one line, nothing run, nothing written, no memory eaten; and the
document."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

from bad_inputs import CASES, DOCUMENT, HINT, Bad, document, name_of, row, said

ROWS: dict[str, str] = {}
"""What was said so far, for the document."""
MEMORY = 400 * 2**10
"""Kilobytes a refusal may add to the most that was ever used: the imports of a command take most of it, a bomb gigabytes."""


@pytest.mark.parametrize("bad", [pytest.param(bad, id=name_of(bad)) for bad in CASES])
def test_bad_input_ends_in_one_line(bad: Bad, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, out, err, words = said(bad, tmp_path)
    ROWS[name_of(bad)] = row(bad, tmp_path, words, err)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert re.fullmatch(r"coinseg: error: .+; required: .+; .+\n", err)
    assert err[:-1].isprintable()
    assert len(err) < 6500
    assert not list(tmp_path.rglob("PWNED"))
    written = tmp_path / (words[words.index("-o") + 1] if "-o" in words else "nowhere")
    assert not (written.is_file() and written.read_text() != "x")
    if written.is_dir() and written.name == "out":
        assert not list(written.glob("*.nii.gz"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def test_the_document_is_what_is_said(tmp_path: Path) -> None:
    assert len(CASES) > 200  # as SECURITY.md says
    assert len({name_of(bad) for bad in CASES}) == len(CASES)
    for i, bad in enumerate(CASES):
        if name_of(bad) not in ROWS:  # this test alone, or on a process of its own
            (tmp_path / str(i)).mkdir()
            _, _, err, words = said(bad, tmp_path / str(i))
            ROWS[name_of(bad)] = row(bad, tmp_path / str(i), words, err)
    wanted, found = document(ROWS).splitlines(), DOCUMENT.read_text(encoding="utf-8").splitlines()
    changed = [f"{old}\n{new}" for old, new in zip(found, wanted, strict=False) if old != new]
    assert wanted == found, f"{HINT}\n" + "\n".join(changed[:5])


def test_every_family_of_lines_is_in_the_questions_and_faults() -> None:
    families = re.findall(r"^## (.+)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    faq = (DOCUMENT.parent / "guide" / "faq.md").read_text(encoding="utf-8")
    anchors = [re.sub(r"[^a-z ]", "", family.lower()).replace(" ", "-") for family in families]
    assert len(anchors) > 10
    assert [anchor for anchor in anchors if f"(../robustness.md#{anchor})" not in faq] == []
