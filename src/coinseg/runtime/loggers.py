"""Where the numbers of a training go beside stats.jsonl: loggers of Lightning Fabric (CSV, TensorBoard), W&B and MLflow."""

import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

PROJECT = "coinseg"
"""Name of the project (W&B) or experiment (MLflow)."""


class Logger(Protocol):
    """What a stage needs of a logger; those of Lightning Fabric have it."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Take the numbers of a step, by name."""

    def save(self) -> None:
        """Write what was taken so far."""

    def finalize(self, status: str) -> None:
        """Write the rest and close."""


def open_logger(name: str, folder: Path, key: str, done: int, earlier: list[dict[str, float]]) -> Logger | None:
    """The logger that `engine.logger` names, for one stage; None for "none", and for "auto" without TensorBoard.

    Args:
        name: value of `engine.logger`; the settings were checked, so its library is there.
        folder: of the stage, named by it.
        key: of the stage: a resumed training goes on with the run of W&B that has it.
        done: steps of an earlier, interrupted run of the stage that are kept; what it logged beyond them is done again.
        earlier: the lines of stats.jsonl of these steps.
    """
    if name == "tensorboard" or (name == "auto" and find_spec("tensorboard")):
        from lightning_fabric.loggers import TensorBoardLogger

        return TensorBoardLogger(str(folder), name="", version="tensorboard", purge_step=done + 1 if done else None)
    if name == "csv":
        from lightning_fabric.loggers import CSVLogger

        logger = CSVLogger(str(folder), name="", version="csv", flush_logs_every_n_steps=1)
        with warnings.catch_warnings():  # what an interrupted run left is written anew, and that is meant
            warnings.simplefilter("ignore")
            for line in earlier:
                logger.log_metrics(_numbers(line), int(line["step"]))
        return logger
    if name == "wandb":
        return _Wandb(folder, key)
    if name == "mlflow":
        return _MLflow(folder)
    return None


def _numbers(line: Mapping[str, float]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("step", "time")}


class _Wandb:
    """Weights & Biases; where to, and whether offline, is what the user has set up (`wandb login`, `WANDB_MODE`)."""

    def __init__(self, folder: Path, key: str) -> None:
        import wandb

        quiet = wandb.Settings(disable_git=True, save_code=False, console="off")
        self.run = wandb.init(project=PROJECT, name=folder.name, dir=str(folder), id=key[:32], resume="allow", settings=quiet)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.run.log(metrics, step=step)

    def save(self) -> None:
        """W&B writes by itself."""

    def finalize(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "success" else 1)


class _MLflow:
    """MLflow; the server is that of `MLFLOW_TRACKING_URI`, and without one mlflow.db in the folder of the stage."""

    def __init__(self, folder: Path) -> None:
        import mlflow

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        known = self.client.get_experiment_by_name(PROJECT)
        experiment = self.client.create_experiment(PROJECT) if known is None else known.experiment_id
        self.run = self.client.create_run(experiment, run_name=folder.name).info.run_id

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.client.log_metric(self.run, name, value, step=step)

    def save(self) -> None:
        """MLflow writes by itself."""

    def finalize(self, status: str) -> None:
        self.client.set_terminated(self.run, "FINISHED" if status == "success" else "FAILED")
