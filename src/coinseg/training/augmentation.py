"""Random changes of the training images of f, which are no evidence of an anomaly."""

from torch import nn

from coinseg.config.schema import ClassifierSettings


def augmentation(settings: ClassifierSettings) -> nn.Module:
    """The flips, shift, scale and rotation of the thesis, and optional blur and noise; drawn for each image on its own."""
    import kornia.augmentation as K

    steps: list[nn.Module] = []
    if settings.flip:
        steps += [K.RandomHorizontalFlip(), K.RandomVerticalFlip()]
    if settings.shift or settings.scale or settings.rotate:
        shifts, scales = (settings.shift, settings.shift), (1 - settings.scale, 1 + settings.scale)
        steps.append(K.RandomAffine(settings.rotate, shifts, scales, padding_mode="border", p=0.9))
    if settings.blur:
        steps.append(K.RandomGaussianBlur((5, 5), (0.1, settings.blur), p=0.5))
    if settings.noise:
        steps.append(K.RandomGaussianNoise(0.0, settings.noise, p=0.5))
    return nn.Sequential(*steps)
