"""`data.size auto` and `data.tile auto` of a run: the numbers its folder has, or those chosen for its data on this machine."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from coinseg.config.parsing import stored_settings
from coinseg.config.schema import Settings, StudentSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.sizes import Machine, chosen_sizes, native_shapes
from coinseg.runtime.devices import choose_device
from coinseg.runtime.process_group import cores
from coinseg.runtime.records import read_settings

from .run_folder import SETTINGS


def this_machine(settings: Settings) -> Machine:
    """The machine that a run of these settings would use."""
    device = choose_device(settings.engine)
    if device.type == "cuda":
        return Machine(True, torch.cuda.mem_get_info(device)[0], cores())
    return Machine(False, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), settings.engine.threads or cores())


def sized(settings: Settings, data: Path, out: Path) -> tuple[Settings, list[str]]:
    """Settings with numbers in the place of "auto", and lines that say why; none where a run goes on with the numbers it has.

    Args:
        settings: as they were asked for.
        data: what the run is made of.
        out: the run folder.

    Raises:
        UserError: the data cannot be read.
    """
    asked = settings.data
    if "auto" not in (asked.size, asked.tile):
        return settings, []
    if (out / SETTINGS).exists():
        before = stored_settings(read_settings(out / SETTINGS, "data", "settings")["settings"])
        kept = before.data
        size, tile = (old if new == "auto" else new for old, new in ((kept.size, asked.size), (kept.tile, asked.tile)))
        student = before.student if asked.size == "auto" and settings.student == StudentSettings() else settings.student
        return replace(settings, data=replace(asked, size=size, tile=tile), student=student), []
    cohort = read_layout(data, asked, one_class=settings.anomaly.kind != "none")
    return chosen_sizes(native_shapes(cohort, settings), settings, this_machine(settings))
