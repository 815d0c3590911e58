"""The parts of the recipe, in the order in which they are fitted and asked. A part that is not in this table does not exist."""

from coinseg.config.schema import Settings

from .base import Part
from .imagenet_classifier import ImageNetClassifier
from .patchcore import PatchCore
from .slice_hmm import SliceHMM
from .synthetic_lesions import SyntheticLesions

PARTS: tuple[type[Part], ...] = (SyntheticLesions, ImageNetClassifier, SliceHMM, PatchCore)


def parts_of(settings: Settings) -> tuple[type[Part], ...]:
    """The parts that the settings ask for."""
    return tuple(part for part in PARTS if part.asked_for(settings))
