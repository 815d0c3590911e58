"""Laws of the store: a stroke that was acknowledged is there after kill -9, undo has no end, a decision keeps its mask."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinseg.errors import UserError
from coinseg.review.kept import schema
from coinseg.review.kept.changes import Change, packed, unpacked
from coinseg.review.kept.records import CaseRecord
from coinseg.review.kept.store import Store, reviewed

SHAPE = (3, 8, 9)


def draft() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[1, 2:5, 3:6] = True
    return mask


def new_store(folder: Path, cases: int = 1) -> Store:
    store = Store(folder)
    store.list_cases([CaseRecord(f"c{i}", f"p{i}", f"/scans/c{i}.nii.gz", True, "training") for i in range(cases)])
    for i in range(cases):
        store.keep_draft(f"c{i}", draft())
    return store


def point(z: int, y: int, x: int) -> Change:
    return Change((z, z + 1, y, y + 1, x, x + 1), np.ones((1, 1, 1), bool))


@given(st.integers(0, 2**16), st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=30, deadline=None)
def test_a_change_turns_one_mask_into_the_other_and_back(seed: int, shape: tuple[int, int, int]) -> None:
    a, b = (np.random.default_rng(seed + i).random(shape) < 0.3 for i in range(2))
    np.testing.assert_array_equal(unpacked(packed(a), shape), a)
    change, now = Change.between(a, b), a.copy()
    if change is None:
        np.testing.assert_array_equal(a, b)
        return
    assert change.fits(shape)
    assert change.apply(now) == int(b.sum()) - int(a.sum())
    np.testing.assert_array_equal(now, b)
    assert change.apply(now) == int(a.sum()) - int(b.sum())
    np.testing.assert_array_equal(now, a)


def test_undo_and_redo_go_all_the_way_and_a_new_stroke_ends_the_redo(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    states = [store.mask("c0", "ann")]
    for i in range(40):
        assert store.stroke("c0", "ann", "brush", point(i % 3, i % 8, i % 9), f"k{i}")
        states.append(store.mask("c0", "ann"))
    for wanted in reversed(states[:-1]):
        assert store.undo("c0", "ann")
        np.testing.assert_array_equal(store.mask("c0", "ann"), wanted)
    assert store.undo("c0", "ann") == []
    for wanted in states[1:]:
        assert store.undo("c0", "ann", redo=True)
        np.testing.assert_array_equal(store.mask("c0", "ann"), wanted)
    assert store.undo("c0", "ann", redo=True) == []
    store.undo("c0", "ann")
    store.stroke("c0", "ann", "brush", point(0, 7, 7), "new")
    assert store.depth("c0", "ann") == (40, 0)
    assert store.edits("c0", "ann") == 122


def test_the_parts_of_a_gesture_are_undone_together(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for i, gesture in enumerate(("a", "b", "b", "b", "c")):
        store.stroke("c0", "ann", "brush", point(0, i, i), f"k{i}", gesture)
    assert store.depth("c0", "ann") == (3, 0)
    assert len(store.undo("c0", "ann")) == 1
    assert len(store.undo("c0", "ann")) == 3
    assert store.mask("c0", "ann")[0].sum() == 1
    assert len(store.undo("c0", "ann", redo=True)) == 3
    assert store.mask("c0", "ann")[0].sum() == 4


def test_a_stroke_sent_twice_counts_once_and_reviewers_have_masks_of_their_own(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    assert not store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    assert store.mask("c0", "ann")[0, 0, 0]
    np.testing.assert_array_equal(store.mask("c0", "bob"), draft())


def test_a_decision_keeps_its_mask_and_is_stale_when_the_mask_changes(tmp_path: Path) -> None:
    store = new_store(tmp_path, cases=4)
    assert store.decide("c0", "ann", "accepted", store.mask("c0", "ann")) == "accepted"
    store.stroke("c1", "ann", "brush", point(0, 0, 0), "k1")
    assert store.decide("c1", "ann", "accepted", store.mask("c1", "ann"), "better", 12) == "corrected"
    store.decide("c2", "ann", "rejected", store.mask("c2", "ann"))
    store.decide("c3", "ann", "redraw", None)
    found = {one.case: one for one in reviewed(tmp_path)}
    assert {name: one.state for name, one in found.items()} == {"c0": "accepted", "c1": "corrected", "c2": "rejected"}
    assert (found["c1"].patient, found["c1"].side, found["c1"].reviewer, found["c1"].image.name) == (
        "p1",
        "training",
        "ann",
        "c1.nii.gz",
    )
    assert found["c1"].mask.sum() == 10
    assert not found["c2"].mask.any()
    store.stroke("c1", "ann", "brush", point(0, 1, 1), "k2")
    assert {d.case: d.stale for d in store.decisions()} == {"c0": False, "c1": True, "c2": False, "c3": False}
    assert [one.case for one in reviewed(tmp_path)] == ["c0", "c2"]
    store.decide("c1", "ann", "accepted", store.mask("c1", "ann"))
    assert next(one for one in reviewed(tmp_path) if one.case == "c1").mask.sum() == 11


def test_who_skips_a_case_that_he_decided_takes_nothing_back(tmp_path: Path) -> None:
    """Paging on with S through decided cases took every decision back."""
    store = new_store(tmp_path, cases=2)
    store.decide("c0", "ann", "accepted", store.mask("c0", "ann"), "fine")
    assert [store.decide("c0", "ann", "skipped", None, comment) for comment in ("fine", "")] == ["accepted"] * 2
    assert [(one.state, one.comment) for one in store.decisions()] == [("accepted", "fine")]
    with pytest.raises(
        UserError, match=r"a comment, and the case is accepted and was only skipped; .*; decide the case once more"
    ):
        store.decide("c0", "ann", "skipped", None, "not so sure")
    assert store.decide("c0", "bob", "skipped", None, "later") == "skipped"
    assert [(one.case, one.reviewer) for one in reviewed(tmp_path)] == [("c0", "ann")]
    store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    assert store.decide("c0", "ann", "skipped", None) == "skipped"  # the mask was changed, so it was open again
    assert reviewed(tmp_path) == []


def test_of_two_reviewers_the_later_counts_also_when_the_clock_went_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path)
    store.decide("c0", "ann", "accepted", store.mask("c0", "ann"))
    monkeypatch.setattr("coinseg.review.kept.store._now", lambda: "1999-01-01T00:00:00+00:00")
    store.decide("c0", "bob", "rejected", store.mask("c0", "bob"))
    (one,) = reviewed(tmp_path)
    assert (one.reviewer, one.state) == ("bob", "rejected")


def test_cases_that_are_gone_keep_what_was_decided(tmp_path: Path) -> None:
    store = new_store(tmp_path, cases=2)
    store.decide("c0", "ann", "accepted", store.mask("c0", "ann"))
    store.list_cases([CaseRecord("c1", "p1", "/elsewhere/c1.nii.gz", True)])
    assert [case.id for case in store.cases()] == ["c1"]
    assert [case.id for case in store.cases(gone=True)] == ["c0", "c1"]
    assert [one.case for one in reviewed(tmp_path)] == ["c0"]


def test_a_mask_that_was_made_again_is_the_draft_only_where_nobody_changed_or_decided_anything(tmp_path: Path) -> None:
    store, again = new_store(tmp_path, cases=3), np.ones(SHAPE, bool)
    store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    store.undo("c0", "ann")
    store.decide("c1", "bob", "unsure", None)
    for case in ("c0", "c1", "c2"):
        store.keep_draft(case, again)
        wanted = again if case == "c2" else draft()
        np.testing.assert_array_equal(store.mask(case, "ann"), wanted)
        assert store.is_touched(case) == (case != "c2")


@pytest.mark.parametrize(
    ("last", "counts"), [("rejected", "bob"), ("skipped", "ann"), ("redraw", ""), ("unsure", ""), ("changed", "")]
)
def test_what_another_reviewer_doubted_or_began_to_change_after_it_was_accepted_is_not_taught(
    tmp_path: Path, last: str, counts: str
) -> None:
    store = new_store(tmp_path)
    store.decide("c0", "ann", "accepted", store.mask("c0", "ann"))
    store.decide("c0", "bob", "accepted" if last == "changed" else last, store.mask("c0", "bob"))
    if last == "changed":
        store.stroke("c0", "bob", "brush", point(0, 0, 0), "k")
    assert [one.reviewer for one in reviewed(tmp_path)] == ([counts] if counts else [])


def test_a_decision_of_before_comes_behind_none_that_another_reviewer_made_since(tmp_path: Path) -> None:
    """As those of case pages, which are imported days later."""
    store = new_store(tmp_path, cases=2)
    for case in ("c0", "c1"):
        store.decide(case, "bob", "rejected", store.mask(case, "bob"), "nothing", 7)
    (bob, _) = store.decisions()
    store.decide("c0", "ann", "accepted", store.mask("c0", "ann"), time="2001-01-01T00:00:00+00:00")
    store.decide("c1", "ann", "accepted", store.mask("c1", "ann"), time="2999-01-01T00:00:00+00:00")
    assert [(one.case, one.reviewer) for one in reviewed(tmp_path)] == [("c0", "bob"), ("c1", "ann")]
    found = {(one.case, one.reviewer): one for one in store.decisions()}
    assert len(found) == 4
    again = found["c0", "bob"]
    assert (again.state, again.comment, again.time, again.seconds, again.stale) == ("rejected", "nothing", bob.time, 7, False)


def test_what_was_decided_of_a_scan_is_not_of_another_one_of_its_name(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def lies_there(digest: str) -> list[str]:
        return store.list_cases([CaseRecord("c0", "p0", "/scans/c0.nii.gz", True, "", {"sha256": digest * 16})])

    lies_there("aaaa")
    store.keep_draft("c0", draft())
    store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    store.decide("c0", "ann", "accepted", store.mask("c0", "ann"))
    assert (lies_there("aaaa"), lies_there("bbbb")) == ([], ["c0"])
    assert store.draft("c0") is None
    assert (store.edits("c0", "ann"), store.depth("c0", "ann")) == (0, (0, 0))
    assert [case.id for case in store.cases(gone=True)] == ["c0 (aaaaaaaa)", "c0"]
    (one,) = reviewed(tmp_path)
    assert (one.case, one.sha256, int(one.mask.sum())) == ("c0 (aaaaaaaa)", "aaaa" * 16, 10)
    store.keep_draft("c0", np.zeros(SHAPE, bool))
    store.decide("c0", "ann", "rejected", store.mask("c0", "ann"))
    for digest, state in (("aaaa", "corrected"), ("bbbb", "rejected"), ("aaaa", "corrected")):
        lies_there(digest)  # each scan has what was decided of it
        assert {one.case: one.state for one in store.decisions()}["c0"] == state
        assert len(reviewed(tmp_path)) == 2
    assert store.undo("c0", "ann")
    assert store.mask("c0", "ann").sum() == 9
    store.close()
    Store(tmp_path).close()  # which would find cases that are not there


WRITER = """
import sys, numpy as np
from pathlib import Path
from coinseg.review.kept.changes import Change
from coinseg.review.kept.store import Store
store, i = Store(Path(sys.argv[1])), 0
while True:
    z, y, x = i % 3, i // 3 % 8, i // 24 % 9
    store.stroke("c0", "ann", "brush", Change((z, z + 1, y, y + 1, x, x + 1), np.ones((1, 1, 1), bool)), f"k{i}")
    i += 1
    print(i, flush=True)
"""


def test_every_acknowledged_stroke_survives_kill_9(tmp_path: Path) -> None:
    new_store(tmp_path).close()
    for most in (1, 7, 50):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        told = 0
        for line in writer.stdout:
            told = int(line)
            if told >= most:
                os.kill(writer.pid, signal.SIGKILL)
                break
        rest = writer.stdout.read().split()
        writer.wait()
        told = int(rest[-1]) if rest else told
        store = Store(tmp_path)
        done, _ = store.depth("c0", "ann")
        assert done in (told, told + 1)  # one may have been committed and not told
        wanted = draft()
        for i in range(done):
            wanted[i % 3, i // 3 % 8, i // 24 % 9] ^= True
        np.testing.assert_array_equal(store.mask("c0", "ann"), wanted)
        while store.undo("c0", "ann"):
            pass
        store._connection.execute("DELETE FROM strokes")
        store.close()


def test_migrations_keep_what_is_there_and_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path)
    store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    store.close()
    later = (*schema.MIGRATIONS, "ALTER TABLE cases ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey';")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", later)
        with pytest.raises(UserError, match="version 1 of its tables"):  # reading alone changes nothing
            reviewed(tmp_path)
        for _ in range(2):
            store = Store(tmp_path)
            assert store.mask("c0", "ann")[0, 0, 0]
            assert store.rows("SELECT colour FROM cases")[0]["colour"] == "grey"
            store.close()
    with pytest.raises(UserError, match=r"version 2 of its tables.*later coinseg"):
        Store(tmp_path)


def test_a_migration_that_is_cut_short_leaves_the_old_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_store(tmp_path).close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE more (x); CREATE TABLE more (x);"))
        with pytest.raises(UserError, match="damaged"):
            Store(tmp_path)
    store = Store(tmp_path)
    assert "more" not in {row["name"] for row in store.rows("SELECT name FROM sqlite_master")}


def _database(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize("write", [True, False])
def test_what_is_no_database_of_the_desk_is_one_line(tmp_path: Path, write: bool) -> None:
    file = tmp_path / schema.FILE
    if not write:
        with pytest.raises(UserError, match=r"has no review\.sqlite"):
            Store(tmp_path, write)
    file.write_bytes(b"no database " * 100)
    with pytest.raises(UserError, match="damaged"):
        Store(tmp_path, write)
    file.unlink()
    _database(file, "CREATE TABLE photos (x)")
    with pytest.raises(UserError, match="no database of the desk"):
        Store(tmp_path, write)
    file.unlink()
    new_store(tmp_path).close()
    _database(file, "CREATE TRIGGER t AFTER INSERT ON strokes BEGIN DELETE FROM strokes; END")
    with pytest.raises(UserError, match="a trigger or a view"):
        Store(tmp_path, write)


def test_a_database_cannot_call_what_its_schema_names(tmp_path: Path) -> None:
    for write in (True, False):
        store = new_store(tmp_path) if write else Store(tmp_path, write)
        for name, wanted in (("trusted_schema", 0), ("cell_size_check", 1)):
            assert store._connection.execute(f"PRAGMA {name}").fetchone()[0] == wanted
        store.close()


WRONG = [
    *(f"UPDATE cases SET {column} = {value}" for column in ("slices", "rows", "columns") for value in (-1, 0, "'x'", 1e300)),
    "UPDATE cases SET slices = 60000, rows = 60000, columns = 60000", "UPDATE cases SET draft = 'text'",
    "UPDATE cases SET image = x'00'", "UPDATE cases SET numbers = '[1]'", "UPDATE cases SET numbers = '{\"a\": NaN}'",
    f"UPDATE cases SET numbers = '{'[' * 5000}'", "UPDATE decisions SET mask = 'text'", "UPDATE decisions SET reviewer = x'ff'",
    "UPDATE decisions SET \"case\" = 'nobody'", "UPDATE strokes SET z0 = 'x'", "UPDATE strokes SET \"case\" = 'nobody'",
    "UPDATE edits SET count = x''", "DROP TABLE strokes", "ALTER TABLE decisions DROP COLUMN mask",
    "ALTER TABLE cases RENAME COLUMN patient TO other", "ALTER TABLE decisions RENAME COLUMN comment TO other",
]  # fmt: skip


@pytest.mark.parametrize("statement", WRONG, ids=range(len(WRONG)))
def test_values_that_no_column_has_are_damage(tmp_path: Path, statement: str) -> None:
    store = new_store(tmp_path)
    store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    store.decide("c0", "ann", "corrected", store.mask("c0", "ann"))
    store.close()
    assert [one.case for one in reviewed(tmp_path)] == ["c0"]
    _database(tmp_path / schema.FILE, "PRAGMA foreign_keys=OFF", statement)
    for write in (True, False):
        with pytest.raises(UserError, match="damaged") as error:
            Store(tmp_path, write)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("write", [True, False])
def test_names_that_are_no_utf_8_are_damage(tmp_path: Path, write: bool) -> None:
    new_store(tmp_path).close()
    content = (tmp_path / schema.FILE).read_bytes()
    assert content.count(b"strokes_of ON strokes") == 1
    (tmp_path / schema.FILE).write_bytes(content.replace(b"strokes_of ON strokes", b"strokes_of ON str\x8ekes"))
    with pytest.raises(UserError, match="damaged"):
        Store(tmp_path, write)


def test_damaged_masks_and_bombs_are_one_line(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for bytes_ in (b"", b"nothing", packed(np.zeros((9, 9, 9), bool)), zlib.compress(bytes(10**7))):
        store._connection.execute("UPDATE cases SET draft = ?", [bytes_])
        with pytest.raises(UserError, match="kept by the desk is damaged"):
            store.mask("c0", "ann")
    store._connection.execute("UPDATE cases SET draft = ?", [packed(draft())])
    store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    store._connection.execute("UPDATE strokes SET z0 = 7, z1 = 8")
    with pytest.raises(UserError, match="outside of its mask"):
        store.mask("c0", "ann")


def test_a_database_in_use_elsewhere_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store._connection.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(tmp_path / schema.FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="in use by another program"):
        store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")
    other.execute("ROLLBACK")
    assert store.stroke("c0", "ann", "brush", point(0, 0, 0), "k")


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.stroke("c0", "ann", "brush", point(0, 0, 0), "before")
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count={pages}")
    flips = np.random.default_rng(0).random(SHAPE) < 0.5
    i = 0
    with pytest.raises(UserError, match="room on the disk"):  # noqa: PT012
        for i in range(200):
            store.stroke("c0", "ann", "brush", Change((0, 3, 0, 8, 0, 9), flips), f"k{i}")
    store._connection.execute("PRAGMA max_page_count=100000")
    done, _ = store.depth("c0", "ann")
    assert done == i + 1
    assert store.mask("c0", "ann")[0, 0, 0] == bool(flips[0, 0, 0] & (i % 2 == 1)) ^ True


def test_a_database_on_a_disk_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.decide("c0", "ann", "accepted", store.mask("c0", "ann"))
    assert [one.case for one in reviewed(tmp_path)] == ["c0"]  # while the desk is open
    store.close()
    tmp_path.chmod(0o500)
    try:
        assert [one.case for one in reviewed(tmp_path)] == ["c0"]
    finally:
        tmp_path.chmod(0o700)
