"""What every trained stage depends on; a stage whose key is unchanged is not trained again. Keys of version 1 omit it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from coinseg.config.renamed import hashed
from coinseg.config.schema import AnomalySettings, Settings
from coinseg.data.slices.dataset import in_turns
from coinseg.data.slices.store import SliceStore
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.runtime.files import key_of

DEFAULT_THRESHOLD = 0.5
"""`classifier.threshold` in keys of f, whatever it is: f is trained without it. Older keys had it, and this is its default."""
NOT_HASHED = object()  # For `Dependencies.unread`: the setting was never part of a key


@dataclass(frozen=True)
class Dependencies:
    """What one stage depends on; raise `version` with every change that leads to other weights (an equation, a random stream)."""

    version: int  # of its algorithm
    inputs: tuple[str, ...]  # sections of `Settings`, and what the stage is given beside them; in the order of the hash
    # Section -> settings in it that its training does not read, with the value that is hashed in their place.
    unread: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_F_UNREAD = {"classifier": {"threshold": DEFAULT_THRESHOLD}}
STAGES = {
    "instances": Dependencies(1, ("contents", "classifier", "seed", "quantile", "fold_steps", "rounds"), _F_UNREAD),
    "classifier": Dependencies(1, ("contents", "anomaly", "classifier", "seed"), _F_UNREAD),
    "generator": Dependencies(2, ("contents", "anomaly", "f", "coin", "seed")),
    # Its other settings are read once masks are made with it; `gate` was hashed with the default of its time.
    "student": Dependencies(2, ("teacher", "student", "seed"), {
        "student": {"gate": 0.0, "novelty": NOT_HASHED, "opinion": NOT_HASHED, "neighbours": NOT_HASHED},
    }),
}  # fmt: skip
"""The trained stages. "contents" is the data's digest (`store.meta`), "f" that of the classifier's weights, "teacher" the key of
what makes the pseudo-masks."""
# Of the injected anomaly (`data/slices/synthetic_anomaly.py` and its random stream), for every stage that sees it.
ANOMALY_VERSION = 2


def stage_key(stage: str, settings: Settings, **given: Any) -> str:
    """The key of a stage in `STAGES`; `given` are its inputs that are no settings."""
    needs = STAGES[stage]
    hashed = [given[name] if name in given else _section(name, settings, needs.unread.get(name, {})) for name in needs.inputs]
    return key_of([*hashed, needs.version] if needs.version > 1 else hashed)


def _section(name: str, settings: Settings, unread: Mapping[str, Any]) -> Any:
    """The seed, or a section of settings as a dictionary without what is not read."""
    if name == "seed":
        return settings.seed
    if name == "anomaly":
        injected = settings.anomaly.kind != "none"
        return hashed(settings.anomaly) | {"version": ANOMALY_VERSION} if injected else hashed(AnomalySettings())
    values = hashed(getattr(settings, name)) | dict(unread)
    return {key: value for key, value in values.items() if value is not NOT_HASHED}


def _of_turns(key: str, with_turns: bool) -> str:
    """The key of a training whose classes take turns (`dataset.turns`); before they did, the last classes were never drawn."""
    return key_of([key, "turns"]) if with_turns else key


def class_count(store: SliceStore) -> int:
    """How many classes share the generator whose maps are those of a store or of a view of it."""
    return len(store.meta.get("classes", ()))


def classifier_key(store: SliceStore, settings: Settings) -> str:
    """The key of the trained classifier."""
    key = stage_key("classifier", settings, contents=store.meta["contents"])
    return _of_turns(key, in_turns(len(store.views), settings.classifier.batch))


def coin_key(store: SliceStore, settings: Settings, f: nn.Module) -> str:
    """The key of the trained generator; f, which may be a user's own, enters by its weights."""
    digest = hashlib.sha256()
    for value in f.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())  # contiguous: the memory format does not count
    key = stage_key("generator", settings, contents=store.meta["contents"], f=digest.hexdigest())
    return _of_turns(key, in_turns(class_count(store), settings.coin.batch))


def result_key(store: SliceStore, settings: Settings, f: nn.Module) -> str:
    """What maps, masks and scores depend on: the data, f, the method and how masks are made."""
    parts = [coin_key(store, settings, f), settings.method, hashed(settings.masks), settings.classifier.threshold]
    return key_of(parts if settings.method == COUNTERFACTUAL else [*parts, hashed(settings.attribution)])


def student_key(settings: Settings, teacher: str, classes: int = 1) -> str:
    """The key of the trained student; `teacher` is that of what makes its pseudo-masks."""
    return _of_turns(stage_key("student", settings, teacher=teacher), _few_of_each(settings, classes))


def _few_of_each(settings: Settings, classes: int) -> bool:
    """Whether the student's batches have less than two images without each class, see `student._of_class`."""
    return classes > 1 and settings.student.batch < 3 * classes


def with_student(key: str, settings: Settings, classes: int = 1) -> str:
    """What masks of a run with a student depend on: the key of those without one, and all settings of the student."""
    return _of_turns(key_of([key, hashed(settings.student)]), _few_of_each(settings, classes))


def class_key(key: str, number: int, classes: int) -> str:
    """The key of what class `number` has of its own, as a threshold: by its number, because its name may be corrected."""
    return key if classes <= 1 else key_of([key, number])
