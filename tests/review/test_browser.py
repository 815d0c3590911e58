"""The desk in a real Chromium: a scan is paged through, blinked, corrected; the server is killed and started again; the export
has the voxels that were drawn. DESK_PICTURES=FOLDER keeps pictures of the page, DESK_RUN=OUT of a run of yours."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desks import Server, masks_folder, start_server
from scipy import ndimage

from coinseg.data.phantom.cohort import PhantomSettings, write_cohort
from coinseg.data.readers.axes import turned
from coinseg.data.readers.paths import sha256_of
from coinseg.data.readers.volume import read_geometry, read_mask, write_mask, write_scan
from coinseg.inference.table import measure, told, write_table
from coinseg.review.kept.store import Store
from coinseg.review.sources import key_of_case
from coinseg.types import MaskSource
from writers import make_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
SCAN = key_of_case("s00.nii.gz")
LONG = 60.0  # seconds that a busy machine may take


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra dev)")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@contextmanager
def page_of(browser: Any, server: Server, reviewer: str = "ann", quiet: bool = True) -> Iterator[Any]:
    """The page of a server, with a first picture; anything that its console says fails the test, where it must be `quiet`."""
    context = browser.new_context(viewport={"width": 1360, "height": 850}, color_scheme="dark")
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())  # leaving while a stroke waits is asked about
    page.add_init_script(f"localStorage.setItem('coinseg-reviewer', '{reviewer}')")
    page.goto(server.address)
    until(page, "() => !!(window.desk && desk.view.parts)")
    yield page
    context.close()
    assert not quiet or said == []


def until(page: Any, condition: str, seconds: float = LONG) -> None:
    """Wait for a condition of the page; its policy forbids what Playwright would do for it."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition} did not come true; the page says {page.inner_text('body')[:500]!r}"
        page.wait_for_timeout(15)


def saved(page: Any) -> None:
    until(page, "() => desk.outbox.waiting.length === 0")


def picture(page: Any, name: str) -> None:
    """Keep a picture of the page, where it is asked for."""
    if folder := os.environ.get("DESK_PICTURES"):
        page.wait_for_timeout(250)
        page.screenshot(path=Path(folder) / f"{name}.png")


def seen(page: Any) -> np.ndarray:
    """The mask that the page shows, (rows, columns)."""
    until(page, "() => desk.view.mask !== null")
    rows, columns = page.evaluate("() => desk.view.shape.slice(1)")
    return np.array(page.evaluate("() => Array.from(desk.view.mask)"), bool).reshape(rows, columns)


def slide(page: Any, slider: str, value: int) -> None:
    """Move a slider, and let it go."""
    page.evaluate(
        """([id, value]) => { const slider = document.getElementById(id); slider.value = value;
        for (const name of ['input', 'change']) slider.dispatchEvent(new Event(name)); }""",
        [slider, value],
    )


def drag(page: Any, points: list[tuple[float, float]]) -> None:
    """Drag the mouse over places given as shares of the image, (down, across)."""
    places = page.evaluate(
        """(points) => { const v = desk.view, p = v.place(), b = v.canvas.getBoundingClientRect(), [, rows, columns] = v.shape;
        return points.map(([y, x]) => [b.x + (p.left + x * columns * p.across) / p.ratio,
            b.y + (p.top + y * rows * p.down) / p.ratio]); }""",
        points,
    )
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    masks_folder(tmp_path, cases=3, images=1, colour=True)
    return tmp_path / "masks"


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers on the folder, and ends them."""
    begun: list[Server] = []

    def start(**options: Any) -> Server:
        begun.append(start_server(folder, "--confidence", folder.parent / "confidence", **options))
        return begun[-1]

    yield start
    for server in begun:
        server.process.kill()
        server.process.wait()


def test_from_the_first_picture_to_the_export(browser: Any, folder: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    port = int(server.base.rsplit(":", 1)[1])
    with page_of(browser, server, quiet=False) as page:
        assert page.evaluate("() => desk.state().id") == "s00.nii.gz"  # the one that is doubtful
        # A scan is paged through, by keys and by the wheel, in every plane.
        first = page.evaluate("() => desk.view.index")
        page.keyboard.press("ArrowDown")
        until(page, f"() => desk.view.index === {first + 1}")
        page.mouse.move(600, 400)
        page.mouse.wheel(0, -120)
        until(page, f"() => desk.view.index === {first}")
        page.keyboard.press("o")
        picture(page, "axial")
        for plane in ("coronal", "sagittal"):
            page.keyboard.press("v")
            until(page, f"() => desk.view.plane === '{plane}' && desk.view.mask !== null")
        page.keyboard.press("v")
        until(page, "() => desk.solid.ready === true && document.getElementById('busy').hidden")
        picture(page, "solid")
        page.keyboard.press("v")
        until(page, "() => desk.view.plane === 'axial' && desk.view.mask !== null")

        # The brush, and the eraser.
        before = seen(page)
        page.keyboard.press("q")
        drag(page, [(0.2, 0.2), (0.3, 0.4), (0.4, 0.4)])
        saved(page)
        drawn = seen(page)
        assert (drawn & ~before).sum() > 20
        page.keyboard.press("e")
        drag(page, [(0.2, 0.2), (0.22, 0.24)])
        saved(page)
        erased = seen(page)
        assert (drawn & ~erased).any()
        picture(page, "brush")

        # The server is killed while a stroke goes out; the stroke waits in the browser.
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        page.keyboard.press("q")
        drag(page, [(0.7, 0.7), (0.8, 0.8)])
        until(page, "() => document.getElementById('saved').textContent.includes(' not saved yet')")
        last = seen(page)
        assert (last & ~erased).any()
        picture(page, "killed")

        again = serve(port=port)
        page.goto("about:blank")
        page.goto(again.address)
        until(page, "() => !!(window.desk && desk.view.parts)")
        saved(page)
        until(page, "() => desk.state().undo === 3")
        page.evaluate("() => { desk.view.forgetMasks(); return desk.view.show(); }")
        np.testing.assert_array_equal(seen(page), last)

        # Undone, done again, and accepted.
        page.keyboard.press("z")
        until(page, "() => desk.state().undo === 2 && desk.state().redo === 1")
        np.testing.assert_array_equal(seen(page), erased)
        page.keyboard.press("Shift+z")
        until(page, "() => desk.state().undo === 3")
        np.testing.assert_array_equal(seen(page), last)
        index = page.evaluate("() => desk.view.index")
        page.keyboard.press("c")
        page.keyboard.type("missed a part")
        page.keyboard.press("Escape")
        page.keyboard.press("a")
        until(page, "() => desk.state().id === 's01.nii.gz' && desk.view.parts && desk.view.mask")
        page.wait_for_timeout(50)
        page.keyboard.press("r")
        until(page, "() => desk.queue.rows.filter((row) => row.state === 'rejected').length === 1")
        page.click("#export")
        picture(page, "export")
        page.click("button[data-kind=masks]")
        until(page, "() => document.getElementById('dialog-body').textContent.includes('2 cases written')")

    out = folder / "review" / "exports" / "masks-1"
    geometry = read_geometry(folder.parent / "scans" / "s00.nii.gz")
    voxels = read_mask(MaskSource(out / "s00.nii.gz"), geometry)
    np.testing.assert_array_equal(voxels[index], last)
    wanted = read_mask(MaskSource(folder / "s00.nii.gz"), geometry)
    wanted[index] = last
    np.testing.assert_array_equal(voxels, wanted)
    assert not read_mask(MaskSource(out / "s01.nii.gz"), read_geometry(folder.parent / "scans" / "s01.nii.gz")).any()
    assert "missed a part" in (out / "decisions.csv").read_text()


def test_two_tabs_and_two_reviewers(browser: Any, serve: Callable[..., Server]) -> None:
    server = serve()
    with page_of(browser, server, quiet=False) as one, page_of(browser, server, quiet=False) as two:
        for page, place in ((one, 0.2), (two, 0.8)):
            page.keyboard.press("q")
            drag(page, [(place, 0.2), (place, 0.4)])
            saved(page)
        until(two, "() => desk.state().undo === 2")  # its answer told it of the other's stroke
        two.wait_for_timeout(200)
        mask = seen(two)
        assert mask[:16].any()
        assert mask[-12:].any()
        one.keyboard.press("a")  # it has not seen the other's stroke: refused, and shown
        until(one, "() => document.getElementById('toast').textContent.includes('changed in another tab')")
        until(one, "() => desk.state().undo === 2")
        until(one, "() => desk.view.mask !== null")
        np.testing.assert_array_equal(seen(one), mask)
        one.keyboard.press("a")
        until(one, "() => desk.state().id === 's01.nii.gz'")
    with page_of(browser, server, "bob") as bob:
        names = bob.evaluate("() => desk.queue.rows.map((row) => row.id)")
        assert sorted(names) == ["p00.png", "s01.nii.gz", "s02.nii.gz"]
        bob.click("#summary")
        until(bob, "() => document.getElementById('dialog-body').textContent.includes('corrected')")
        picture(bob, "summary")


def hold(page: Any, address: str) -> list[Any]:
    """Keep back what the page asks of an address (`*` is anything), until each is told to go on."""
    held: list[Any] = []
    page.route(address, lambda route: held.append(route))
    return held


def let_go(page: Any, address: str, held: list[Any]) -> None:
    """Let what was kept back go on, and what comes."""
    for route in held:
        route.continue_()
    page.unroute(address)


def changed_in(folder: Path, case: str) -> list[int]:
    """The slices in which ann changed the mask of a case."""
    store = Store(folder / "review", write=False)
    before = store.draft(case)
    after = before if before is None else store.mask(case, "ann")
    store.close()
    return [] if before is None or after is None else [int(z) for z in np.flatnonzero((before ^ after).any((1, 2)))]


def begin(page: Any, down: float, across: float) -> None:
    """Press the button on a place of the image, and draw a little; it is not let go."""
    drag(page, [(down, across), (down, across + 0.1)])
    saved(page)
    page.keyboard.press("z")
    until(page, "() => desk.state().undo === 0 && desk.view.mask !== null")
    page.mouse.down()
    page.mouse.move(
        *page.evaluate("() => { const b = desk.view.canvas.getBoundingClientRect(); return [b.x + b.width / 2, b.y + 200]; }")
    )


def test_a_stroke_is_of_the_case_and_the_slice_that_were_seen(
    browser: Any, folder: Path, serve: Callable[..., Server]
) -> None:  # fmt: skip
    with page_of(browser, serve()) as page:
        first = page.evaluate("() => desk.view.index")
        page.keyboard.press("q")
        # A key asks for the next case, or another plane, while the button is still down.
        begin(page, 0.3, 0.3)
        page.keyboard.press("n")
        until(page, "() => desk.state().id === 's01.nii.gz' && desk.view.mask !== null")
        page.mouse.up()
        saved(page)
        assert (changed_in(folder, "s00.nii.gz"), changed_in(folder, "s01.nii.gz")) == ([first], [])
        page.keyboard.press("p")
        until(page, "() => desk.state().id === 's00.nii.gz' && desk.view.mask !== null")
        page.keyboard.press("z")
        until(page, "() => desk.state().undo === 0 && desk.view.mask !== null")
        begin(page, 0.3, 0.3)
        page.keyboard.press("v")
        until(page, "() => desk.view.plane === 'coronal' && desk.view.mask !== null")
        page.mouse.up()
        saved(page)
        assert changed_in(folder, "s00.nii.gz") == [first]
        page.keyboard.press("z")
        until(page, "() => desk.state().undo === 0")
        page.evaluate("() => [...document.querySelectorAll('#planes button')][0].click()")
        until(page, "() => desk.view.plane === 'axial' && desk.view.mask !== null")
        # Nothing is drawn onto a slice that is asked for and not there.
        forget = "one => one.includes('/mask/') && desk.view.kept.delete(one)"
        page.evaluate(f"() => {{ [...desk.view.kept.keys()].forEach({forget}); }}")
        held = hold(page, "**/layers/mask/axial/0")
        page.keyboard.press("Home")
        until(page, "() => desk.view.index === 0")
        drag(page, [(0.3, 0.3), (0.4, 0.4)])
        saved(page)
        assert changed_in(folder, "s00.nii.gz") == []
        let_go(page, "**/layers/mask/axial/0", held)
        until(page, "() => desk.view.mask !== null")


def test_a_hand_beside_the_pen_loses_and_draws_nothing(
    browser: Any, folder: Path, serve: Callable[..., Server]
) -> None:  # fmt: skip
    with page_of(browser, serve()) as page:
        page.keyboard.press("q")
        before, touch = seen(page), page.context.new_cdp_session(page)
        place = "() => { const b = desk.view.canvas.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }"
        x, y = page.evaluate(place)

        def fingers(kind: str, *places: tuple[float, float]) -> None:
            points = [{"x": x + dx, "y": y + dy, "id": number} for number, (dx, dy) in enumerate(places)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        fingers("touchStart", (-60, -60))
        fingers("touchMove", (-20, -60))
        fingers("touchStart", (-20, -60), (90, 120))
        fingers("touchMove", (-20, -60), (90, 150))
        fingers("touchMove", (10, -60), (90, 150))
        fingers("touchEnd")
        saved(page)
        until(page, "() => desk.state().undo === 1")
        shown = seen(page)
        page.evaluate("() => { desk.view.forgetMasks(); return desk.view.show(); }")
        kept = seen(page)
    np.testing.assert_array_equal(shown, kept)  # what is seen is what is saved
    rows, columns = np.nonzero(kept & ~before)
    assert np.ptp(columns) > np.ptp(rows)  # one line across


def test_an_answer_that_comes_late_says_nothing_of_the_case_that_is_seen_then(
    browser: Any, folder: Path, serve: Callable[..., Server]
) -> None:  # fmt: skip
    with page_of(browser, serve()) as page:
        page.keyboard.press("y")
        drag(page, [(0.1, 0.1)])
        held = hold(page, "**/tool")
        page.check("#whole")
        page.click("#act-grow")
        page.wait_for_timeout(200)
        assert len(held) == 1
        # The next case is asked for, and not decided before it is seen, nor is the one before.
        coming = hold(page, address := f"**/api/cases/{key_of_case('s01.nii.gz')}")
        page.keyboard.press("n")
        page.wait_for_timeout(200)
        page.keyboard.press("a")
        until(page, "() => document.getElementById('toast').textContent.includes('still being read')")
        let_go(page, address, coming)
        until(page, "() => desk.state().id === 's01.nii.gz' && desk.view.mask !== null")
        fresh = page.evaluate("() => [desk.state().edits, desk.state().pixels, desk.view.polygon]")
        let_go(page, "**/tool", held)
        page.wait_for_timeout(400)
        assert page.evaluate("() => [desk.state().edits, desk.state().pixels, desk.view.polygon]") == fresh
        assert fresh[::2] == [0, None]
    store = Store(folder / "review", write=False)
    assert (store.edits("s00.nii.gz", "ann"), store.edits("s01.nii.gz", "ann")) == (1, 0)
    assert store.decisions() == []
    store.close()


def test_the_preview_of_the_threshold_ends_also_where_the_slider_is_let_go_where_it_was_taken(
    browser: Any, serve: Callable[..., Server]
) -> None:  # fmt: skip
    with page_of(browser, serve()) as page:
        page.keyboard.press("q")
        drag(page, [(0.2, 0.2), (0.3, 0.4)])
        saved(page)
        box = page.locator("#threshold").bounding_box()
        place = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        page.mouse.move(*place)
        page.mouse.down()
        at = page.input_value("#threshold")
        page.mouse.move(place[0] + 30, place[1], steps=4)
        until(page, "() => desk.view.preview !== null")
        for x in range(8):  # until it is where it was
            page.mouse.move(place[0] + 4 - x, place[1])
            if page.input_value("#threshold") == at:
                break
        assert page.input_value("#threshold") == at
        page.mouse.up()
        until(page, "() => desk.view.preview === null && desk.view.mask !== null")


def test_the_name_on_a_page_is_who_decides_there_whatever_another_tab_says(
    browser: Any, folder: Path, serve: Callable[..., Server]
) -> None:  # fmt: skip
    server = serve()
    with page_of(browser, server) as ann:
        bob = ann.context.new_page()
        bob.goto(server.address)
        until(bob, "() => !!(window.desk && desk.view.parts)")
        bob.click("#who")
        bob.fill("#dialog-body input", "bob")
        bob.click("#dialog-ok")
        until(bob, "() => document.getElementById('who').textContent === 'bob' && desk.view.parts && desk.view.mask")
        ann.bring_to_front()
        assert ann.inner_text("#who") == "ann"
        ann.keyboard.press("a")
        until(ann, "() => desk.state().id === 's01.nii.gz' && desk.view.parts && desk.view.mask")
        bob.reload()
        until(bob, "() => !!(window.desk && desk.view.parts)")
        assert bob.inner_text("#who") == "bob"
    store = Store(folder / "review", write=False)
    assert [(one.case, one.reviewer) for one in store.decisions()] == [("s00.nii.gz", "ann")]
    store.close()


def test_tools_filters_and_a_colour_picture(browser: Any, serve: Callable[..., Server]) -> None:
    with page_of(browser, serve()) as page:
        # The slider of the confidence: a preview, then a stroke.
        until(page, "() => desk.state().undo === 0")
        before = seen(page)
        slide(page, "threshold", 90)
        until(page, "() => desk.state().undo === 1 && desk.view.preview === null && desk.view.mask !== null")
        assert before.any()
        assert not seen(page).any()
        # A polygon, closed by Enter.
        page.keyboard.press("y")
        for place in ((0.1, 0.1), (0.1, 0.3), (0.3, 0.3), (0.3, 0.1)):
            drag(page, [place])
        page.keyboard.press("Enter")
        saved(page)
        assert seen(page)[6:10, 8:12].all()
        # A comment that was begun is there again when its case is.
        page.fill("#comment", "at the upper pole")
        page.locator("#picture").focus()
        for key, case in (("n", "s01.nii.gz"), ("p", "s00.nii.gz")):
            page.keyboard.press(key)
            until(page, f"() => desk.state().id === '{case}' && desk.view.mask !== null")
            page.wait_for_timeout(100)
            assert page.input_value("#comment") == ("at the upper pole" if key == "p" else "")
        # A slice that a tool corrected counts as corrected, like that of a stroke.
        page.click("#act-grow")
        until(page, "() => desk.state().undo === 3 && desk.view.mask !== null")
        # Interpolation between two corrected slices: the polygon again, four slices on.
        start = page.evaluate("() => desk.view.index")
        step = -4 if start > 6 else 4
        slide(page, "slider", start + step)
        until(page, f"() => desk.view.index === {start + step} && desk.view.parts?.mask === desk.view.mask")
        page.wait_for_timeout(200)
        page.keyboard.press("y")
        for place in ((0.1, 0.1), (0.1, 0.3), (0.3, 0.3), (0.3, 0.1)):
            drag(page, [place])
        page.keyboard.press("Enter")
        saved(page)
        page.keyboard.press("ArrowUp" if step < 0 else "ArrowDown")
        page.keyboard.press("ArrowDown" if step < 0 else "ArrowUp")
        page.keyboard.press("i")
        until(page, "() => desk.state().undo === 5")
        page.keyboard.press("?")
        picture(page, "keys")
        page.keyboard.press("Escape")
        # Filters, and a picture in colour.
        page.fill("#search", "p00")
        until(page, "() => document.querySelectorAll('#cases li').length === 1")
        page.click("#cases li")
        until(page, "() => desk.state().id === 'p00.png' && desk.view.parts?.image.length === 50 * 64 * 3")
        assert page.is_hidden("#strip")
        picture(page, "colour")


def test_without_a_mouse_and_a_key_pressed_twice(browser: Any, serve: Callable[..., Server]) -> None:
    with page_of(browser, serve()) as page:
        page.focus("#help")
        page.keyboard.press("Enter")
        assert page.evaluate("() => document.getElementById('dialog').open")
        page.keyboard.press("Escape")
        page.focus("#whole")
        page.keyboard.press("Space")
        assert page.is_checked("#whole")
        page.focus("#opacity")
        at = page.evaluate("() => desk.view.index")
        page.keyboard.press("ArrowUp")
        assert (page.input_value("#opacity"), page.evaluate("() => desk.view.index")) == ("36", at)
        for number in (1, 0):
            page.evaluate(f"() => document.querySelectorAll('#cases li')[{number}].focus()")
            page.keyboard.press("Enter")
            until(page, f"() => desk.state().key === desk.queue.rows[{number}].key && desk.view.parts && desk.view.mask")
        # The next case, which nobody has seen, is not decided: all three before it can be there.
        press = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'a', bubbles: true }))"
        page.evaluate(f"() => {{ {press}; {press}; {press}; }}")
        until(page, "() => desk.state().id !== 's00.nii.gz' && desk.view.parts")
        page.wait_for_timeout(300)
        decided = "() => desk.queue.rows.filter((row) => row.state !== 'open').map((row) => row.id)"
        assert page.evaluate(decided) == ["s00.nii.gz"]


def test_of_a_case_that_cannot_be_read_nothing_is_shown_or_decided(
    browser: Any, folder: Path, serve: Callable[..., Server]
) -> None:
    server = serve()
    (folder.parent / "scans" / "s01.nii.gz").rename(
        folder.parent / "elsewhere.nii.gz"
    )  # before the page reads the next case ahead
    with page_of(browser, server, quiet=False) as page:
        page.evaluate("() => [...document.querySelectorAll('#cases li')].find((item) => item.title.startsWith('s01')).click()")
        until(page, "() => document.getElementById('toast').textContent.includes('s01.nii.gz is gone')")
        page.keyboard.press("r")
        page.wait_for_timeout(300)
        assert page.evaluate("() => [desk.state(), desk.view.parts]") == [None, None]
        assert page.inner_text("#title") == "s01.nii.gz"
        assert page.evaluate("() => desk.queue.rows.every((row) => row.state === 'open')")
        page.keyboard.press("n")
        until(page, "() => desk.state() !== null && desk.state().id !== 's01.nii.gz' && desk.view.parts")


def test_a_phone_and_paper(browser: Any, serve: Callable[..., Server]) -> None:
    size = "() => { const box = document.getElementById('bench').getBoundingClientRect(); return [box.width, box.height]; }"
    with page_of(browser, serve()) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(200)
        wide, tall = page.evaluate(size)
        assert (wide, tall > 350) == (390, True)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert page.evaluate("() => document.getElementById('decide-accepted').getBoundingClientRect().bottom") <= 844
        picture(page, "phone")
        page.set_viewport_size({"width": 1360, "height": 850})
        page.emulate_media(media="print")
        page.wait_for_timeout(200)
        assert page.evaluate(size)[1] > 500
        assert page.is_visible("#numbers")
        assert page.is_hidden("#export")
        picture(page, "print")


FAINT = """() => {
    const parts = (colour) => { const [r, g, b, a = 1] = colour.match(/[0-9.]+/g).map(Number); return [[r, g, b], a]; };
    const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        if (!element) return [255, 255, 255];
        const [rgb, a] = parts(getComputedStyle(element).backgroundColor);
        return a === 1 ? rgb : rgb.map((v, i) => a * v + (1 - a) * behind(element.parentElement)[i]);
    };
    const texts = [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.closest(':disabled')
        && one.getBoundingClientRect().width && ([...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
            || one.matches('textarea, [type=search], [type=text]')) && one.tagName !== 'OPTION');
    return [texts.length, texts.map((one) => {
        const [a, b] = [light(parts(getComputedStyle(one).color)[0]), light(behind(one))];
        return [one.outerHTML.slice(0, 80), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    }).filter(([, contrast]) => contrast < 4.5)];
}"""
"""How many texts are seen, and those with a contrast below 4.5 (WCAG 2.2, 1.4.3)."""


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(24, 27, 31)")])
def test_light_and_dark_can_be_read_and_pictures_stay_on_black(
    browser: Any, serve: Callable[..., Server], scheme: str, ground: str
) -> None:
    with page_of(browser, serve()) as page:
        page.emulate_media(color_scheme=scheme)
        colour = "(id) => getComputedStyle(document.querySelector(id)).backgroundColor"
        assert [page.evaluate(colour, id) for id in ("aside", "#bench")] == [ground, "rgb(0, 0, 0)"]
        for key in ("q", "o", "?"):  # a pressed button, the draft, and then the keys over it
            page.keyboard.press(key)
            page.wait_for_timeout(200)
            count, faint = page.evaluate(FAINT)
            assert count > 60
            assert faint == []
            picture(page, f"{scheme}{'-keys' if key == '?' else ''}")
        page.keyboard.press("Escape")
        page.keyboard.press("a")
        until(page, "() => desk.queue.rows.some((row) => row.state === 'accepted')")
        assert page.evaluate(FAINT)[1] == []  # with a toast of each kind
        page.keyboard.press("i")
        until(page, "() => document.getElementById('toast').textContent.startsWith('correct a slice')")
        assert page.evaluate(FAINT)[1] == []


def test_blink_asks_the_model_of_its_slice(browser: Any, folder: Path, serve: Callable[..., Server]) -> None:
    make_run(folder.parent / "model")
    with page_of(browser, serve(), quiet=False) as page:  # the last question is refused
        page.keyboard.press("b")
        until(page, "() => !document.getElementById('badge').hidden")
        changed = """() => { const { image, counterfactual } = desk.view.parts;
            return Math.max(...image.map((value, i) => Math.abs(value - counterfactual[i]))); }"""
        assert page.evaluate(changed) > 1
        picture(page, "blink")
        page.keyboard.press("b")
        until(page, "() => document.getElementById('badge').hidden")
        page.keyboard.press("h")
        until(page, "() => desk.view.parts.difference && desk.view.parts.difference.some((value) => value > 0)")
        page.keyboard.press("v")
        until(page, "() => desk.view.plane === 'coronal'")
        page.keyboard.press("b")
        until(page, "() => document.getElementById('toast').textContent.includes('the model looks at axial slices')")


def test_without_the_token_there_is_a_page_that_says_so(browser: Any, serve: Callable[..., Server]) -> None:
    server = serve()
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.base)
    until(page, "() => document.body.innerText.includes('open the address that')")
    assert all(url.startswith(server.base) for url in asked)
    context.close()


def phantom_folder(root: Path) -> Path:
    """Patients of the made CT cohort with masses, with drafts and confidences made for the picture."""
    settings = replace(PhantomSettings(), patients=4, slices=40, size=256, lesions="masses")
    write_cohort(root / "cohort", settings, 1, lambda done, total: None)
    for name in ("scans", "masks", "confidence"):
        (root / name).mkdir()
    rows, rng = [], np.random.default_rng(0)
    for i, patient in enumerate(sorted((root / "cohort").glob("s*"))):
        scan, name = root / "scans" / f"{patient.name}.nii.gz", f"{patient.name}.nii.gz"
        shutil.copy(patient / "ct.nii.gz", scan)
        geometry = read_geometry(scan)
        truth = read_mask(MaskSource(patient / "segmentations" / "kidney_tumor.nii.gz"), geometry)
        soft = ndimage.gaussian_filter(np.roll(truth, (2, -3), (1, 2)).astype(float), (0.6, 3, 3))
        sure = np.clip(100 * soft / max(soft.max(), 1e-6) + rng.normal(0, 2, soft.shape), 0, 100).astype(np.uint8)
        write_mask(root / "masks" / name, sure >= 50, geometry)
        write_scan(root / "confidence" / name, sure, geometry)
        facts = told(round(0.97 - 0.1 * i, 2), None, round(0.31 + 0.17 * i, 2))
        rows.append({"case": name, "mask": name, "sha256": sha256_of(scan)} | facts | measure(sure >= 50, geometry))
    write_table(root / "masks", rows)
    (root / "model").mkdir()
    (root / "model" / "model.json").write_text(json.dumps({"kind": "hu"}))
    manifest = {"kind": "segment", "source": str(root / "scans"), "model": {"path": str(root / "model")}, "outputs": {}}
    (root / "masks" / "manifest.json").write_text(json.dumps(manifest))
    return root / "masks"


@pytest.mark.skipif("DESK_PICTURES" not in os.environ, reason="pictures of the guide: DESK_PICTURES=FOLDER")
def test_pictures_of_the_guide(browser: Any, tmp_path: Path) -> None:
    run = os.environ.get("DESK_RUN")
    words = () if run else ("--confidence", tmp_path / "confidence")
    server = start_server(Path(run) if run else phantom_folder(tmp_path), "--reviews", tmp_path / "reviews", *words)
    try:
        with page_of(browser, server) as page:
            page.keyboard.press("o")
            page.keyboard.press("q")
            until(page, "() => !!desk.view.parts.draft && desk.view.mask !== null")
            rows, columns = np.nonzero(seen(page))
            tall, wide = page.evaluate("() => desk.view.shape.slice(1)")
            top, left = rows.mean() / tall, columns.max() / wide
            drag(page, [(top - 0.02, left - 0.005), (top, left + 0.012), (top + 0.02, left)])
            saved(page)
            page.evaluate("() => { for (let i = 0; i < 2; i++) desk.view.zoom *= 1.3; desk.view.draw(); }")
            page.keyboard.press("1")
            picture(page, "desk")
            page.keyboard.press("g")
            until(page, "() => !!desk.view.parts.confidence")
            picture(page, "desk-confidence")
            page.keyboard.press("g")
            page.evaluate("() => [...document.querySelectorAll('#planes button')].pop().click()")
            until(page, "() => desk.solid.ready === true && document.getElementById('busy').hidden")
            picture(page, "desk-solid")
    finally:
        server.process.kill()
        server.process.wait()


def test_turned_planes_are_those_of_the_page() -> None:
    """Corners of the page say what is up and left in each plane; here they are looked up in the canonical axes."""
    volume = np.zeros((4, 5, 6))
    volume[3] = 1  # superior
    assert turned(volume, "coronal")[0][0].all()
    assert turned(volume, "sagittal")[0][0].all()
    assert json.dumps(list(turned(volume, "coronal").shape)) == "[5, 4, 6]"
