"""Attribution methods: class activation maps and RISE, which explain a frozen f without training (thesis 2.2, 3.5, 4.2)."""

from torch import Tensor, nn

from coinseg.config.reading import refuse
from coinseg.config.rules import of_ranges
from coinseg.config.schema import AttributionSettings
from coinseg.errors import UserError

from .cam import KINDS, cam, unknown_method
from .layer_choice import best_layer, deletion_insertion
from .layers import candidate_layers, layer_named
from .rise import rise, rise_scores

METHODS = (*KINDS, "rise")  # names of the attribution methods

__all__ = [
    "METHODS", "best_layer", "cam", "candidate_layers", "deletion_insertion", "layer_named", "rise", "rise_scores", "saliency",
]  # fmt: skip


def saliency(method: str, f: nn.Module, x: Tensor, settings: AttributionSettings, seed: int, layer: str | None = None) -> Tensor:
    """Return the map of an attribution method, (B, H, W), scaled to [0, 1] in each image (thesis 4.2).

    Args:
        method: one of `METHODS`; others, wrong layers and settings out of range are a `UserError`.
        f: images (B, C, H, W) in [-1, 1] -> logits (B,) of "abnormal"; used in evaluation mode and left as it was.
        x: images (B, C, H, W) in [-1, 1].
        settings: of the method.
        seed: of the masks of RISE.
        layer: of f, instead of settings.layer; the result of `best_layer` when that is "best". RISE has none.
    """
    if method not in METHODS:
        raise unknown_method(method, list(METHODS))
    refuse(of_ranges("attribution", settings))
    if method == "rise":
        return rise(f, x, settings, seed)
    name = layer or settings.layer
    if name == "best":
        got, do = (
            "attribution.layer is 'best', and no layer was chosen",
            "choose it with best_layer, or set attribution.layer to last",
        )
        raise UserError(got, "a layer chosen on training images", do)
    return cam(method, f, x, name, settings.batch, settings)
