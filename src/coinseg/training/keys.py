"""What every stage depends on, as a key; a stage whose key is unchanged is not done again."""

from __future__ import annotations

import hashlib

from torch import nn

from coinseg.config.renamed import hashed
from coinseg.config.schema import Settings
from coinseg.data.slices.store import SliceStore
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.runtime.files import key_of


def classifier_key(store: SliceStore, settings: Settings) -> str:
    """What the trained classifier depends on."""
    return key_of([store.meta["contents"], hashed(settings.anomaly), hashed(settings.classifier), settings.seed])


def coin_key(store: SliceStore, settings: Settings, f: nn.Module) -> str:
    """What the trained generator depends on; a user's own classifier enters by its weights."""
    digest = hashlib.sha256()
    for value in f.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())  # contiguous: the memory format does not count
    return key_of([store.meta["contents"], hashed(settings.anomaly), digest.hexdigest(), hashed(settings.coin), settings.seed])


def result_key(store: SliceStore, settings: Settings, f: nn.Module) -> str:
    """What maps, masks and scores depend on: the data, f, the method and how masks are made."""
    parts = [coin_key(store, settings, f), settings.method, hashed(settings.masks), settings.classifier.threshold]
    return key_of(parts if settings.method == COUNTERFACTUAL else [*parts, hashed(settings.attribution)])


def student_key(settings: Settings, teacher: str) -> str:
    """What the student depends on: the key of the masks it learns from, its settings and the seed; not what is done with what it draws."""
    own = hashed(settings.student)
    del own["novelty"], own["opinion"], own["neighbours"]
    return key_of([teacher, own | {"gate": 0.0}, settings.seed])
