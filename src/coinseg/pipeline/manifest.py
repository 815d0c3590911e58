"""manifest.json: what a command did, in a form another program can rely on (docs/guide/manifest.md, manifest.schema.json)."""

import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coinseg.config.schema import Settings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.paths import sha256_of
from coinseg.errors import UserError, exit_code, one_line
from coinseg.evaluation.verdict import NOT_JUDGED, OK, judge, of_classes
from coinseg.inference.checkpoint import read_model, weights_of
from coinseg.inference.table import class_folder
from coinseg.runtime.files import read_json, write_json
from coinseg.runtime.records import read_record

from .run_folder import SETTINGS, as_yaml

SCHEMA, MANIFEST = 1, "manifest.json"
LIBRARIES = ("torch", "numpy", "kornia", "nibabel", "scipy", "timm")


def facts(kind: str, command: str, error: BaseException | None) -> dict[str, Any]:
    """What every manifest begins with: schema, kind, version, command, created (UTC), status, versions."""
    state = {0: "done", 130: "interrupted", 143: "interrupted"}.get(exit_code(error), "failed")
    return {
        "schema": SCHEMA, "kind": kind, "version": version("coinseg"), "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": {"state": state, "exit_code": exit_code(error), "error": None if error is None else one_line(error)},
        "versions": {"python": platform.python_version(), "platform": sys.platform} | _versions(),
    }  # fmt: skip


def _versions() -> dict[str, str]:
    """Of the libraries that are installed: some are extras."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def model_of(root: Path) -> dict[str, Any]:
    """The model of a run folder or an export: its method, and the SHA-256 of model.json and of the weights it is made of."""
    digests = {name: sha256_of(root / name) for name in ["model.json", *weights_of(root)]}
    method = read_model(root / "model.json")["settings"]["method"]
    return {"path": str(root.resolve()), "method": method, "sha256": digests}


def verdict(root: Path) -> str | None:
    """The verdict on a run folder, see `evaluation.verdict`; None where nothing was scored."""
    files = (root / "evaluation" / name for name in ("scores.json", "audit.json"))
    scores, audit = (read_record(file, {}) if file.exists() else None for file in files)
    return None if scores is None else judge(scores, audit)


def verdict_of(root: Path, class_name: str = "") -> str | None:
    """The verdict that the manifest of a run folder or an export gives; None of an export that has none.

    Of a run that was not ended, as it was killed or only scored, its scores give it; without these it is not judged.

    Args:
        root: of the model.
        class_name: of one class of several: its own verdict, where the manifest has it, instead of the worst of all.
    """
    found = read_json(root / MANIFEST) if (root / MANIFEST).is_file() else {}
    found = found if isinstance(found, dict) else {}
    classes = found.get("classes")
    own = classes.get(class_name) if isinstance(classes, dict) else None
    given = (own if isinstance(own, dict) else found).get("verdict")
    if isinstance(given, str) or not (root / SETTINGS).is_file():
        return given if isinstance(given, str) else None
    unknown = f"{NOT_JUDGED}: it was not scored, which coinseg evaluate does"
    names = [str(one["name"]) for one in read_model(root / "model.json").get("classes", ())]
    each = {name: verdict(root / class_folder(name)) or unknown for name in names}
    return each.get(class_name) or of_classes(each) if names else verdict(root) or unknown


def doubts(verdict: str | None) -> list[str]:
    """What is said of masks by a model whose run was not found to be good, in one line; nothing of others."""
    return [] if verdict is None or verdict.startswith(OK) else [f"the run that trained the model was judged {verdict}"]


def write_failed(root: Path, settings: Settings, command: str, error: BaseException) -> None:
    """Leave manifest.json of a run that failed: the error, and null for everything it did not reach."""
    unknown = dict.fromkeys(("data", "inputs", "model", "timings_s", "scores", "audit", "threshold", "outputs"))
    given = {"seed": settings.seed, "settings": as_yaml(settings.as_dict())}
    with suppress(OSError):  # the disk may be what failed
        write_json(root / MANIFEST, {"verdict": None} | facts("run", command, error) | given | unknown | {"warnings": []})


def unlike(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A warning line about the rows of a table whose input is unlike what the run was trained on, or odd in itself."""
    cases = [row["case"] for row in rows if row.get("doubts")]
    what = "are unlike what the run was trained on, or odd; their masks are doubtful (index.csv: doubts)"
    line = f"{len(cases)} of {len(rows)} inputs {what}: "
    return [line + few(cases, 5)] if cases else []


def write_segmented(
    out: Path, source: Path, model: Path, records: Sequence[dict[str, Any]], command: str, processes: int,
    error: UserError | None, warnings: Sequence[str],
) -> None:  # fmt: skip
    """Leave manifest.json beside the masks of a folder.

    Args:
        out, source, model: the folders of the masks, of the scans and of the run.
        records: of every input: path (below `source`), state, mask (below `out`), sha256, error.
        command, processes, error: the command line, how many processes shared the work, and what the command ends with.
        warnings: lines for a person.
    """
    masks = {record["mask"] for record in records if record["mask"]}
    write_json(out / MANIFEST, facts("segment", command, error) | {
        "source": str(source.resolve()), "model": model_of(model), "inputs": list(records),
        "failed": [record["path"] for record in records if record["state"] == "failed"],
        "outputs": {"mask_count": len(masks)} | ({
            "mask_index": "index.json", "mask_table": "index.csv", "mask_table_sha256": sha256_of(out / "index.csv"),
        } if masks else {}),
        "processes": processes, "warnings": [*doubts(verdict_of(model)), *warnings],
    })  # fmt: skip
