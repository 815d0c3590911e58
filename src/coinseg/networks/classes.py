"""What one class has of the networks of several: its logit, the generator that turns it off, its channel of the student."""

import torch
from torch import Tensor, nn


class ClassLogit(nn.Module):
    """f of one class: images (B, C, S, S) -> logits (B,), the column `number` of those of `f`, (B, K)."""

    def __init__(self, f: nn.Module, number: int) -> None:
        super().__init__()
        self.f, self.number = f, number

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,)."""
        return self.f(x)[:, self.number]


class ClassGenerator(nn.Module):
    """E of one class: X -> X_cf without it; the class is the condition of `generator`."""

    def __init__(self, generator: nn.Module, number: int) -> None:
        super().__init__()
        self.generator, self.number = generator, number

    def forward(self, x: Tensor) -> Tensor:
        """X_cf of images (B, C, ...) in [-1, 1]."""
        return self.generator(x, torch.full((len(x),), self.number, dtype=torch.long, device=x.device))


class ClassMap(nn.Module):
    """The student of one class: images (B, C, S, S) -> logits (B, 1, S, S), a channel of those of `student`, (B, K, S, S)."""

    def __init__(self, student: nn.Module, number: int) -> None:
        super().__init__()
        self.student, self.number = student, number

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, S, S)."""
        return self.student(x)[:, self.number, None]


def logit_of(f: nn.Module, number: int, classes: int) -> nn.Module:
    """f of class `number`; f itself where it knows one class."""
    return f if classes == 1 else ClassLogit(f, number)


def generator_of(generator: nn.Module | None, number: int, classes: int) -> nn.Module | None:
    """The generator of class `number`, likewise; None for none."""
    return generator if generator is None or classes == 1 else ClassGenerator(generator, number)


def map_of(student: nn.Module, number: int, classes: int) -> nn.Module:
    """The student of class `number`, likewise."""
    return student if classes == 1 else ClassMap(student, number)


def whole(module: nn.Module) -> nn.Module:
    """The network of all classes behind what `logit_of`, `generator_of` or `map_of` gave one of them."""
    of_class: dict[type[nn.Module], str] = {ClassLogit: "f", ClassGenerator: "generator", ClassMap: "student"}
    return module.get_submodule(of_class[type(module)]) if type(module) in of_class else module
