"""Counterfactual inpainting (thesis 3.3): the losses L_G and L_D, and the explanation of an image.

    min_E max_D  w_gan L_GAN + w_f L_f + w_idt L_idt + w_tv L_tv

f is a callable from images to logits with frozen weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from coinseg.config.schema import CoinSettings
from coinseg.types import Explanation

from . import losses

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Generated:
    """Counterfactuals of images X in training; COIN has one condition and no bins, without a posterior it is 0."""

    image: Tensor  # X_cf, (B, C, ...)
    asked: Tensor | None = None  # the target bin of f(X_cf), or of several classes the one that is turned off, (B,)
    own: Tensor | None = None  # the bin of f(X), (B,); of COIN where the discriminator is told (`coin.informed`)
    posterior: Tensor | None = None  # the target of f(X_cf), (B,) in [0, 1]
    logits: Tensor | None = None  # f(X) of several classes, (B, K)


def generate(
    x: Tensor, generator: Callable[..., Tensor], f: Logits, settings: CoinSettings, asked: Tensor | None = None
) -> Generated:
    """X_cf with one condition: the target of every image is f(X_cf) = 0 (thesis 3.2.3).

    With `coin.keep_normal` the target of images that f calls normal is f(X), as in the authors' runs. Of several classes the
    generator turns off the one that is `asked`, (B,) long: its condition, as in 3.1.1.
    """
    if asked is not None:
        with torch.no_grad():
            logits = f(x)
        return Generated(generator(x, asked), asked, logits=logits)
    if not (settings.keep_normal or settings.informed):
        return Generated(generator(x))
    with torch.no_grad():
        posterior = torch.sigmoid(f(x))
    kept = torch.where(posterior < 0.5, posterior, 0.0) if settings.keep_normal else None
    return Generated(generator(x), own=(posterior >= 0.5).long() if settings.informed else None, posterior=kept)


def _judged_made(made: Generated, image: Tensor, discriminator: Callable[..., Tensor]) -> Tensor:
    """What the discriminator says of counterfactuals; where it is told, that they are normal."""
    return discriminator(image) if made.own is None else discriminator(image, torch.zeros_like(made.own))


def generator_losses(
    x: Tensor, made: Generated, generator: Callable[..., Tensor], discriminator: Callable[..., Tensor], f: Logits,
    weights: CoinSettings, regions: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The weighted terms of L_G (thesis 3.3.1), by name; L_idt is "identity" plus "cycle" (3.3.3).

    Args:
        x: normal and abnormal images (B, C, ...) in [-1, 1].
        made: their counterfactuals, see `generate`.
        generator: X -> X_cf.
        discriminator: images -> logits of "real", (B,); with `coin.informed` of images and their bins (B,).
        f: images -> logits of "abnormal", (B,); of K classes (B, K).
        weights: of the terms; a term of weight 0 is not computed.
        regions: not used; COIN needs no segmentation masks (3.3.3).
    """
    counterfactual = made.image
    terms: dict[str, Tensor] = {}
    if weights.adversarial:
        terms["adversarial"] = weights.adversarial * losses.generator_adversarial(
            _judged_made(made, counterfactual, discriminator)
        )
    if weights.classifier:
        logits = f(counterfactual)
        if made.asked is not None and made.logits is not None:
            loss = losses.class_consistency(logits, made.logits, made.asked)
        elif made.posterior is not None:
            loss = losses.posterior_consistency(logits, made.posterior)
        else:
            loss = losses.classifier_consistency(logits)
        terms["classifier"] = weights.classifier * loss
    if weights.identity:
        terms["identity"] = weights.identity * losses.reconstruction(x, counterfactual)
    if weights.cycle:
        again = generator(counterfactual) if made.asked is None else generator(counterfactual, made.asked)
        terms["cycle"] = weights.cycle * losses.reconstruction(x, again)
    if weights.tv:
        terms["tv"] = weights.tv * losses.total_variation_of_difference(x, counterfactual)
    return terms


def discriminator_loss(x: Tensor, made: Generated, discriminator: Callable[..., Tensor]) -> Tensor:
    """L_D on images and (detached) counterfactuals (B, C, ...)."""
    real = discriminator(x) if made.own is None else discriminator(x, made.own)
    return losses.discriminator_adversarial(real, _judged_made(made, made.image.detach(), discriminator))


@torch.no_grad()
def explain(x: Tensor, generator: Callable[..., Tensor], f: Logits, threshold: float = 0.5) -> Explanation:
    """Counterfactuals of the images f calls abnormal; the other images are returned unchanged.

    Args:
        x: images (B, C, ...) in [-1, 1].
        generator: X -> X_cf, in evaluation mode.
        f: images -> logits, (B,).
        threshold: f(X) at or above it is abnormal; 0 inpaints every image.
    """
    probability = torch.sigmoid(f(x))
    counterfactual, afterwards, abnormal = x.clone(), probability.clone(), probability >= threshold
    if abnormal.any():  # the others are not looked at again: in a whole scan they are most
        counterfactual[abnormal] = generator(x[abnormal]).clamp(-1, 1).to(x.dtype)
        afterwards[abnormal] = torch.sigmoid(f(counterfactual[abnormal])).to(probability.dtype)
    return Explanation(
        probability=probability,
        counterfactual=counterfactual,
        counterfactual_probability=afterwards,
        saliency=difference(x, counterfactual),
    )


def difference(x: Tensor, counterfactual: Tensor) -> Tensor:
    """|X - X_cf| / 2, the mean over channels: (B, C, ...) in [-1, 1] -> (B, ...) in [0, 1]."""
    return (x - counterfactual).abs().mean(1) / 2
