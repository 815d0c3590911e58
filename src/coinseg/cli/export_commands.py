"""The commands that take a run or its masks to other programs."""

from pathlib import Path

from coinseg.errors import UserError, plain
from coinseg.runtime.locks import claimed, require_apart

from .command import DATA_OF_RUN, OWN_CLASSIFIER, Call, arg, command, flag, path


@command("a run in one folder that loads anywhere, without the data", "coinseg export out/run -o out/model --onnx", (
    path("run", help="the output folder of a run"),
    path("-o", "--out", help="the folder to write"),
    OWN_CLASSIFIER,
    flag("--onnx", "also f.onnx and generator.onnx, checked against torch"),
    flag("--overwrite", "replace an earlier export"),
))  # fmt: skip
def export(call: Call, run: Path, out: Path, classifier: str | None, onnx: bool, overwrite: bool) -> None:
    """Write the folder and print what is in it."""
    from coinseg.export.folder import export_run

    manifest = export_run(run, out, overwrite, onnx, classifier)
    print(f"{len(manifest['files'])} files, {manifest['bytes'] / 1e6:.1f} MB in {out}: {', '.join(manifest['files'])}")
    if checked := manifest["onnx"]:
        line = f"onnx: {checked['images']} images, the logit of f differs by {checked['largest_logit']:.2g} at most"
        if (largest := checked["largest_difference"]) is not None:
            line += f", the difference map by {largest:.2g}; every mask pixel agrees ({checked['mask_pixels']} inside)"
        print(line)
    if module := manifest["needs"]:
        print(f"note: the classifier is your own; the module {module} must be importable and named where this is loaded")


@command("a mask as DICOM segmentation of the series its scan comes from",
    "coinseg export-seg mask.nii.gz --dicom series -o mask.dcm", (
    path("mask", help="the mask on the grid of its scan (.nii.gz)"),
    path("--dicom", help="the series the scan comes from, as `segment` takes it"),
    path("-o", "--out", help="the .dcm file to write"),
    arg("--label", default=None, help="of the segment, for people; Lesion without. Of several classes each has its name"),
    flag("--overwrite", "replace the output"),
))  # fmt: skip
def export_seg(call: Call, mask: Path, dicom: Path, out: Path, label: str | None, overwrite: bool) -> None:
    """Write the DICOM segmentation, of a label map a segment for each of its classes."""
    from coinseg.data.readers.dicom import read_series
    from coinseg.data.readers.paths import split_key
    from coinseg.data.readers.volume import read_geometry
    from coinseg.export.dicom_seg import LABEL, write_dicom_seg
    from coinseg.pipeline.label_maps import read_labels

    names = _classes(mask, label) or (label or LABEL,)
    require_apart([out], [mask, split_key(dicom)[0]])
    with claimed(out, overwrite=overwrite) as claim:
        datasets, geometry = read_series(dicom), read_geometry(mask)
        labels = read_labels(mask, names, geometry)
        segments = {name: labels == value for value, name in enumerate(names, 1)}
        images = write_dicom_seg(segments, datasets, out, geometry.canonical_to_mm, claim.may_replace(out))
    inside, each = labels > 0, [f"{name} {int(one.sum())}" for name, one in segments.items()]
    of = f" ({', '.join(each)})" if len(each) > 1 else ""
    print(f"{int(inside.sum())} voxels{plain(of)} on {images} of {len(datasets)} images written to {out}")


@command("masks as nnU-Net training data, uncertain pixels marked ignore",
    "coinseg export-nnunet out/run -o Dataset101_lesion --band 2", (
    path("source", help="a run folder, or a folder of scans (with --masks)"),
    path("--masks", required=False, help="masks as `coinseg segment` leaves them for the folder of scans"),
    path("-o", "--out", help="the folder to write, DatasetXXX_name"),
    DATA_OF_RUN,
    arg("--band", type=float, default=1.0, help="pixels on either side of the mask's border to ignore"),
    path("--differences", required=False, help="difference maps of the scans, for --between"),
    arg("--between", type=float, nargs=2, default=None, help="ignore differences in [LOW, HIGH)"),
    arg("--channel", default=None, help="channel name, by which nnU-Net normalises; CT without (scan, of a run on other units)"),
    arg("--label", default=None, help="name of the lesion; lesion without. Several classes have their own names"),
    flag("--overwrite", "replace an earlier data set made by coinseg"),
))  # fmt: skip
def export_nnunet(
    call: Call, source: Path, masks: Path | None, out: Path, data_path: Path | None, band: float, differences: Path | None,
    between: list[float] | None, channel: str | None, label: str | None, overwrite: bool,
) -> None:  # fmt: skip
    """Write the data set; of several classes the label maps, where overlapping classes are decided already."""
    from coinseg.export.nnunet import LESION, NAME, Uncertain, cases_in, cases_of_run, channels_of_run, write_nnunet

    if (between is None) != (differences is None) or (differences and not masks) or band < 0:
        got = f"--band {band:g}, --between {between}, --differences {differences}, --masks {masks}"
        raise UserError(got, "a band of 0 or more; --between LOW HIGH with --differences and --masks", "mend them")
    cases, sequences = cases_in(source, masks, differences) if masks else cases_of_run(source, data_path)
    if sequences and channel is not None:
        got = f"--channel {channel} and {len(sequences)} sequences of each scan: {', '.join(sequences)}"
        raise UserError(got, "the names of the sequences alone", "leave --channel out")
    files = [path for case in cases for path in (case.image, *case.others)]
    require_apart([out], filter(None, (source if masks else None, masks, differences, *files)))
    classes = _classes(masks or source / "masks", label)
    names, ignored = classes or ((label,) if label else LESION), Uncertain(band, (between[0], between[1]) if between else None)
    channels = sequences or ((channel,) if channel else channels_of_run(None if masks else source))
    about = write_nnunet(out, cases, ignored, channels, names, overwrite)
    of = f" of {len(sequences)} channels ({', '.join(sequences)})" if sequences else ""
    print(f"{about['numTraining']} cases{plain(of)} with labels {plain(', '.join(about['labels']))} written to {out}")
    if not NAME.fullmatch(out.resolve().name):
        print(f"nnU-Net finds it by a name such as Dataset101_{names[0]}: rename {plain(str(out))}")
    if classes:
        print("where classes overlap, the surest counts, as in the label maps")


def _classes(masks: Path, label: str | None) -> tuple[str, ...]:
    """The classes of label maps, see `names_beside`; `UserError` where a `--label` is given for several."""
    from coinseg.pipeline.label_maps import names_beside

    names = names_beside(masks)
    if names and label is not None:
        got = f"--label {label} and masks of {len(names)} classes: {', '.join(names)}"
        raise UserError(got, "the names of the classes alone", "leave --label out, or name the masks of one class")
    return names
