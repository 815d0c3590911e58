"""The commands that tell and hand on: inspect, info, export, export-seg, export-nnunet. `cli` adds them to its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .config import Settings
from .errors import UserError
from .settings import settings_from

COMMANDS = {
    "inspect": ("say what is recognised in a data set; nothing is written", "coinseg inspect my_images --json"),
    "info": ("list commands, methods, layouts, presets and every setting", "coinseg info --json"),
    "export": ("a run in one folder that loads anywhere, without the data", "coinseg export out/run -o out/model --onnx"),
    "export-seg": ("a mask as DICOM segmentation of the series its scan comes from", "coinseg export-seg mask.nii.gz --dicom series -o mask.dcm"),
    "export-nnunet": ("masks as nnU-Net training data, uncertain pixels marked ignore", "coinseg export-nnunet out/run -o Dataset101_lesion --band 2"),
}  # fmt: skip
SETTINGS = tuple(Settings().as_dict())


def fill(sub: Any, name: str) -> None:
    """Add the arguments of one of `COMMANDS` to its parser."""
    if name == "inspect":
        sub.add_argument("data_path", metavar="data", type=Path, help="the data: a folder or a CSV")
        sub.add_argument("--json", action="store_true", help="print JSON (docs/manifest.md has the keys)")
        sub.add_argument("--config", action="config", help="YAML file of settings; options after it override it")
        sub.add_class_arguments(Settings, None)
    elif name == "info":
        sub.add_argument("--json", action="store_true", help="print JSON (docs/manifest.md has the keys)")
    elif name == "export":
        sub.add_argument("run", type=Path, help="the output folder of a run")
        sub.add_argument("-o", "--out", type=Path, required=True, help="the folder to write")
        sub.add_argument("--onnx", action="store_true", help="also f.onnx and generator.onnx, checked against torch")
        sub.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    elif name == "export-seg":
        sub.add_argument("mask", type=Path, help="the mask on the grid of its scan (.nii.gz)")
        sub.add_argument("--dicom", type=Path, required=True, help="folder of the series the scan comes from")
        sub.add_argument("-o", "--out", type=Path, required=True, help="the .dcm file to write")
        sub.add_argument("--label", default="Lesion", help="of the segment, for people")
        sub.add_argument("--overwrite", action="store_true", help="replace the output")
    elif name == "export-nnunet":
        sub.add_argument("source", type=Path, help="a run folder, or a folder of scans (with --masks)")
        sub.add_argument(
            "--masks", type=Path, default=None, help="masks as `coinseg segment` leaves them for the folder of scans"
        )
        sub.add_argument("-o", "--out", type=Path, required=True, help="the folder to write, DatasetXXX_name")
        sub.add_argument("--band", type=float, default=1.0, help="pixels on either side of the mask's border to ignore")
        sub.add_argument("--differences", type=Path, default=None, help="difference maps of the scans, for --between")
        sub.add_argument("--between", type=float, nargs=2, default=None, help="ignore differences in [LOW, HIGH)")
        sub.add_argument("--channel", default="CT", help="channel name, by which nnU-Net normalises")
        sub.add_argument("--label", default="lesion", help="name of the lesion")
        sub.add_argument("--overwrite", action="store_true", help="replace an earlier data set made by coinseg")


def _print(found: dict[str, Any], lines: list[str], as_json: bool) -> None:
    print(json.dumps(found, indent=2, allow_nan=False) if as_json else "\n".join(lines))


def _inspect(options: Any, known: Mapping[str, str]) -> None:
    from .inspection import inspect, lines

    values = options.as_dict()
    found = inspect(options.data_path, settings_from({name: values[name] for name in SETTINGS}))
    _print(found, lines(found), options.json)


def _info(options: Any, known: Mapping[str, str]) -> None:
    from .info import info, lines

    found = info(dict(known))
    _print(found, lines(found), options.json)


def _export(options: Any, known: Mapping[str, str]) -> None:
    from .export.folder import export_run

    made = export_run(options.run, options.out, options.overwrite, options.onnx)
    print(f"{len(made['files'])} files, {made['bytes'] / 1e6:.1f} MB in {options.out}: {', '.join(made['files'])}")
    if checked := made["onnx"]:
        said = f"onnx: {checked['images']} images, the logit of f differs by {checked['largest_logit']:.2g} at most"
        if checked["largest_difference"] is not None:
            said += f", the difference map by {checked['largest_difference']:.2g}; every mask pixel agrees ({checked['mask_pixels']} inside)"
        print(said)
    if made["needs"]:
        print(f"note: the classifier is your own; the module {made['needs']} must be importable where this is loaded")


def _export_seg(options: Any, known: Mapping[str, str]) -> None:
    from .data.volume import read_geometry, read_mask
    from .export.dicom_seg import read_series, write_dicom_seg
    from .types import MaskSource

    datasets, geometry = read_series(options.dicom), read_geometry(options.mask)
    mask = read_mask(MaskSource(options.mask), geometry)
    write_dicom_seg(mask, datasets, options.out, geometry.canonical_affine, options.label, options.overwrite)
    print(f"{int(mask.sum())} voxels on {int(mask.any((1, 2)).sum())} of {len(datasets)} images written to {options.out}")


def _export_nnunet(options: Any, known: Mapping[str, str]) -> None:
    from .export.nnunet import Uncertain, cases_in, cases_of_run, write_nnunet

    o = options
    if (o.between is None) != (o.differences is None) or (o.differences and not o.masks) or o.band < 0:
        raise UserError(
            f"--band {o.band:g}, --between {o.between}, --differences {o.differences}, --masks {o.masks}",
            "a band of 0 or more; --between LOW HIGH with --differences and --masks",
            "mend them",
        )
    cases = cases_in(o.source, o.masks, o.differences) if o.masks else cases_of_run(o.source)
    uncertain = Uncertain(o.band, tuple(o.between) if o.between else None)
    about = write_nnunet(o.out, cases, uncertain, o.channel, o.label, o.overwrite)
    print(f"{about['numTraining']} cases with labels {', '.join(about['labels'])} written to {o.out}")


ACTIONS: dict[str, Callable[[Any, Mapping[str, str]], None]] = {
    "inspect": _inspect,
    "info": _info,
    "export": _export,
    "export-seg": _export_seg,
    "export-nnunet": _export_nnunet,
}


def act(name: str, options: Any, known: Mapping[str, str]) -> None:
    """Run one of `COMMANDS`.

    Args:
        name: of the command.
        options: as parsed.
        known: every command of the command line -> what it does.
    """
    ACTIONS[name](options, known)
