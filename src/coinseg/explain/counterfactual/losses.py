"""The losses of COIN and of Singla et al.: one equation of the thesis, one pure function.

Symbols: X the image in [-1, 1], E the generator, X_cf = E(X), f the classifier (probability of abnormal), D the
discriminator (probability of real). All return a scalar, the mean over the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_adversarial(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-L_GAN of 3.1.3: -E[log D(X)] - E[log(1 - D(X_cf))], from logits (B,). At least 0; 2 log 2 when D cannot tell."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_adversarial(fake_logits: Tensor) -> Tensor:
    """The generator's side of 3.1.3 in its non-saturating form: -E[log D(X_cf)], from logits (B,). At least 0."""
    return F.softplus(-fake_logits).mean()


def classifier_consistency(counterfactual_logits: Tensor) -> Tensor:
    """L_f of 3.3.2, from the classifier's logits (B,) on X_cf. At least 0; 0 when f calls every X_cf normal.

    For D_KL(f(E(X)) || 0) of the thesis, infinite for f > 0, D_KL(Bernoulli(0) || Bernoulli(f)) = -log(1 - f(X_cf)).
    """
    return F.softplus(counterfactual_logits).mean()


def posterior_consistency(counterfactual_logits: Tensor, asked: Tensor) -> Tensor:
    """L_f of 3.1.4 (Singla et al.), from the classifier's logits on X_cf and the target posterior in [0, 1], both (B,).

    For D_KL(f(X_cf) || 1 - f(X)) of the thesis, infinite for targets 0 and 1, D_KL(Bernoulli(target) || Bernoulli(f(X_cf))):
    at least 0, and 0 exactly where f(X_cf) is the target. For a target of 0 it is `classifier_consistency`.
    """
    entropy = torch.special.entr(asked) + torch.special.entr(1 - asked)
    return (F.binary_cross_entropy_with_logits(counterfactual_logits, asked, reduction="none") - entropy).mean()


def class_consistency(counterfactual_logits: Tensor, logits: Tensor, asked: Tensor) -> Tensor:
    """L_f with K classes: the asked class of each image is turned off, and every other one stays where it is.

        mean over images of  D_KL(0 || f_a(X_cf)) + sum over j != a of H(z_j(X_cf) - z_j(X))

    z_j is the logit of class j, and H(d) is d^2 / 2 up to |d| = 1 and |d| - 1/2 beyond (Huber 1964): unlike a divergence of
    probabilities it holds logits where f is sure; what pulls harder keeps the class itself from being turned off
    (docs/research/colour.md). With one class it is `classifier_consistency`.

    Args:
        counterfactual_logits: of X_cf, (B, K).
        logits: of X, (B, K).
        asked: the number a of the class of each image, (B,) long.
    """
    turned_off = classifier_consistency(counterfactual_logits.gather(1, asked[:, None]))
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, asked[:, None], False)
    if not others.any():
        return turned_off
    kept = F.huber_loss(counterfactual_logits[others], logits[others])
    return turned_off + (logits.shape[1] - 1) * kept


def regional_reconstruction(x: Tensor, other: Tensor, regions: Tensor) -> Tensor:
    """L_rec of 3.1.5 (CARL): the mean absolute difference inside every region, summed over the regions that an image has.

    Args:
        x: images (B, C, *spatial).
        other: images of the same shape.
        regions: S_j, 0 or 1, (B, J, *spatial).
    """
    difference = (x - other).abs().mean(1, keepdim=True)
    inside = (regions * difference).flatten(2).sum(-1)
    return (inside / regions.flatten(2).sum(-1).clamp(min=1)).sum(1).mean()


def reconstruction(x: Tensor, other: Tensor) -> Tensor:
    """L_1 of 3.1.5: the mean absolute difference over all pixels. In [0, 2] for images in [-1, 1]."""
    return (x - other).abs().mean()


def total_variation(image: Tensor) -> Tensor:
    """L_tv of 3.3.4: the sum of squared differences of neighbours in (B, C, *spatial), over the number of pixels. At least 0."""
    total = image.new_zeros(())
    for axis in range(2, image.ndim):
        total = total + image.diff(dim=axis).square().sum()
    return total / image[0, 0].numel() / image.shape[0] / image.shape[1]


def total_variation_of_difference(x: Tensor, counterfactual: Tensor) -> Tensor:
    """L_tv of the difference map |X - X_cf| on the 0-255 scale, which the weights of the authors' runs refer to."""
    return total_variation((x - counterfactual).abs() * 127.5)
