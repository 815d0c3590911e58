"""What can go wrong on the desk: one clear line each, and no stroke or decision is lost."""

from __future__ import annotations

import io
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from desks import SHAPE, masks_folder
from PIL import Image
from starlette.testclient import TestClient

from coinseg.cli.main import main
from coinseg.errors import UserError
from coinseg.review import guard as guards
from coinseg.review import serve, server
from coinseg.review.desk import Desk, Rules, desk_on
from coinseg.review.guard import Guard
from coinseg.review.server import app_of
from coinseg.review.sources import key_of_case, read_source
from writers import PLAIN, write_nifti

HOST = "127.0.0.1:8642"
Response = Any
SCAN, PICTURE = key_of_case("s00.nii.gz"), key_of_case("p00.png")
TOOL = f"/api/cases/{SCAN}/tool"


@dataclass
class Opened:
    """A desk behind its server, for one test."""

    client: TestClient
    desk: Desk
    guard: Guard
    root: Path

    def get(self, path: str, **headers: str | bytes) -> Response:
        return self.client.get(path, headers=headers)

    def post(self, path: str, json: Any = None, content: bytes | None = None, **headers: str) -> Response:
        return self.client.post(path, json=json, content=content, headers=headers)

    def stroke(self, content: bytes = b"\xff", key: str = SCAN, **words: object) -> Response:
        usual = {"plane": "axial", "index": 3, "top": 1, "left": 2, "rows": 2, "columns": 4, "value": 1, "name": "stroke-1"}
        query = "&".join(f"{name}={value}" for name, value in (usual | words).items() if value is not None)
        return self.post(f"/api/cases/{key}/strokes?{query}", content=content)

    def tool(self, tool: str, **words: object) -> Response:
        usual = {
            "plane": "axial",
            "index": 6,
            "whole": False,
            "row": 0,
            "column": 0,
            "amount": 1,
            "name": "tool-0001",
            "first": 0,
        }
        return self.post(f"/api/cases/{SCAN}/tool", usual | {"last": 0, "tool": tool} | words)

    def decide(self, **words: object) -> Response:
        usual = {"state": "accepted", "comment": "", "seconds": 3, "edits": 0}
        return self.post(f"/api/cases/{SCAN}/decision", usual | words)

    def upload(self, name: str, content: bytes, key: str = SCAN) -> Response:
        return self.post(f"/api/cases/{key}/mask?file={name}&name=upload-1", content=content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masks_folder(tmp_path_factory.mktemp("desk"), cases=1, images=1)


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Iterator[Opened]:
    """A desk on a copy of the folder, with one stroke and one decision that must survive whatever a test does."""
    root = tmp_path / "root"
    shutil.copytree(folder.parent, root)
    source = read_source(root / "masks", scans=root / "scans", confidences=root / "confidence")
    with desk_on(source, None, Rules()) as desk:
        guard = Guard([HOST])
        headers = {"Authorization": f"Bearer {guard.token}", "X-Reviewer": "ann"}
        client = TestClient(app_of(desk, guard), base_url=f"http://{HOST}", headers=headers, raise_server_exceptions=False)
        yield Opened(client, desk, guard, root)


def nifti(tmp: Path, array: np.ndarray, affine: np.ndarray = PLAIN) -> bytes:
    return write_nifti(tmp / "up.nii.gz", array, affine).read_bytes()


def png(shape: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(file, "PNG")
    return file.getvalue()


def empty(o: Opened) -> Opened:
    """All of the mask taken away."""
    o.tool("clear", whole=True, name="clear-001")
    return o


Fault = tuple[str, Callable[[Opened], Response], int, str]
FAULTS: list[Fault] = [
    # who asks
    ("no token", lambda o: o.get("/api/queue", Authorization=""), 401, "token is missing"),
    ("wrong token", lambda o: o.get("/api/queue", Authorization="Bearer nonsense"), 401, "not that of this start"),
    ("token of a server before", lambda o: o.get("/api/queue", Authorization=f"Bearer {Guard([HOST]).token}"), 401, "open"),
    ("token in the query", lambda o: o.get(f"/api/queue?token={o.guard.token}", Authorization=""), 401, "token is missing"),
    ("basic authorization", lambda o: o.get("/api/queue", Authorization=f"Basic {o.guard.token}"), 401, "token is missing"),
    ("bearer of nothing", lambda o: o.get("/api/queue", Authorization="Bearer"), 401, "token is missing"),
    ("bearer of bytes", lambda o: o.get("/api/queue", Authorization=b"Bearer \xff\xfe"), 401, "not that of this start"),
    ("another host (DNS rebinding)", lambda o: o.get("/api/queue", Host="evil.example"), 421, "this desk is not 'evil.example'"),
    ("another port", lambda o: o.get("/", Host="127.0.0.1:1"), 421, "this desk is not"),
    ("no host", lambda o: o.get("/", Host=""), 421, "this desk is not"),
    ("a page from elsewhere", lambda o: o.get("/api/queue", Origin="https://evil.example"), 403, "page from elsewhere"),
    ("a page of no origin", lambda o: o.post("/api/export/csv", Origin="null"), 403, "page from elsewhere"),
    ("another port's page", lambda o: o.get("/", Origin="http://127.0.0.1:9"), 403, "page from elsewhere"),
    ("a link from elsewhere", lambda o: o.get("/api/queue", **{"Sec-Fetch-Site": "cross-site"}), 403, "page from elsewhere"),
    ("a password where there is none", lambda o: o.post("/api/login", {"password": "x"}), 400, "password is wrong"),
    ("a login of nothing", lambda o: o.post("/api/login", content=b""), 400, "no JSON"),
    ("no reviewer", lambda o: o.get("/api/queue", **{"X-Reviewer": ""}), 400, "without the name of a reviewer"),
    ("a name of 61 letters", lambda o: o.get("/api/queue", **{"X-Reviewer": "x" * 61}), 400, "1 to 60 letters"),
    ("a name with a line break", lambda o: o.get("/api/queue", **{"X-Reviewer": "a%0Ab"}), 400, "1 to 60 letters"),
    ("a name with an escape", lambda o: o.get("/api/queue", **{"X-Reviewer": "a%1B[2J"}), 400, "1 to 60 letters"),
    # where
    ("a path as a case", lambda o: o.get("/api/cases/..%2f..%2fetc%2fpasswd"), 404, ""),
    ("dots as a case", lambda o: o.get("/api/cases/%2e%2e"), 400, "no such case"),
    ("an id as a case", lambda o: o.get("/api/cases/s00.nii.gz"), 400, "no such case"),
    ("a file of the server", lambda o: o.get("/page/server.py"), 404, "no such page"),
    ("a file above the page", lambda o: o.get("/page/..%2fserver.py"), 404, ""),
    ("an address that is none", lambda o: o.get("/api/nothing"), 404, ""),
    ("a method that is none", lambda o: o.post("/api/queue"), 405, ""),
    ("a layer that is none", lambda o: o.get(f"/api/cases/{SCAN}/layers/x/axial/0"), 400, "this case has no x"),
    ("a plane that is none", lambda o: o.get(f"/api/cases/{SCAN}/image/oblique/0"), 400, "the plane 'oblique'"),
    ("a slice behind the last", lambda o: o.get(f"/api/cases/{SCAN}/image/axial/{SHAPE[0]}"), 400, f"slice {SHAPE[0]} of"),
    ("a slice before the first", lambda o: o.get(f"/api/cases/{SCAN}/image/axial/-1"), 400, "slice -1 of"),
    ("a slice far away", lambda o: o.get(f"/api/cases/{SCAN}/image/axial/{10**30}"), 400, "index is '1000"),
    ("a slice of 5000 digits", lambda o: o.get(f"/api/cases/{SCAN}/image/axial/{'9' * 5000}"), 400, "index is '9999"),
    ("a slice in other digits", lambda o: o.stroke(index="%D9%A3"), 400, "a whole number"),
    ("a layer's slice that is none", lambda o: o.get(f"/api/cases/{SCAN}/layers/mask/axial/x"), 400, "index is 'x'"),
    ("the side of a picture", lambda o: o.get(f"/api/cases/{PICTURE}/image/sagittal/900"), 400, "slice 900"),
    ("a picture in 3-D", lambda o: o.get(f"/api/cases/{PICTURE}/solid"), 400, "no third axis"),
    ("the truth of scans without", lambda o: o.get(f"/api/cases/{SCAN}/layers/truth/axial/0"), 400, "this case has no truth"),
    ("a model that is gone", lambda o: o.get(f"/api/cases/{SCAN}/layers/counterfactual/axial/0"), 400, "no counterfactual"),
    ("an export that is none", lambda o: o.post("/api/export/zip"), 400, "the export 'zip'"),
    ("a path as an export", lambda o: o.post("/api/export/..%2fx"), 404, ""),
    ("an export of nothing", lambda o: o.post("/api/export/masks"), 400, "no case was accepted"),
    # what is sent
    ("a body that is too long", lambda o: o.post(TOOL, content=b" " * 70000), 400, "a body of 70000 bytes"),
    ("a length that is none", lambda o: o.post(TOOL, content=b"{}", **{"Content-Length": "many"}), 400, "a body of"),
    ("a length of no digits", lambda o: o.post(TOOL, content=b"{}", **{"Content-Length": b"\xb2"}), 400, "a body of"),
    ("a number of 5000 digits", lambda o: o.post(TOOL, content=b'{"index": ' + b"9" * 5000 + b"}"), 400, "no JSON"),
    ("half a letter as a password", lambda o: o.post("/api/login", content=b'{"password": "\\ud800"}'), 400, "password is wrong"),
    ("a name written backwards", lambda o: o.get("/api/queue", **{"X-Reviewer": "a%E2%80%AEb"}), 400, "1 to 60 letters"),
    ("no JSON", lambda o: o.post(TOOL, content=b"\xff{"), 400, "no JSON"),
    ("JSON without end", lambda o: o.post(TOOL, content=b"[" * 60000), 400, "no JSON"),
    ("NaN", lambda o: o.post(TOOL, content=b'{"amount": NaN}'), 400, "no JSON"),
    ("infinite seconds", lambda o: o.post(f"/api/cases/{SCAN}/decision", content=b'{"seconds": 1e999}'), 400, "no JSON"),
    ("a list", lambda o: o.post(TOOL, []), 400, "without what it needs"),
    ("a text for a number", lambda o: o.tool("grow", amount="1"), 400, "without what it needs"),
    ("a yes for a number", lambda o: o.tool("grow", index=True), 400, "a wrong number"),
    ("a number beyond all", lambda o: o.tool("grow", index=10**20), 400, "a wrong number"),
    # strokes
    ("too few bits", lambda o: o.stroke(b""), 400, "a stroke of 0 bytes for 2 x 4"),
    ("too many bits", lambda o: o.stroke(b"\xff\xff"), 400, "a stroke of 2 bytes"),
    ("a stroke of no rows", lambda o: o.stroke(b"", rows=0), 400, "a stroke of 0 bytes"),
    ("a stroke beyond the image", lambda o: o.stroke(top=SHAPE[1] - 1), 400, "a stroke beyond the image"),
    ("a stroke before the image", lambda o: o.stroke(left=-1), 400, "a stroke beyond the image"),
    ("a stroke on no slice", lambda o: o.stroke(index=99), 400, "slice 99"),
    ("a stroke on slice -1", lambda o: o.stroke(index=-1), 400, "slice -1"),
    ("a stroke on no plane", lambda o: o.stroke(plane="x"), 400, "the plane 'x'"),
    ("a stroke of no value", lambda o: o.stroke(value="yes"), 400, "value is 'yes'"),
    ("a stroke without a name", lambda o: o.stroke(name=None), 400, "a stroke without a name"),
    ("a stroke with an odd name", lambda o: o.stroke(name="'; DROP TABLE"), 400, "a stroke without a name"),
    ("a stroke on no case", lambda o: o.stroke(key="0" * 16), 400, "no such case"),
    # tools
    ("a tool that is none", lambda o: o.tool("laser"), 400, "the tool 'laser'"),
    ("a tool on no plane", lambda o: o.tool("grow", plane="x"), 400, "the plane 'x'"),
    ("a tool on no slice", lambda o: o.tool("grow", index=77), 400, "slice 77"),
    ("a click beyond the image", lambda o: o.tool("fill", row=4000), 400, "a click beyond the image"),
    ("deleting a part of nothing", lambda o: o.tool("component"), 400, "no mask at that place"),
    ("deleting what is nowhere", lambda o: empty(o).tool("component", whole=True), 400, "no mask at that place"),
    ("filling what is open", lambda o: o.tool("fill"), 400, "not enclosed"),
    ("between neighbours", lambda o: o.tool("interpolate", first=5, last=6), 400, "are neighbours"),
    ("between nothing", lambda o: empty(o).tool("interpolate", first=5, last=8), 400, "has no mask"),
    ("between slices beyond", lambda o: o.tool("interpolate", first=5, last=99), 400, "slices 6 and 100 of"),
    # decisions
    ("a decision that is none", lambda o: o.decide(state="perhaps", edits=1), 400, "the decision is 'perhaps'"),
    ("a comment without end", lambda o: o.decide(comment="x" * 5000, edits=1), 400, "a comment of 5000"),
    ("changed in another tab", lambda o: o.decide(edits=7), 400, "changed in another tab"),
    # files
    ("a file of another kind", lambda o: o.upload("mask.exe", b"MZ"), 400, "the file 'mask.exe'"),
    ("a path as a file", lambda o: o.upload("../../mask.nii.gz", b"no"), 400, "cannot be read"),
    ("a broken mask", lambda o: o.upload("mask.nii.gz", b"\x1f\x8b broken"), 400, "cannot be read"),
    ("an empty mask file", lambda o: o.upload("ann.nii.gz", b""), 400, "ann.nii.gz cannot be read"),
    ("a mask of another scan", lambda o: o.upload("m.nii.gz", nifti(o.root, np.zeros((5, 5, 5)))), 400, "the same grid"),
    (
        "a mask that lies elsewhere",
        lambda o: o.upload("m.nii.gz", nifti(o.root, np.zeros(SHAPE[::-1]), PLAIN + np.eye(4, k=3) * 9)), 400, "voxels away",
    ),
    ("a picture of another size", lambda o: o.upload("m.png", png((9, 9)), PICTURE), 400, "the same size"),
    ("a volume for a picture", lambda o: o.upload("m.nii.gz", b"", PICTURE), 400, "a name that ends in .png"),
]  # fmt: skip


@pytest.mark.parametrize(("do", "status", "line"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_every_fault_is_one_line_and_nothing_is_lost(
    opened: Opened, do: Callable[[Opened], Response], status: int, line: str
) -> None:
    assert opened.stroke(name="kept-0001").status_code == 200
    kept = opened.desk.editor.mask(SCAN, "ann").copy()
    answer = do(opened)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Security-Policy"] == guards.HEADERS["Content-Security-Policy"]
    if line:
        said = answer.json()["error"]
        assert line in said
        assert "\n" not in said
        assert "Traceback" not in said
    done, undone = opened.desk.store.depth("s00.nii.gz", "ann")
    assert undone == 0
    if done == 1:  # the tests that cleared the mask first have two strokes
        np.testing.assert_array_equal(opened.desk.store.mask("s00.nii.gz", "ann"), kept)
    assert opened.get("/api/queue").status_code == 200


def test_there_are_sixty_kinds() -> None:
    assert len(FAULTS) >= 60
    assert len({fault[0] for fault in FAULTS}) == len(FAULTS)


def _damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = b"x" * 9
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("do", "line"),
    [
        (lambda root: (root / "scans" / "s00.nii.gz").rename(root / "moved.nii.gz"), "s00.nii.gz is gone"),
        (lambda root: _damage(root / "scans" / "s00.nii.gz"), "is not the scan its mask was made of"),
        (lambda root: (root / "masks" / "s00.nii.gz").unlink(), "is missing or no file"),
        (lambda root: _damage(root / "masks" / "s00.nii.gz"), "cannot be read"),
        (lambda root: write_nifti(root / "masks" / "s00.nii.gz", np.zeros((4, 4, 4), np.uint8)), "the same grid"),
    ],
    ids=["scan moved", "scan changed", "draft gone", "draft broken", "draft of another scan"],
)  # fmt: skip
def test_files_that_went_wrong_meanwhile_are_one_line(opened: Opened, do: Callable[[Path], object], line: str) -> None:
    do(opened.root)
    answer = opened.get(f"/api/cases/{SCAN}")
    assert (answer.status_code, line in answer.json()["error"]) == (400, True), answer.text
    assert opened.get(f"/api/cases/{PICTURE}").status_code == 200  # the others go on


def test_a_broken_confidence_is_one_line_and_the_case_stays_open(opened: Opened) -> None:
    _damage(opened.root / "confidence" / "s00.nii.gz")
    answer = opened.get(f"/api/cases/{SCAN}/layers/confidence/axial/0")
    assert (answer.status_code, "cannot be read" in answer.json()["error"]) == (400, True)
    assert opened.tool("threshold").status_code == 400
    assert opened.get(f"/api/cases/{SCAN}").status_code == 200


def test_a_scan_that_came_back_is_read_again(opened: Opened) -> None:
    scan = opened.root / "scans" / "s00.nii.gz"
    scan.rename(opened.root / "moved.nii.gz")
    assert opened.get(f"/api/cases/{SCAN}").status_code == 400
    (opened.root / "moved.nii.gz").rename(scan)
    assert opened.get(f"/api/cases/{SCAN}").status_code == 200


def test_an_upload_that_is_too_large_is_one_line(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(3):
            yield bytes(server.MOST_WORDS // 2)

    answer = opened.client.post(f"/api/cases/{SCAN}/tool", content=parts())  # which does not say its length
    assert (answer.status_code, "more than 65536 bytes" in answer.json()["error"]) == (400, True)


def test_a_full_disk_and_a_database_in_use_ask_for_the_stroke_again(opened: Opened) -> None:
    store = opened.desk.store
    assert opened.get(f"/api/cases/{SCAN}").status_code == 200
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count={pages}")
    before = opened.desk.editor.mask(SCAN, "ann").copy()
    whole = {"rows": SHAPE[1], "columns": SHAPE[2], "top": 0, "left": 0}
    noise = [np.packbits(np.random.default_rng(i).random(SHAPE[1:]) < 0.5).tobytes() for i in range(60)]
    answers = [opened.stroke(bits, name=f"stroke-{i:03d}", value=i % 2, **whole) for i, bits in enumerate(noise)]
    (full,) = [answer for answer in answers if answer.status_code == 503][:1]
    assert "room on the disk" in full.json()["error"]
    store._connection.execute("PRAGMA max_page_count=100000")
    kept = sum(answer.status_code == 200 for answer in answers)
    assert store.depth("s00.nii.gz", "ann")[0] == kept
    np.testing.assert_array_equal(store.mask("s00.nii.gz", "ann"), opened.desk.editor.mask(SCAN, "ann"))
    assert opened.stroke(noise[0], name="stroke-again", **whole).status_code == 200
    assert kept or (before == store.mask("s00.nii.gz", "ann")).all()


def test_a_folder_of_reviews_that_is_gone_takes_no_stroke_until_it_is_back(opened: Opened) -> None:
    """SQLite would go on in a file without a name, say that all is kept, and lose it at the end."""
    assert opened.stroke(name="kept-0001").status_code == 200
    reviews = opened.root / "masks" / "review"
    reviews.rename(opened.root / "elsewhere")
    for answer in (opened.stroke(name="kept-0002", top=5), opened.decide(state="unsure", edits=1)):
        assert (answer.status_code, "review.sqlite is gone" in answer.json()["error"]) == (
            503,
            True,
        )  # the browser sends it again
    (opened.root / "elsewhere").rename(reviews)
    assert opened.stroke(name="kept-0002", top=5).status_code == 200
    assert opened.desk.store.depth("s00.nii.gz", "ann") == (2, 0)
    np.testing.assert_array_equal(opened.desk.store.mask("s00.nii.gz", "ann"), opened.desk.editor.mask(SCAN, "ann"))


def test_half_a_character_in_a_comment_is_a_question_mark(opened: Opened) -> None:
    content = b'{"state": "unsure", "comment": "seen \\ud83d", "seconds": 1, "edits": 0}'
    assert opened.post(f"/api/cases/{SCAN}/decision", content=content).status_code == 200
    assert [one.comment for one in opened.desk.store.decisions()] == ["seen ?"]


def test_exports_at_once_are_one_line_each_and_one_is_whole(opened: Opened) -> None:
    assert opened.stroke(name="kept-0001").status_code == 200
    assert opened.decide(edits=1).status_code == 200
    with ThreadPoolExecutor(3) as pool:
        answers = [each.result() for each in [pool.submit(opened.post, "/api/export/masks") for _ in range(3)]]
    good = [answer.json() for answer in answers if answer.status_code == 200]
    assert good
    assert all((Path(one["folder"]) / "s00.nii.gz").is_file() for one in good)
    assert all(answer.json()["error"].count("\n") == 0 for answer in answers if answer.status_code != 200)


def test_a_defect_is_one_line_and_the_server_goes_on(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Desk, "summary", lambda self: 1 / 0)
    answer = opened.get("/api/summary")
    assert (answer.status_code, "met a defect" in answer.json()["error"]) == (500, True)
    assert opened.get("/api/queue").status_code == 200


def test_the_page_holds_no_data_and_asks_for_nothing_elsewhere(opened: Opened) -> None:
    bare = TestClient(opened.client.app, base_url=f"http://{HOST}")
    whole = ""
    for name in server.PAGE:
        answer = bare.get(f"/page/{name}" if name else "/")
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        whole += answer.text
    assert "s00" not in whole
    assert [word for word in ("https://", "eval(", "innerHTML", " style=", "onclick=") if word in whole] == []


def test_after_five_wrong_passwords_there_is_a_pause(opened: Opened) -> None:
    guard = Guard((), "correct horse battery")
    client = TestClient(app_of(opened.desk, guard), base_url="http://10.1.2.3:8642")
    assert client.get("/api/queue").json()["login"] is True
    for _ in range(guards.TRIES):
        assert "password is wrong" in client.post("/api/login", json={"password": "guess"}).json()["error"]
    assert "a pause" in client.post("/api/login", json={"password": "correct horse battery"}).json()["error"]
    guard._failed.clear()
    assert client.post("/api/login", json={"password": "correct horse battery"}).json() == {"token": guard.token}


def test_nobody_else_can_reach_a_desk_that_was_not_told_so() -> None:
    _, bound = serve._bound(serve.HOST, None)
    with bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_a_short_answer_is_not_held_back() -> None:
    _, bound = serve._bound("127.0.0.1", None)
    with bound:
        assert bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_other_machines_need_a_long_password() -> None:
    with pytest.raises(UserError, match="a password of 5 characters"):
        Guard((), "short")
    with pytest.raises(UserError, match="that other machines can reach; required: a password"):
        Guard(())


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("10.1.2.3", True), ("0.0.0.0", True)])
def test_whoever_starts_a_desk_for_others_is_warned_that_nothing_is_encrypted(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, host: str, warned: bool
) -> None:
    bound = SimpleNamespace(getsockname=lambda: (host, 8642))
    monkeypatch.setattr(serve, "_bound", lambda *given: (SimpleNamespace(app=None), bound))
    monkeypatch.setattr(serve.uvicorn, "Server", lambda config: SimpleNamespace(run=lambda sockets: None))
    lines: list[str] = []
    opened.desk.exchanged = ["s00.nii.gz"] if warned else []
    serve.serve(opened.desk, host, None, "correct horse battery", False, lines.append)
    assert any(line.startswith("s00.nii.gz: another scan than before, and so open again") for line in lines) is warned
    assert any("not encrypted" in line for line in lines) is warned
    assert not any("token=" in line for line in lines)  # with a password the address alone opens nothing


def _edited(file: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def _row(name: str, value: object) -> Callable[[Path], None]:
    return lambda root: _edited(root / "masks" / "index.json", lambda index: index["masks"][0].update({name: value}))


STARTS: list[tuple[str, Callable[[Path], object], list[str], str]] = [
    ("no folder", lambda root: None, ["{root}/nothing"], "is no folder"),
    ("no masks", lambda root: None, ["{root}/scans"], "has no masks"),
    ("a broken table", lambda root: (root / "masks" / "index.json").write_text("{"), ["{root}/masks"], "is damaged"),
    ("a table of something else", _row("mask", 3), ["{root}/masks"], "it is no table of masks"),
    ("a mask elsewhere", _row("mask", "../../etc/passwd"), ["{root}/masks"], "lies outside of its folder"),
    ("a scan elsewhere", _row("case", "../../etc/passwd"), ["{root}/masks"], "lies outside of its folder"),
    ("a scan of another place", _row("sha256", None), ["{root}/masks"], "name their folder with --scans"),
    ("a name that is no UTF-8", _row("case", "caf\udce9.nii.gz"), ["{root}/masks"], "'caf\\udce9.nii.gz' has a name that is no"),
    ("a case twice", lambda root: _edited(root / "masks" / "index.json", lambda i: i["masks"].append(i["masks"][0])),
     ["{root}/masks"], "stands in it twice"),
    ("no manifest", lambda root: (root / "masks" / "manifest.json").unlink(), ["{root}/masks"], "where its scans are"),
    ("a run that is not finished", lambda root: (root / "masks" / "settings.yaml").write_text("data: x\nsettings: {}\n"),
     ["{root}/masks"], "has no masks yet"),
    ("a share of 7", lambda root: None, ["{root}/masks", "--second", "7"], "a share from 0 to 1"),
    ("a port that is none", lambda root: None, ["{root}/masks", "--port", "70000"], "a port below 65536"),
    ("a password without its file", lambda root: None, ["{root}/masks", "--password", "{root}/none"], "no file of a password"),
    ("every machine without a password", lambda root: None, ["{root}/masks", "--host", "0.0.0.0"], "required: a password"),
    ("reviews in a file", lambda root: (root / "file").write_text(""), ["{root}/masks", "--reviews", "{root}/file"], "file"),
    ("reviews of another program", lambda root: ((root / "r").mkdir(), (root / "r" / "review.sqlite").write_text("x" * 200)),
     ["{root}/masks", "--reviews", "{root}/r"], "damaged"),
    ("an address of another machine", lambda root: (root / "pw").write_text("long enough a password"),
     ["{root}/masks", "--host", "203.0.113.7", "--password", "{root}/pw"], "cannot be had"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "words", "line"), [start[1:] for start in STARTS], ids=[start[0] for start in STARTS])
def test_what_cannot_be_opened_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: Callable[[Path], object], words: list[str], line: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(folder.parent, root)
    edit(root)
    assert main(["review", *(word.format(root=root) for word in words), "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_two_desks_on_one_folder_and_a_port_that_is_taken(
    opened: Opened, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["review", str(opened.root / "masks"), "--no-browser"]) == 2
    assert "a desk is open on" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        other = tmp_path / "other"
        shutil.copytree(folder.parent, other)
        assert main(["review", str(other / "masks"), "--no-browser", "--port", port]) == 2
    assert f"port {port} of 127.0.0.1 cannot be had" in capsys.readouterr().err
