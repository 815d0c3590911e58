"""Frechet distances of Gaussians known by hand, the features they are taken on, and the lines a user may get."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as library
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from coinseg.config.schema import ClassifierSettings
from coinseg.errors import UserError
from coinseg.metrics import frechet as realism
from coinseg.metrics.frechet import FEATURES, PenultimateFeatures, classifier_distance, fid, inception
from coinseg.networks.classifier import build

law = settings(max_examples=30, deadline=None)
SAMPLES = arrays(np.float64, (6, 3), elements=st.integers(-20, 20).map(lambda i: i / 4))
SHIFTS = arrays(np.float64, 3, elements=st.integers(-8, 8).map(float))


def distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Of samples (n, d) as they are: the input of the last linear layer of a single linear layer is its input."""
    as_images = [torch.from_numpy(samples)[:, None, None] for samples in (real, fake)]
    found = classifier_distance(nn.Linear(real.shape[1], 1).double(), *as_images)
    assert found is not None
    return found


def test_one_gaussian_against_another() -> None:
    # Means 2 and 10, sample variances 4 and 1: 8^2 + (2 - 1)^2.
    assert distance(np.array([[0.0], [2.0], [4.0]]), np.array([[9.0], [10.0], [11.0]])) == pytest.approx(65, abs=1e-9)
    # Five against two samples: the mean 3 of both, variances 2.5 and 0.5.
    real, fake = np.arange(1.0, 6)[:, None], np.array([[2.5], [3.5]])
    assert distance(real, fake) == pytest.approx((np.sqrt(2.5) - np.sqrt(0.5)) ** 2, abs=1e-9)


def test_diagonal_covariances_add_up() -> None:
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * np.sqrt(3) / 2  # sample covariance: identity
    real, fake = corners * [2, 4], corners * [1, 3] + [3, -4]
    assert distance(real, fake) == pytest.approx(3**2 + 4**2 + (2 - 1) ** 2 + (4 - 3) ** 2, abs=1e-9)


def test_covariances_that_do_not_commute() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 3)), rng.normal(size=(15, 3)) @ rng.normal(size=(3, 3)) + 1
    assert distance(real, fake) == pytest.approx(by_definition(real, fake), abs=1e-8)


def by_definition(real: np.ndarray, fake: np.ndarray) -> float:
    a, b = np.cov(real.T), np.cov(fake.T)
    shift = real.mean(0) - fake.mean(0)
    return float(shift @ shift + np.trace(a + b - 2 * np.real(sqrtm(a @ b))))


@law
@given(SAMPLES, SAMPLES, SHIFTS)
def test_laws(real: np.ndarray, fake: np.ndarray, shift: np.ndarray) -> None:
    found = distance(real, fake)
    close = {"rel": 1e-6, "abs": 1e-5}
    turned, _ = np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 1.5 + np.eye(3))
    assert found >= 0
    assert distance(real, real) == pytest.approx(0, abs=1e-6)
    assert distance(fake, real) == pytest.approx(found, **close)
    assert distance(real + shift, fake + shift) == pytest.approx(found, **close)  # only the difference of means counts
    assert distance(real, real + shift) == pytest.approx(shift @ shift, **close)
    assert distance(real * 3, fake * 3) == pytest.approx(9 * found, **close)  # so it depends on the scale of f's features
    assert distance(real @ turned, fake @ turned) == pytest.approx(found, **close)


def test_more_features_than_images_is_finite() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 3, 200))
    assert np.isfinite(distance(real, fake))
    assert distance(real, real) == pytest.approx(0, abs=1e-6)
    assert distance(np.ones((2, 5)), np.ones((3, 5))) == 0


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = np.random.default_rng(0).normal(size=(2, 7, 3))
    whole = distance(real, fake)
    monkeypatch.setattr(realism, "BATCH", 3)
    assert distance(real, fake) == pytest.approx(whole, abs=1e-9)


def test_one_image_has_no_distance() -> None:
    f, images = nn.Linear(4, 1), torch.zeros(3, 1, 1, 4)
    assert classifier_distance(f, images[:1], images) is None
    assert classifier_distance(f, images, images[:0]) is None
    assert fid(np.zeros((1, 8, 8)), np.zeros((5, 8, 8)), weights="unread") is None


class Declared(nn.Module):
    """Runs its layers in another order than it declares them; `spare` never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1)
        self.body = nn.Linear(16, 2)
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=torch.relu(self.body(x.flatten(1))))


def test_the_last_layer_is_the_last_to_run() -> None:
    f, x = Declared(), torch.randn(3, 1, 4, 4)
    found = PenultimateFeatures(f)(x)
    assert found.dtype == torch.float64
    assert torch.equal(found, torch.relu(f.body(x.flatten(1))).double())


def test_features_of_the_own_classifier() -> None:
    f, x = build(ClassifierSettings(name="small")), torch.randn(2, 1, 32, 32)
    found = PenultimateFeatures(f)(x)
    assert found.shape == (2, 128)
    assert torch.allclose(f.network.head(found.float())[:, 0], f.frozen()(x), atol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_features_of_timm(name: str) -> None:
    f = build(ClassifierSettings(name=name, weights=None)).frozen()
    x = torch.randn(2, 1, 160, 160)
    with torch.no_grad():
        expected = f.network.forward_head(f.network.forward_features(x), pre_logits=True)
    assert torch.allclose(PenultimateFeatures(f)(x).float(), expected, atol=1e-6)


def test_convolutions_and_tokens_are_averaged_over_positions() -> None:
    convolutions = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(2, 1, 6, 6)
    assert torch.allclose(PenultimateFeatures(convolutions)(x).float(), convolutions[:2](x).mean((2, 3)), atol=1e-6)
    tokens = nn.Sequential(nn.Flatten(1, 2), nn.Linear(6, 1))  # (2, 6, 6): six tokens of six
    assert torch.allclose(PenultimateFeatures(tokens)(x).float(), x[:, 0].mean(1), atol=1e-6)


class Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("broken")


def hooks(f: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) for m in f.modules())


def test_f_is_left_as_it_was_even_after_an_error() -> None:
    f = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(16, 1))
    f[1].eval()
    before = {name: value.clone() for name, value in f.state_dict().items()}
    for network in (f, nn.Sequential(f, Breaks())):
        try:
            PenultimateFeatures(network)(torch.randn(4, 1, 4, 4) + 9)
        except ValueError:
            assert network is not f
        assert hooks(network) == 0
        assert [m.training for m in f] == [True, False, True, True]
        assert f.training
    assert all(torch.equal(value, before[name]) for name, value in f.state_dict().items())


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (nn.Flatten(), "without features"),
        (nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 4)), nn.Linear(4, 1)), "4 features of 1 images"),
    ],
)
def test_a_network_without_features_of_each_image(f: nn.Module, words: str) -> None:
    with pytest.raises(UserError, match=words):
        classifier_distance(f, torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4))


def test_values_that_are_not_finite(checkpoint: Path) -> None:
    images = torch.zeros(3, 1, 1, 4)
    with pytest.raises(UserError, match="not finite"):
        classifier_distance(nn.Linear(4, 1), images, images + torch.nan)
    with pytest.raises(UserError, match="not finite"):
        fid(np.full((2, 8, 8), np.nan), np.zeros((2, 8, 8)), 64, checkpoint)


def write_checkpoint(path: Path, random: tuple[str, ...]) -> Path:
    """A file with all the tensors of torch-fidelity's: those that begin with one of `random` random, one repeated zero else."""
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(library, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *args, **kwargs: None)
        shapes = library.FeatureExtractorInceptionV3("inception-v3-compat", ["64"]).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in shapes.items()}
    for name in [n for n in shapes if n.startswith(random) and shapes[n].dim()]:
        drawn = torch.rand(shapes[name].shape, generator=generator)
        # So that features stay of one size through fifty layers.
        state[name] = (
            (drawn - 0.5) * (24 / drawn[0].numel()) ** 0.5 if drawn.ndim > 1 else drawn + ("weight" in name or "var" in name)
        )
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random up to the layer of 64 features."""
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "inception.pth", ("Conv2d_1", "Conv2d_2"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random everywhere."""
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "whole.pth", ("Conv2d", "Mixed", "fc"))


def of_few(real: np.ndarray, fake: np.ndarray) -> float:
    """`by_definition` for fewer images than features: the root of S_1 S_2 has the singular values of A_1 A_2^T for its trace."""
    a, b = ((features - features.mean(0)) / np.sqrt(len(features) - 1) for features in (real, fake))
    shift = real.mean(0) - fake.mean(0)
    return float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum())


def eigenvalues_of_rank(matrix: Tensor, rank: int = 4) -> Tensor:
    """Those that are not 0, of a matrix whose rank is at most `rank`; all of 2048 take torch a quarter of a minute."""
    basis = torch.linalg.qr(matrix @ torch.rand(len(matrix), rank, dtype=matrix.dtype)).Q
    return torch.from_numpy(np.linalg.eigvals((basis.T @ matrix @ basis).numpy()).astype(np.complex128))


def test_fid_of_every_width_is_that_of_the_same_features(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights from a file -> images -> features -> statistics -> distance, as torchmetrics has it from the features alone."""
    rng = np.random.default_rng(1)
    real, fake = rng.random((2, 8, 8)), rng.random((2, 8, 8)) ** 2
    with torch.no_grad():
        network = NoTrainInceptionV3("inception-v3-compat", list(map(str, FEATURES)), str(whole))
        grey = torch.from_numpy(np.round(np.concatenate([real, fake]) * 255).astype(np.uint8))
        features = [f.flatten(1).double() for f in network._torch_fidelity_forward(grey[:, None].expand(-1, 3, -1, -1))]
    assert [f.shape[1] for f in features] == [64, 192, 768, 2048]
    monkeypatch.setattr(torch.linalg, "eigvals", eigenvalues_of_rank)
    for width, of_all in zip(FEATURES, features, strict=True):
        asked = FrechetInceptionDistance(Given(width))
        asked.update(of_all[:2], real=True)
        asked.update(of_all[2:], real=False)
        scale = of_all.square().sum().item() / 4
        assert (found := fid(real, fake, width, whole)) == pytest.approx(float(asked.compute()), rel=1e-4, abs=1e-6 * scale)
        assert found == pytest.approx(of_few(of_all[:2].numpy(), of_all[2:].numpy()), rel=1e-4, abs=1e-6 * scale)
        assert found > 0


class Given(nn.Module):
    """Features in the place of images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_fid_end_to_end_from_a_file(checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.random((4, 12, 12)), rng.random((3, 12, 12)) ** 2
    found = fid(real, fake, 64, checkpoint)
    network = inception(64, checkpoint).inception
    features = [
        network(torch.from_numpy(np.round(a * 255).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)).double().numpy()
        for a in (real, fake)
    ]
    assert features[0].shape == (4, 64)
    assert found == pytest.approx(by_definition(*features), rel=1e-4)


def text(path: Path) -> None:
    path.write_text("these are not weights")


def evil(path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple:
            return Path.touch, (path.with_suffix(".ran"),)

    path.write_bytes(pickle.dumps(Runs(), protocol=2))


def torch_evil(path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple:
            return Path.touch, (path.with_suffix(".ran"),)

    torch.save({"weight": Runs()}, path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "is missing"),
        (Path.mkdir, "cannot be read as weights"),
        (Path.touch, "cannot be read as weights"),
        (text, "cannot be read as weights"),
        (evil, "cannot be read as weights"),
        (torch_evil, "cannot be read as weights"),
        (lambda path: torch.save(torch.zeros(3), path), "holds a Tensor"),
        (lambda path: torch.save({"head.weight": torch.zeros(3)}, path), "another network"),
        (lambda path: torch.save({3: 4}, path), "another network"),
    ],
)
def test_a_file_that_is_not_the_weights(tmp_path: Path, write: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "inception.pth"
    write(path)
    with pytest.raises(UserError, match=words) as caught:
        fid(np.zeros((2, 8, 8)), np.zeros((2, 8, 8)), 64, path)
    assert "\n" not in str(caught.value)
    assert "fd_f" in caught.value.do
    assert not path.with_suffix(".ran").exists()


def test_a_truncated_file(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "half.pth"
    path.write_bytes(checkpoint.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cannot be read"):
        inception(64, path)


def test_settings_of_fid() -> None:
    images = np.zeros((2, 8, 8))
    with pytest.raises(UserError, match=r"100 features.*64, 192, 768, 2048"):
        fid(images, images, 100, "download")
    with pytest.raises(UserError, match=r"without Inception weights.*download.*fd_f"):
        fid(images, images)


def test_a_download_that_works_and_others_that_do_not(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Addresses of files: no network.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(library, "URL_INCEPTION_V3", checkpoint.as_uri())
    fetched, local = inception(64, "download").state_dict(), inception(64, checkpoint).state_dict()
    assert all(torch.equal(value, local[name]) for name, value in fetched.items())
    other = tmp_path / "weights-0123abcd.pth"  # The name holds the start of another hash.
    other.write_bytes(checkpoint.read_bytes())
    for address in ((tmp_path / "absent.pth").as_uri(), other.as_uri(), "https://"):
        monkeypatch.setattr(library, "URL_INCEPTION_V3", address)
        with pytest.raises(UserError, match="could not be fetched") as caught:
            inception(64, "download")
        assert "fd_f" in caught.value.do
