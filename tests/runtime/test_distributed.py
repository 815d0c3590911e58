"""Training by two processes, started as a launcher starts them: what one process makes of the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from coinseg.cli import main as cli
from coinseg.config.schema import ClassifierSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.pipeline.run import Workspace
from coinseg.runtime import distributed
from coinseg.runtime import process_group as processes
from coinseg.runtime.files import read_json
from coinseg.runtime.process_group import ProcessGroup, RankInfo
from coinseg.runtime.stage import COST
from coinseg.training import classifier as training
from coinseg.training import coin as coin_training
from coinseg.training import loop, monitor
from coinseg.training.augmentation import augmentation
from conftest import TINY, tiny_settings
from examples import scans

pytestmark = pytest.mark.slow

Other = Callable[..., "subprocess.Popen[str]"]
TOLERANCE = 1e-7
"""Of weights and of losses in double precision. Augmentations are drawn and done in single precision, which this is."""

NORM = """
import torch
import torch.nn.functional as F
from coinseg.runtime.distributed import average, batch_norm, means, over_whole_batch
from coinseg.runtime.process_group import current, process_group, rank_info

torch.manual_seed(0)
with process_group(rank_info()):
    here = current().here
    for kind, shape in ((torch.float64, (6, 3, 4, 5)), (torch.float64, (4, 3)), (torch.float32, (4, 3, 2, 2, 2))):
        x = (torch.randn(shape) * torch.arange(1, shape[0] + 1).view(-1, *[1] * (len(shape) - 1)) + 5).to(kind)
        weigh = torch.randn(shape).to(kind)
        found = []
        for part, norm in ((x, F.batch_norm), (here.share(x), batch_norm)):
            part = part.clone().requires_grad_()
            mean, var, weight, bias = (torch.full((3,), v, dtype=kind) for v in (0.5, 2.0, 1.5, -0.5))
            weight.requires_grad_(), bias.requires_grad_()
            y = norm(part, mean, var, weight, bias, True, 0.3, 1e-3)
            (y * (weigh if len(y) == len(weigh) else here.share(weigh))).square().mean().backward()
            found.append([y.detach(), part.grad, mean, var, weight.grad, bias.grad])
        (y, gradient, mean, var, *whole), (own, own_gradient, own_mean, own_var, *parts) = found
        near = {"rtol": 0, "atol": 1e-12 if kind == torch.float64 else 1e-5}
        torch.testing.assert_close(own, here.share(y), **near)
        # The loss of a part is the mean over it: half as many values, so gradients twice as large, before they are averaged.
        torch.testing.assert_close(own_gradient / here.count, here.share(gradient), **near)
        torch.testing.assert_close((own_mean, own_var), (mean, var), **near)
        for gradient, part in zip(whole, parts):
            parameter = torch.nn.Parameter(torch.zeros(3, dtype=kind))
            parameter.grad = part
            average([parameter, torch.nn.Parameter(torch.zeros(1))])
            torch.testing.assert_close(parameter.grad, gradient, **near)
        net = torch.nn.Sequential(torch.nn.BatchNorm1d(3)).to(kind)
        if len(shape) == 2:
            torch.testing.assert_close(over_whole_batch(net)(here.share(x)), here.share(net(x)), **near)
            still = [b.clone() for b in net.eval().buffers()]
            torch.testing.assert_close(over_whole_batch(net)(here.share(x)), here.share(net(x)), **near)
            assert all(torch.equal(a, b) for a, b in zip(still, net.buffers()))
    assert means({"a": here.rank, "b": 2.0}) == {"a": 0.5, "b": 2.0}
"""

TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from coinseg.training import classifier, coin as coin_training, loop, monitor
from coinseg.data.slices.store import SliceStore
from coinseg.runtime.process_group import process_group, rank_info
from conftest import tiny_settings

torch.set_default_dtype(torch.float64)
loop.LOG_EVERY = 1
for room in (classifier, coin_training, monitor):
    room.images_to = lambda fabric, images: images.double()
classifier.Classifier.require_usable = lambda *_, **__: None  # it asks for single precision
store, last, tiny = SliceStore(Path(sys.argv[1])), int(sys.argv[3]), tiny_settings()
f = replace(tiny.classifier, steps=6, batch=4, shift=0.07, scale=0.1, rotate=10.0, blur=1.0)
coin = replace(tiny.coin, steps=6, batch=4, cycle=0.5)
METHODS = {
    "coin": (f, coin),
    "singla": (replace(f, name="resnet10t", balanced=False), replace(coin, conditions=3, generator_every=2)),
}

class Stopped(Exception):
    pass

def report(stage, done, total, values):
    if stage == "coin" and done == last:
        raise Stopped

with process_group(rank_info()):
    for method, (f, coin) in METHODS.items():
        engine = replace(tiny.engine, checkpoint_every=2, sample_every=3)
        settings, out = replace(tiny, classifier=f, coin=coin, engine=engine), Path(sys.argv[2]) / method
        trained = classifier.train_classifier(store, settings, out / "classifier", report)
        try:
            coin_training.train_coin(store, trained, settings, out / "coin", report)
        except Stopped:
            pass
"""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs a script in this process and undoes what it changed: as the first of two with `other`, else (`of_two` False) alone."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(loop, "LOG_EVERY", loop.LOG_EVERY)
    for module in (training, coin_training, monitor):
        monkeypatch.setattr(module, "images_to", module.images_to)

    def run(script: str, *words: object, of_two: bool = False) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["-c", *map(str, words)])
            if not of_two:
                patch.delenv("RANK", raising=False)
            exec(script, {"__name__": "script"})

    yield run
    torch.set_default_dtype(torch.float32)


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", *COST)} for line in lines]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def assert_same(one: Path, two: Path, tolerance: float) -> None:
    """The same steps, losses and weights of two trained stages."""
    curves = [losses(folder) for folder in (one, two)]
    assert [line.keys() for line in curves[0]] == [line.keys() for line in curves[1]]
    for a, b in zip(*curves, strict=True):
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=0, atol=tolerance)
    for path in one.glob("*.safetensors"):
        for name, value in load_file(path).items():
            torch.testing.assert_close(load_file(two / path.name)[name], value, rtol=0, atol=tolerance)


def test_batch_norm_of_the_parts_is_batch_norm_of_the_whole(other: Other, alone: Callable[..., None]) -> None:
    """Values, gradients and running statistics, in double and in single precision."""
    second = other("-c", NORM)
    alone(NORM, of_two=True)
    assert second.communicate(timeout=60) == ("", "")
    assert second.returncode == 0


def test_two_processes_train_what_one_trains_and_one_goes_on_where_two_stopped(
    images: Path, tmp_path: Path, other: Other, alone: Callable[..., None]
) -> None:
    """In double precision, where any difference is a mistake. Both stop after step 5, one goes on after step 4."""
    settings = tiny_settings()
    prepare(read_layout(images, settings.data), settings, tmp_path / "slices")
    one, two = tmp_path / "one", tmp_path / "two"
    alone(TRAIN, tmp_path / "slices", one, 0)
    second = other("-c", TRAIN, tmp_path / "slices", two, 5)
    alone(TRAIN, tmp_path / "slices", two, 5, of_two=True)
    assert second.communicate(timeout=60)[1] == ""
    for method in ("coin", "singla"):
        assert (two / method / "coin" / "checkpoint.pt").exists()
        assert not (two / method / "coin" / "stage.json").exists()
    alone(TRAIN, tmp_path / "slices", two, 0)
    assert losses(one / "coin" / "coin")[-1]["step"] == 6
    for stage in ("coin/classifier", "coin/coin", "singla/classifier", "singla/coin"):
        assert_same(one / stage, two / stage, TOLERANCE)


def test_a_command_of_two_processes_makes_what_it_makes_alone(
    tmp_path: Path, other: Other, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From labels per scan to masks and report. In single precision the losses of a few steps agree to 1e-4."""
    data, one, two = scans(tmp_path / "data", 8, masks=True), tmp_path / "one", tmp_path / "two"
    options = [*TINY, "--engine.accelerator", "cpu"]
    with monkeypatch.context() as single:
        single.delenv("RANK", raising=False)
        assert cli.main(["run", str(data), "-o", str(one), *options]) == 0
    second = other("-m", "coinseg", "run", data, "-o", two, *options)
    assert cli.main(["run", str(data), "-o", str(two), *options]) == 0
    assert second.communicate(timeout=60) == ("", "")  # it has nothing to say
    assert second.returncode == 0
    assert str(two / "masks") in capsys.readouterr().out
    assert names(one) == names(two)
    found = [read_json(root / "witnesses" / "witnesses.json")["slices"] for root in (one, two)]
    assert found[0] == found[1]
    assert set(found[0]) <= {"ct1", "ct3", "ct5", "ct7"}
    for stage in ("witnesses/round0_fold0", "witnesses/round1_fold1"):
        curves = [[line["loss"] for line in losses(root / stage)] for root in (one, two)]
        np.testing.assert_allclose(*curves, rtol=0, atol=1e-4)
    rows = [read_json(root / "masks" / "index.json")["masks"] for root in (one, two)]
    assert [row["case"] for row in rows[0]] == [row["case"] for row in rows[1]] == ["ct1", "ct3", "ct5", "ct7"]
    # Of what is there already nothing is trained again.
    weights = {path: path.stat().st_mtime_ns for path in two.rglob("*.safetensors")}
    second = other("-m", "coinseg", "evaluate", two, *options)
    assert cli.main(["evaluate", str(two), *options]) == 0
    assert second.wait(60) == 0
    assert weights == {path: path.stat().st_mtime_ns for path in weights}


DIES = """
import os, sys
from coinseg.cli import main as cli
from coinseg.runtime import distributed
steps = []
average = distributed.average
def dying(parameters):
    steps.append(1)
    if len(steps) == 3:
        os._exit(9)
    average(parameters)
from coinseg.training import loop
loop.average = dying
sys.exit(cli.main(sys.argv[1:]))
"""


def test_when_one_process_dies_the_other_ends_with_one_line_and_one_alone_goes_on(
    images: Path, tmp_path: Path, other: Other, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(images), "-o", str(tmp_path / "out"), *TINY, "--engine.accelerator", "cpu"]
    second = other("-c", DIES, *command)
    assert cli.main(command) == 2
    assert second.wait(60) == 9
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("coinseg: error: another process of this job cannot be reached or ended early")
    status = read_json(tmp_path / "out" / "manifest.json")["status"]
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    monkeypatch.delenv("RANK")
    assert cli.main(command) == 0


def test_what_stops_the_first_process_is_one_line_of_each(
    tmp_path: Path, other: Other, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", str(tmp_path / "nothing"), "-o", str(tmp_path / "out")]
    second = other("-m", "coinseg", *command)
    assert cli.main(command) == 2
    assert "nothing does not exist" in capsys.readouterr().err
    errors = second.communicate(timeout=60)[1]
    assert second.returncode == 2
    assert errors.splitlines()[-1].startswith("coinseg: error: another process of this job")  # below a line of PyTorch's own
    assert "Traceback" not in errors


# --- what needs no second process


@pytest.mark.parametrize("count", [2, 4])
def test_random_draws_of_the_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    augment = augmentation(ClassifierSettings())
    x = torch.rand(8, 1, 24, 24) * 2 - 1
    torch.manual_seed(5)
    whole, numbers = augment(x), torch.rand(8)
    assert not torch.equal(whole, x)
    for rank in range(count):
        here = RankInfo(rank, count)
        monkeypatch.setattr(processes, "_current", ProcessGroup(here))
        torch.manual_seed(5)
        torch.testing.assert_close(distributed.augmented(augment, here.share(x)), here.share(whole), rtol=0, atol=1e-6)
        assert torch.equal(distributed.rand_like(here.share(numbers)), here.share(numbers))


def test_a_batch_without_equal_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed.require_parts(5, "coin.batch")
    monkeypatch.setattr(processes, "_current", ProcessGroup(RankInfo(1, 3)))
    distributed.require_parts(6, "coin.batch")
    with pytest.raises(UserError, match=r"coin\.batch is 8 and there are 3 processes; required: a multiple of 3; change coin"):
        distributed.require_parts(8, "coin.batch")


def test_the_batch_of_the_second_opinion_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, images: Path, tmp_path: Path
) -> None:
    base = tiny_settings()
    settings = replace(
        base,
        classifier=replace(base.classifier, batch=6),
        coin=replace(base.coin, batch=6),
        student=replace(base.student, steps=2, batch=8),
    )
    monkeypatch.setattr(processes, "_current", ProcessGroup(RankInfo(0, 3)))
    with pytest.raises(UserError, match=r"student\.batch is 8 and there are 3 processes; .*change student\.batch"):
        Workspace(images, tmp_path, settings).check()
    Workspace(images, tmp_path, replace(settings, student=replace(settings.student, imagenet_steps=0))).check()


def test_one_process_has_nothing_between_itself_and_torch() -> None:
    network = torch.nn.BatchNorm1d(3)
    assert distributed.over_whole_batch(network) is network
    gradient = torch.ones(3)
    network.weight.grad = gradient
    distributed.average(network.parameters())
    assert network.weight.grad is gradient
    assert torch.equal(gradient, torch.ones(3))
