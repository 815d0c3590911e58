"""The desk with large scans, in a real Chromium: `python benchmarks/desk.py WORK [--cases 1000] [--shape 512 512 300]`.

WORK is a folder for one made scan of that shape (about 60 MB as .nii.gz; used again by the next call), to which the files of all
cases are hard links, and for their drafts. Measured in the page, as somebody sees it: from the address to the first picture
(scan read by the server, slice fetched and drawn), from one case to the next (which the server reads ahead), a slice change by
key (the median and the 95th percentile of 100, cold ones among them), a stroke from the mouse going up to the server's word that
it is on the disk; and the resident memory of the server after 12 cases. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1] / "tests" / "review")]

from desks import start_server  # noqa: E402

from coinseg.data.readers.paths import sha256_of  # noqa: E402
from coinseg.inference.table import told, write_table  # noqa: E402

DOWN = """() => new Promise((done) => { const seen = desk.view.onDrawn;
    desk.view.onDrawn = () => { seen(); desk.view.onDrawn = seen; done(desk.view.drawnMs); };
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowDown', bubbles: true })); })"""
KEPT = """() => { window.acknowledged = 0; desk.view.canvas.addEventListener('pointerup', () => { const began = performance.now();
    const kept = desk.outbox.onKept; desk.outbox.onKept = (...all) => { kept(...all); desk.outbox.onKept = kept;
    window.acknowledged = performance.now() - began; }; }, { once: true, capture: true }); }"""
SHOWN = """() => desk.state().id !== '%s' && desk.view.case.id === desk.state().id && desk.view.parts?.image
    && document.getElementById('busy').hidden"""


def make(work: Path, cases: int, shape: tuple[int, ...]) -> Path:
    """The folder of masks, made once."""
    masks, scans = work / "masks", work / "scans"
    if (masks / "manifest.json").exists():
        return masks
    for folder in (masks, scans):
        folder.mkdir(parents=True)
    rng, affine = np.random.default_rng(0), np.diag([-0.8, -0.8, 1.0, 1.0])
    y, x = np.mgrid[: shape[0], : shape[1]] - np.array(shape[:2]).reshape(2, 1, 1) / 2
    body, ball = (y / (0.4 * shape[0])) ** 2 + (x / (0.3 * shape[1])) ** 2 < 1, np.hypot(y - 30, x - 20) < 25
    noise = rng.normal(0, 12, (*shape[:2], 10))
    scan = np.stack([np.where(body, 40, -1000) + 60 * ball + np.roll(noise[..., z % 10], 7 * z, 0) for z in range(shape[2])], -1)
    nib.save(nib.Nifti1Image(scan.astype(np.int16), affine), scans / "c0000.nii.gz")
    draft = np.zeros(shape, np.uint8)
    draft[..., shape[2] // 3 : shape[2] // 2] = ball[..., None]
    nib.save(nib.Nifti1Image(draft, affine), masks / "c0000.nii.gz")
    digest, rows = sha256_of(scans / "c0000.nii.gz"), []
    for i in range(cases):
        name = f"c{i:04d}.nii.gz"
        for folder in (scans, masks) if i else ():
            os.link(folder / "c0000.nii.gz", folder / name)
        size = {"pixels": int(draft.sum()), "volume_ml": float(draft.sum()) * 0.64e-3}
        facts = told(0.9, None, round(float(rng.random()), 3)) | size
        rows.append({"case": name, "mask": name, "sha256": digest} | facts)
    write_table(masks, rows)
    manifest = {"kind": "segment", "source": str(scans), "model": {"path": "none"}, "outputs": {}}
    (masks / "manifest.json").write_text(json.dumps(manifest))
    return masks


def until(page: Any, condition: str, seconds: float = 60.0) -> float:
    """Milliseconds until a condition of the page is true, or until so many seconds are over."""
    began = time.perf_counter()
    while not page.evaluate(condition) and time.perf_counter() < began + seconds:
        page.wait_for_timeout(4)
    return 1000 * (time.perf_counter() - began)


def memory(pid: int) -> float:
    """Resident memory of a process in 10^6 bytes, and the most it ever had."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return max(int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")) * 1024 / 1e6


def say(name: str, value: float) -> None:
    """Print a figure."""
    print(f"  {name:<24} {value:8.0f} {'MB' if 'memory' in name else 'ms'}", flush=True)


def measure(page: Any, address: str, pid: int) -> None:
    """The figures, in milliseconds and 10^6 bytes; each is printed as it comes."""
    page.add_init_script("localStorage.setItem('coinseg-reviewer', 'bench')")
    page.goto(address)
    say("first picture", until(page, "() => !!(window.desk && desk.view.parts)"))
    changes = []
    for _ in range(100):
        changes.append(page.evaluate(DOWN))
        page.wait_for_timeout(60)
    say("slice change, median", statistics.median(changes))
    say("slice change, 95 %", float(np.percentile(changes, 95)))
    page.keyboard.press("q")
    box, strokes = page.locator("#picture").bounding_box(), []
    for i in range(60):
        page.mouse.move(box["x"] + 300, box["y"] + 100 + 5 * i)
        page.mouse.down()
        page.mouse.move(box["x"] + 420, box["y"] + 110 + 5 * i)
        page.evaluate(KEPT)
        page.mouse.up()
        until(page, "() => window.acknowledged > 0", 2.0)
        if took := page.evaluate("() => window.acknowledged"):  # none where a slow machine sent all of it before
            strokes.append(took)
    say("stroke, median", statistics.median(strokes))
    say("stroke, 95 %", float(np.percentile(strokes, 95)))
    cases = []
    for _ in range(12):
        page.wait_for_timeout(3000)  # somebody looks at it, while the next one is read
        before = page.evaluate("() => desk.state().id")
        page.keyboard.press("a")
        cases.append(until(page, SHOWN % before))
    say("next case, median", statistics.median(cases))
    say("next case, slowest", max(cases))
    say("server memory, highest", memory(pid))


def main() -> None:
    """Make the folder, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 300])
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    masks = make(given.work, given.cases, tuple(given.shape))
    shutil.rmtree(given.work / "reviews", ignore_errors=True)
    print(
        f"{given.cases} cases of {' x '.join(map(str, given.shape))}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        flush=True,
    )
    server = start_server(masks, "--reviews", given.work / "reviews")
    try:
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            measure(browser.new_page(viewport={"width": 1360, "height": 850}), server.address, server.process.pid)
            browser.close()
    finally:
        server.process.kill()


if __name__ == "__main__":
    main()
