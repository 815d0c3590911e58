"""The case pages in a real Chromium, opened as a file: scrolled, blinked, decided; review.csv is downloaded and reaches the desk.

PAGE_PICTURES=FOLDER keeps pictures of them, and of the pages PAGE=FILE (cases.html) and REPORT=FILE that you name.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desks import masks_folder

from coinseg.cli.main import main
from coinseg.report.page import write_report
from coinseg.review.decisions import read_decisions
from coinseg.review.explanations import SliceMaps
from coinseg.review.kept.store import Store
from coinseg.review.offline import write_case_pages
from coinseg.review.scans import open_scan
from coinseg.review.sources import Draft, Source, read_source

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
SIZES = {"desktop": (1400, 900), "tablet": (500, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra dev)")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def page_of(browser: Any, file: Path, size: tuple[int, int] = SIZES["desktop"], scheme: str = "light") -> Iterator[Any]:
    """The page of a file; it asks for nothing else, and its console stays silent."""
    context = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    until(page, "!!document.body.dataset.drawn")
    yield page
    assert [words for words in said if "getImageData" not in words] == []  # by which the test looks at the picture
    assert [url for url in asked if not url.startswith(("data:", "blob:", file.as_uri()))] == []
    context.close()


def until(page: Any, condition: str, seconds: float = 60.0) -> None:
    """Wait for a condition; the policy of the page forbids what Playwright would do for it."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"() => {condition}"):
        assert time.monotonic() < end, f"{condition} did not come true"
        page.wait_for_timeout(15)


def drawn(page: Any, what: str) -> None:
    until(page, f"document.body.dataset.drawn === '{what}'")


SEEN = """() => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const found = { orange: 0, brightest: 0 };
  for (let i = 0; i < pixels.length; i += 4) {
    const far = [230, 159, 0].map((value, k) => Math.abs(value - pixels[i + k]));
    if (Math.max(...far) < 8) found.orange++;
    found.brightest = Math.max(found.brightest, pixels[i + 2]);
  }
  return found;
}"""
"""How many pixels of the picture have the colour of the outline, and the largest value of blue, which a mask has not."""


def picture(page: Any, name: str) -> None:
    """Keep a picture of the page, where it is asked for."""
    if folder := os.environ.get("PAGE_PICTURES"):
        page.wait_for_timeout(200)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_from_the_file_to_the_desk(browser: Any, tmp_path: Path) -> None:
    masks_folder(tmp_path, cases=3, images=1, colour=True)
    source, file = read_source(tmp_path / "masks"), tmp_path / "sent" / "cases.html"

    def explain(draft: Draft, index: int) -> SliceMaps:
        image = open_scan(draft).scan[index].astype(np.float32)
        return SliceMaps(np.full_like(image, -1000.0), np.zeros_like(image), 0.9, 0.1)

    write_case_pages(file, source, lambda draft, index: explain(draft, index) if draft.record.volume else refuse())
    with page_of(browser, file, SIZES["phone"]) as page:
        assert page.evaluate("() => [scrollY, document.documentElement.scrollWidth]") == [0, 390], (
            "the list does not scroll the page"
        )
    with page_of(browser, file) as page:
        page.emulate_media(media="print")
        assert page.evaluate("() => document.getElementById('stage').clientHeight") > 500
    with page_of(browser, file, SIZES["tablet"]) as page:
        first = page.evaluate("() => cases[0].first")
        drawn(page, f"s00.nii.gz {first}")
        assert page.inner_text(".side.left") == "R"
        # A scan is scrolled by keys, by the wheel and by the slider.
        page.keyboard.press("ArrowUp")
        drawn(page, f"s00.nii.gz {first + 1}")
        box = page.locator("#stage").bounding_box()
        page.mouse.move(box["x"] + 50, box["y"] + 50)
        page.mouse.wheel(0, 100)
        drawn(page, f"s00.nii.gz {first}")
        assert page.inner_text("#number") == f"slice {first} (0 to 11)"
        # The mask is there, its fill follows the opacity, and the counterfactual is blinked to.
        assert page.evaluate(SEEN)["orange"] > 30
        page.keyboard.press("m")
        until(page, "!document.getElementById('mask').checked")
        page.wait_for_timeout(150)
        before = page.evaluate(SEEN)
        page.keyboard.press("b")
        drawn(page, f"s00.nii.gz {first} counterfactual")
        assert before["orange"] == 0
        assert page.evaluate(SEEN)["brightest"] < 10 < before["brightest"]
        assert page.inner_text("#badge") == "counterfactual: f 0.90 → 0.10"
        page.keyboard.press("b")
        page.keyboard.press("m")
        # Decisions by key and by button; the next case opens, and a second one opens them again.
        page.fill("#reviewer", "ann")
        page.fill("#comment", '=a, "b"\u00e9')
        page.locator("#stage").focus()
        page.keyboard.press("a")
        until(page, "current === 1")
        page.click("#decide [data-state=rejected]")
        until(page, "current === 2")
        page.keyboard.press("u")
        until(page, "current === 3")
        assert page.inner_text("#progress") == "3 of 4 decided"
        page.reload()
        until(page, "!!document.body.dataset.drawn")
        assert page.inner_text("#progress") == "3 of 4 decided", "this browser keeps them"
        assert page.input_value("#reviewer") == "ann"
        with page.expect_download() as coming:
            page.click("#save")
        assert coming.value.suggested_filename == "review.csv"
        coming.value.save_as(tmp_path / "review.csv")
    order = [record["id"] for record in _data(file)["cases"]]
    assert main(["review-import", str(tmp_path / "masks"), str(tmp_path / "review.csv")]) == 0
    store = Store(tmp_path / "masks" / "review", write=False)
    found = {one.case: (one.reviewer, one.state, one.comment) for one in store.decisions()}
    store.close()
    states = ["accepted", "rejected", "unsure"]
    comments = ['=a, "b"\u00e9', "", ""]
    assert found == {case: ("ann", *what) for case, *what in zip(order, states, comments, strict=False)}


def of_classes(source: Source, *names: str) -> Source:
    """The same masks for several classes."""
    return replace(
        source,
        drafts=tuple(
            replace(draft, record=replace(draft.record, id=f"{name}/{draft.record.id}"), class_name=name)
            for name in names
            for draft in source.drafts
        ),
    )


def test_two_tabs_lose_nothing_and_each_decision_is_of_who_made_it(browser: Any, tmp_path: Path) -> None:
    masks_folder(tmp_path, cases=3, images=1)
    file = tmp_path / "cases.html"
    write_case_pages(file, read_source(tmp_path / "masks"))
    with page_of(browser, file) as one:
        until(one, "!!document.body.dataset.drawn")
        two = one.context.new_page()
        two.on("dialog", lambda dialog: dialog.accept() if "annn" in dialog.message else dialog.dismiss())
        two.goto(file.as_uri())
        until(two, "!!document.body.dataset.drawn")
        one.bring_to_front()
        one.keyboard.press("a")  # by nobody yet
        until(one, "current === 1")
        one.fill("#reviewer", "annn")
        one.locator("#stage").focus()
        two.bring_to_front()
        two.evaluate("() => open(1)")
        two.fill("#reviewer", "annn")
        two.locator("#stage").focus()
        two.keyboard.press("r")
        until(two, "!!decided[cases[1].id]?.state")
        two.fill("#reviewer", "ann")  # the same person, who is asked about it
        two.locator("#stage").focus()
        two.fill("#reviewer", "bob")  # somebody else
        two.locator("#stage").focus()
        two.evaluate("() => open(2)")
        two.keyboard.press("u")
        until(two, "!!decided[cases[2].id]?.state")
        one.bring_to_front()
        until(one, "cases.filter((each) => decided[each.id]?.state).length === 3")
        one.reload()
        until(one, "!!document.body.dataset.drawn")
        assert one.inner_text("#progress") == "3 of 4 decided"
        with one.expect_download() as coming:
            one.click("#save")
        coming.value.save_as(tmp_path / "review.csv")
    found = {row.case: (row.reviewer, row.state) for row in read_decisions(tmp_path / "review.csv", None)}
    order = [record["id"] for record in _data(file)["cases"]]
    wanted = [("ann", "accepted"), ("ann", "rejected"), ("bob", "unsure")]
    assert found == dict(zip(order, wanted, strict=False))


def test_one_class_at_a_time(browser: Any, tmp_path: Path) -> None:
    masks_folder(tmp_path, cases=0, images=2, colour=True)
    source, file = of_classes(read_source(tmp_path / "masks"), "rust", "mildew"), tmp_path / "cases.html"

    def explain(draft: Draft, index: int) -> SliceMaps:
        image = open_scan(draft).scan[index].astype(np.float32)
        return SliceMaps(image, np.zeros_like(image), 0.9, {"rust": 0.1, "mildew": 0.2}[draft.class_name])

    write_case_pages(file, source, explain)
    with page_of(browser, file) as page:
        names = "() => [...document.querySelectorAll('#cases .class')].map((one) => one.textContent)"
        assert sorted(page.evaluate(names)) == ["mildew", "mildew", "rust", "rust"]
        assert page.inner_text("#progress") == "0 of 4 decided"
        page.select_option("#class", "mildew")
        assert page.evaluate(names) == ["mildew", "mildew"]
        assert page.inner_text("#progress") == "0 of 2 decided (mildew)"
        assert "mildew" in page.inner_text("#numbers")
        assert page.inner_text("#title").startswith("p0")
        page.locator("#stage").focus()
        page.keyboard.press("b")
        until(page, "!document.getElementById('badge').hidden")
        assert page.inner_text("#badge") == "counterfactual: f 0.90 → 0.20"
        seen = set()
        for done in range(2):
            seen.add(page.inner_text("#title"))
            page.keyboard.press("a")
            until(page, f"document.getElementById('progress').textContent.startsWith('{done + 1} of 2')")
        page.keyboard.press("p")
        page.keyboard.press("n")
        assert "mildew" in page.inner_text("#numbers"), "the other class is not stepped into"
        assert len(seen) == 2
        page.select_option("#class", "")
        assert page.inner_text("#progress") == "2 of 4 decided"
        picture(page, "cases-classes")
    with page_of(browser, file, SIZES["phone"]) as page:
        assert page.evaluate("() => document.documentElement.scrollWidth") == 390


def refuse() -> SliceMaps:
    from coinseg.errors import UserError

    raise UserError("a plain image", "a volume", "look at it")


def _data(file: Path) -> dict[str, Any]:
    from test_offline import data_of

    return data_of(file.read_text(encoding="utf-8"))


def report_of(out: Path) -> Path:
    """A report with long names, pictures and a table of patients."""
    (out / "evaluation").mkdir(parents=True)
    rng, count, name = np.random.default_rng(0), 6, "TCGA_CS_4941_19960909_with_a_long_name_of_one_word_11, slice 11"
    image, mask = rng.random((count, 16, 16)).astype(np.float16), np.zeros((count, 16, 16), bool)
    mask[:, 4:9, 4:9] = True
    np.savez_compressed(
        out / "evaluation" / "examples.npz", group=np.array(["best", "median", "worst", "doubtful", "normal", "alarm"]),
        name=np.array([name] * count), image=image, counterfactual=image, difference=image, mask=mask, truth=np.roll(mask, 2, 1),
        known=np.ones(count, bool), before=np.full(count, 0.8), after=np.full(count, 0.1), confidence=np.full(count, 0.4),
        sure=image,
    )  # fmt: skip
    header = "case,patient,slice,region,label,f,f_counterfactual,posterior,mask_px,confidence,doubtful,truth_px,dice"
    lines = [f"{name[:52]},p{i},0,-1,1,0.9,,,10,0.9,0,12,0.5" for i in range(50)]
    (out / "evaluation" / "slices.csv").write_text("\n".join([header, *lines]) + "\n")
    scores = {
        "iou_mask_free": 0.4123,
        "hd95_px": 3.2,
        "auroc": 0.8,
        "flip_rate": 1.0,
        "slices_scored": 3,
        "slices_normal": 2,
        "null_because": {},
    }
    return write_report(out, {"verdict": "OK: " + "a reason and " * 20, "scores": scores, "warnings": [name]})


@pytest.mark.parametrize("size", SIZES)
def test_the_report_fits_its_screen_and_shows_every_picture(browser: Any, tmp_path: Path, size: str) -> None:
    page_file, wide = report_of(tmp_path / "run"), SIZES[size][0]
    context = browser.new_context(viewport={"width": wide, "height": 800}, color_scheme="dark")
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.goto(page_file.as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") <= wide
    assert page.locator("svg.picture").count() == 6 * 5
    inks, paper = page.evaluate("() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert sum(map(int, inks[4:-1].split(","))) > 500 > 150 > sum(map(int, paper[4:-1].split(","))), "dark"
    page.click("summary >> nth=-1")
    broken = "() => [...document.images].filter((one) => !one.complete || !one.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert said == []
    picture(page, f"report-{size}")
    context.close()


@pytest.mark.skipif("PAGE_PICTURES" not in os.environ, reason="pictures of the guide: PAGE_PICTURES=FOLDER")
def test_pictures(browser: Any, tmp_path: Path) -> None:
    file = Path(os.environ.get("PAGE", ""))
    if not file.is_file():
        masks_folder(tmp_path, cases=3, images=1, colour=True)
        write_case_pages(file := tmp_path / "cases.html", read_source(tmp_path / "masks"))
    for name, size in SIZES.items():
        for scheme in ("light", "dark"):
            with page_of(browser, file, size, scheme) as page:
                picture(page, f"cases-{name}-{scheme}")
                wide = page.evaluate("() => document.documentElement.scrollWidth")
                assert wide <= size[0], "nothing sticks out"
    if (report := Path(os.environ.get("REPORT", ""))).is_file():
        for name, size in SIZES.items():
            context = browser.new_context(viewport={"width": size[0], "height": size[1]})
            page = context.new_page()
            page.goto(report.as_uri())
            picture(page, f"report-{name}-light")
            page.evaluate("() => document.getElementById('pictures').scrollIntoView()")
            picture(page, f"report-{name}-pictures")
            context.close()
    with page_of(browser, file) as page:
        page.pdf(path=Path(os.environ["PAGE_PICTURES"]) / "cases.pdf")
