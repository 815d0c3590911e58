"""What each command does, once the command line is parsed: call and print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from coinseg.config.parsing import settings_from
from coinseg.config.schema import Settings
from coinseg.errors import UserError, plain
from coinseg.runtime.files import write_json
from coinseg.runtime.locks import claimed, locked, require_apart
from coinseg.runtime.process_group import current

from .progress import ConsoleReport

SETTINGS = tuple(Settings().as_dict())


def _phantom(options: Any, report: ConsoleReport) -> None:
    from coinseg.data.phantom.cohort import PhantomSettings, write_cohort

    values = {f.name: options[f.name] for f in fields(PhantomSettings)}
    write_cohort(
        options.out, PhantomSettings(**values), options.processes, lambda done, total: report("phantom", done, total, {})
    )
    print(f"phantom cohort of {options.patients} patients in {options.out}")


def _segment(options: Any, report: ConsoleReport, command: str) -> None:
    from coinseg.pipeline.segment import failure, segment_path
    from coinseg.runtime.process_group import rank_info

    o, here = options, rank_info()
    done, failed = segment_path(
        o.input,
        o.output,
        o.model,
        o.organ,
        o.overwrite,
        o.accelerator,
        report,
        o.counterfactual,
        o.difference,
        o.confidence,
        command,
        o.classifier,
    )
    if here.is_main:
        print(f"{done} mask{'s' if done != 1 else ''} written to {options.output}")
        if error := failure(done, failed):
            raise error


def _stages(name: str, options: Any, report: ConsoleReport, command: str) -> None:
    from coinseg.pipeline import run as pipeline
    from coinseg.pipeline import run_folder
    from coinseg.runtime.process_group import process_group, rank_info
    from coinseg.runtime.stage import silent

    values, here = options.as_dict(), rank_info()
    settings = settings_from({key: values[key] for key in SETTINGS})

    def workspace() -> pipeline.Workspace:
        data = run_folder.resolve(values.get("data_path"), options.out, settings, options.overwrite)
        return pipeline.Workspace(data, options.out, settings, report)

    if options.dry_run:
        from .dry_run import describe

        if here.is_main:
            print(describe(workspace()))
        return
    with process_group(here) as others:
        if not here.is_main:
            data, settings = others.broadcast((Path(), settings))
            work = pipeline.Workspace(data, options.out, settings, silent)
            _train(name, work)
            return
        work = workspace()
        with locked(options.out):
            # Once more: another process may have made the folder since.
            run_folder.resolve(data=values.get("data_path"), out=options.out, settings=settings, overwrite=options.overwrite)
            work.start(options.overwrite)
            others.broadcast((work.data, settings))
            _work(name, work, command)


def _train(name: str, work: Any) -> Any:
    """What a command trains, and the masks of `run` and `report`; all processes of a job call this, the scores are the first one's."""
    from coinseg.pipeline import run as pipeline

    if name == "prepare":
        return pipeline.prepare_slices(work)
    if name in ("train-classifier", "train-coin"):
        return pipeline.train_pair(work, until="classifier" if name == "train-classifier" else "coin")
    trained = pipeline.train(work)
    if name == "evaluate":
        return trained
    scores = pipeline.evaluate(trained) if current().here.is_main else {}
    return trained, scores, pipeline.write_masks(trained)


def _work(name: str, work: Any, command: str) -> None:
    from coinseg.pipeline import run as pipeline
    from coinseg.runtime.stage import Stage

    if name in ("run", "report"):
        from coinseg.pipeline import manifest, run_manifest
        from coinseg.report.page import write_report

        # While a run goes on there is none: whoever finds a manifest has that of a command that ended.
        (work.root / manifest.MANIFEST).unlink(missing_ok=True)
        try:
            trained, scores, masks = _train(name, work)
            made = run_manifest.build(trained, scores, masks, command)
            page = write_report(work.root, made)
            write_json(work.root / manifest.MANIFEST, made)  # last: where it says done, everything is there
        except BaseException as error:
            manifest.write_failed(work.root, work.settings, command, error)
            raise
        _summary(work.root, made, page)
        return
    trained = _train(name, work)
    if name == "prepare":
        print(f"{len(trained)} slices in {work.root / 'slices'}")
    elif name == "train-classifier":
        folder = work.root / "classifier"
        print(f"classifier in {folder}: {_line(Stage(folder, '').facts()['scores'])}")
    elif name == "train-coin":
        folder = work.root / "coin"
        print(f"generator in {folder}: {_line(Stage(folder, '').facts()['health'])}")
    else:
        print(f"{_line(pipeline.evaluate(trained))}\nscores in {work.root / 'evaluation'}")


def _reproduce(options: Any, report: ConsoleReport) -> None:
    from coinseg.pipeline import run_folder
    from coinseg.runtime.process_group import rank_info
    from coinseg.thesis import reproduce

    if (count := rank_info().count) > 1:
        raise UserError(f"reproduce was started as {count} processes", "one", "start it without torchrun or srun")
    values, data = options.as_dict(), options.data_path
    settings = settings_from({key: values[key] for key in SETTINGS})
    made = data is None
    if made:
        data, settings = options.out / "phantom", reproduce.on_phantom(settings)
    if options.seeds < 1 or options.slices < 0:
        raise UserError(f"--seeds {options.seeds}, --slices {options.slices}", "1 seed or more, 0 slices or more", "mend them")
    data = run_folder.resolve(data, options.out, settings, options.overwrite)
    with locked(options.out):
        run_folder.resolve(data, options.out, settings, options.overwrite)  # once more: another process may have made it since
        run_folder.write_settings(data, options.out, settings)
        if made:
            from coinseg.data.phantom.cohort import write_cohort

            write_cohort(data, reproduce.PHANTOM, 0, lambda done, total: report("phantom", done, total, {}))
        job = reproduce.Job(
            data, options.out, settings, options.scale, options.seeds, options.slices, options.fid, options.fid_features,
            options.overwrite,
        )  # fmt: skip
        files, records = reproduce.reproduce(job, options.table, options.name or data.name, report)
    for record in records:
        found = [value for value in record["scores"].get("iou", []) if value is not None]
        shown = f"{sum(found) / len(found):.3f}" if found else "none"
        print(f"  {record['protocol']:<8} {record['method']:<28} IoU {shown}")
    print("\n".join(str(path) for path in files))


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3f}" for k, v in values.items() if isinstance(v, float) and k != "seconds")


def _summary(root: Path, made: dict[str, Any], page: Path) -> None:
    from coinseg.pipeline.run_manifest import SCORES

    scores = made["scores"]
    print(
        f"\n{made['data']['slices']} slices of {made['data']['patients']} patients, {made['data']['patients_held_out']} held out"
    )
    of_scans = ("auroc_scans",) if scores["auroc_scans"] is not None else ()  # of images there is nothing to say
    of_posterior = ("posterior_auroc",) if scores["posterior_auroc"] is not None else ()
    for score in (*SCORES, *of_scans, *of_posterior):
        value = scores[score]
        shown = f"{value:.3f}" if value is not None else f"none ({scores['null_because'][score]})"
        print(f"  {score:<20} {shown}{'   (tuned on the masks it is scored with)' if score == 'iou_oracle' else ''}")
    print("  " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in made["timings_s"].items()))
    for warning in made["warnings"][:10]:
        print(f"  warning: {plain(warning)}")
    print(
        f"masks     {root / 'masks'} ({made['outputs']['mask_count']}), how far to trust each pixel in {root / 'confidence'}\nmanifest  {root / 'manifest.json'}\nreport    {page}"
    )


def _print(found: dict[str, Any], lines: list[str], as_json: bool) -> None:
    print(json.dumps(found, indent=2, allow_nan=False) if as_json else "\n".join(map(plain, lines)))


def _inspect(options: Any) -> None:
    from .inspect import inspect, lines

    values = options.as_dict()
    found = inspect(options.data_path, settings_from({name: values[name] for name in SETTINGS}))
    _print(found, lines(found), options.json)


def _info(options: Any, known: Mapping[str, str]) -> None:
    from .info import info, lines

    found = info(dict(known))
    _print(found, lines(found), options.json)


def _export(options: Any) -> None:
    from coinseg.export.folder import export_run

    made = export_run(options.run, options.out, options.overwrite, options.onnx, options.classifier)
    print(f"{len(made['files'])} files, {made['bytes'] / 1e6:.1f} MB in {options.out}: {', '.join(made['files'])}")
    if checked := made["onnx"]:
        said = f"onnx: {checked['images']} images, the logit of f differs by {checked['largest_logit']:.2g} at most"
        if checked["largest_difference"] is not None:
            said += f", the difference map by {checked['largest_difference']:.2g}; every mask pixel agrees ({checked['mask_pixels']} inside)"
        print(said)
    if made["needs"]:
        print(f"note: the classifier is your own; the module {made['needs']} must be importable and named where this is loaded")


def _export_seg(options: Any) -> None:
    from coinseg.data.readers.volume import read_geometry, read_mask
    from coinseg.export.dicom_seg import read_series, write_dicom_seg
    from coinseg.types import MaskSource

    require_apart([options.out], [options.mask, options.dicom])
    with claimed(options.out, overwrite=options.overwrite) as claim:
        datasets, geometry = read_series(options.dicom), read_geometry(options.mask)
        mask = read_mask(MaskSource(options.mask), geometry)
        write_dicom_seg(mask, datasets, options.out, geometry.canonical_affine, options.label, claim.may_replace, claim.begin)
    print(f"{int(mask.sum())} voxels on {int(mask.any((1, 2)).sum())} of {len(datasets)} images written to {options.out}")


def _export_nnunet(options: Any) -> None:
    from coinseg.export.nnunet import Uncertain, cases_in, cases_of_run, write_nnunet

    o = options
    if (o.between is None) != (o.differences is None) or (o.differences and not o.masks) or o.band < 0:
        raise UserError(
            f"--band {o.band:g}, --between {o.between}, --differences {o.differences}, --masks {o.masks}",
            "a band of 0 or more; --between LOW HIGH with --differences and --masks",
            "mend them",
        )
    cases = cases_in(o.source, o.masks, o.differences) if o.masks else cases_of_run(o.source)
    require_apart([o.out], filter(None, (o.source if o.masks else None, o.masks, o.differences, *(c.image for c in cases))))
    uncertain = Uncertain(o.band, tuple(o.between) if o.between else None)
    about = write_nnunet(o.out, cases, uncertain, o.channel, o.label, o.overwrite)
    print(f"{about['numTraining']} cases with labels {', '.join(about['labels'])} written to {o.out}")


_TELLING: dict[str, Callable[[Any], None]] = {
    "inspect": _inspect, "export": _export, "export-seg": _export_seg, "export-nnunet": _export_nnunet,
}  # fmt: skip


def act(name: str, options: Any, report: ConsoleReport, command: str, known: Mapping[str, str]) -> None:
    """Run one command.

    Args:
        name: of the command.
        options: as parsed.
        report: progress.
        command: the whole command line, for manifests.
        known: every command of the command line -> what it does.
    """
    if name == "info":
        _info(options, known)
    elif name in _TELLING:
        _TELLING[name](options)
    elif name == "phantom":
        _phantom(options, report)
    elif name == "segment":
        _segment(options, report, command)
    elif name == "reproduce":
        _reproduce(options, report)
    else:
        _stages(name, options, report, command)
