"""Singla et al. (thesis 3.1) and Singla et al.* (3.4): the generator is conditioned on the posterior f(X_cf) shall reach.

    min_{E,G} max_D  w_gan L_GAN + w_f L_f + w_idt L_rec(X, E(X, f(X))) + w_cyc L_rec(X, E(E(X, 1 - f(X)), f(X)))

A condition c is one of N bins of [0, 1]. Label and condition (1, 0) remove the anomaly, for explanations; (0, 1) add one (3.2.3).
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from coinseg.config.schema import CoinSettings
from coinseg.runtime.distributed import rand_like
from coinseg.types import Explanation

from . import losses
from .coin import Generated, Logits, explain


def bin_of(probability: Tensor, conditions: int) -> Tensor:
    """The condition of posteriors in [0, 1]: N equal bins, 0 ... N - 1; (B,) -> (B,) long (thesis 3.1.1)."""
    return (probability * conditions).long().clamp(0, conditions - 1)


def asked_posterior(probability: Tensor, conditions: int) -> Tensor:
    """The target of f(X_cf) in training, (B,) -> (B,): 1 - f(X) for N = 2 (thesis 3.1.4); with more bins uniformly random."""
    return 1 - probability if conditions == 2 else rand_like(probability)


def reconstruction(x: Tensor, other: Tensor, regions: Tensor | None) -> Tensor:
    """L_rec of 3.1.5: over regions (CARL) where `regions` is given, else over all pixels."""
    return losses.reconstruction(x, other) if regions is None else losses.regional_reconstruction(x, other, regions)


def generate(x: Tensor, generator: Callable[..., Tensor], f: Logits, settings: CoinSettings, asked: None = None) -> Generated:
    """X_cf for the target of `asked_posterior`; one class, so that none is asked."""
    with torch.no_grad():
        probability = torch.sigmoid(f(x))
        posterior = asked_posterior(probability, settings.conditions)
    own, target = bin_of(probability, settings.conditions), bin_of(posterior, settings.conditions)
    return Generated(generator(x, target), target, own, posterior)


def generator_losses(
    x: Tensor, made: Generated, generator: Callable[..., Tensor], discriminator: Callable[..., Tensor], f: Logits,
    weights: CoinSettings, regions: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The weighted terms of L_G (thesis 3.1.2), by name; other arguments as in `coin.generator_losses`.

    Args:
        generator, discriminator: (images, condition) -> X_cf, and -> logits of "real", (B,).
        regions: S_j (B, J, ...) of CARL, never a lesion mask; None for L_1 over all pixels.
    """
    terms: dict[str, Tensor] = {}
    if weights.adversarial:
        terms["adversarial"] = weights.adversarial * losses.generator_adversarial(discriminator(made.image, made.asked))
    if weights.classifier:
        terms["classifier"] = weights.classifier * losses.posterior_consistency(f(made.image), cast(Tensor, made.posterior))
    if weights.identity:
        terms["identity"] = weights.identity * reconstruction(x, generator(x, made.own), regions)
    if weights.cycle:
        terms["cycle"] = weights.cycle * reconstruction(x, generator(made.image, made.own), regions)
    if weights.tv:
        terms["tv"] = weights.tv * losses.total_variation_of_difference(x, made.image)
    return terms


def discriminator_loss(x: Tensor, made: Generated, discriminator: Callable[..., Tensor]) -> Tensor:
    """L_D: real images with the bin of f(X), (detached) counterfactuals with their target bin."""
    return losses.discriminator_adversarial(discriminator(x, made.own), discriminator(made.image.detach(), made.asked))


@torch.no_grad()
def directions(x: Tensor, generator: Callable[..., Tensor], f: Logits, conditions: int) -> tuple[Explanation, Explanation]:
    """Both directions for images (B, C, ...), whatever f(X) is: the anomaly removed, and one added (thesis 3.1)."""
    found = []
    for condition in (0, conditions - 1):
        asked = torch.full((len(x),), condition, dtype=torch.long, device=x.device)
        found.append(explain(x, lambda images, c=asked: generator(images, c), f, threshold=0.0))  # type: ignore[misc]
    return found[0], found[1]
