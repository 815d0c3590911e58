"""Settings: frozen dataclasses, one per stage; every one can be set in YAML or on the command line.

A run is one `Settings`; they are read by `parsing.py` and must fit one another by `rules.py`.
"""

# A declaration reads as one paragraph: one argument a line would hide the meaning.
# fmt: off
# ruff: noqa: RUF009
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from coinseg.errors import UserError

from .data_settings import AnomalySettings, Axis, DataSettings
from .declare import STEPS, Range, described, group, setting
from .method_settings import AttributionSettings, ClassifierSettings, CoinSettings, MaskSettings, StudentSettings

__all__ = [
    "AnomalySettings", "AttributionSettings", "Axis", "ClassifierSettings", "CoinSettings", "DataSettings", "EngineSettings",
    "MaskSettings", "Settings", "StudentSettings",
]
COUNTERFACTUAL = "counterfactual"
METHODS = (
    COUNTERFACTUAL, "scorecam", "layercam", "ablationcam", "eigencam", "eigengradcam", "segeigencam", "gradcam", "gradcam++",
    "gradcamelementwise", "hirescam", "xgradcam", "fem", "rise",
)
"""Every value of `method`; `explain.registry` has them in code."""


@described
@dataclass(frozen=True)
class EngineSettings:
    """Where and how it is computed; never part of what is computed, so it may differ on resuming."""

    accelerator: Literal["auto", "cpu", "cuda"] = setting("auto", """"auto", "cpu" or "cuda".""")
    precision: str = setting("32-true", """Lightning Fabric precision, such as "32-true" or "bf16-mixed".""")
    compile: bool = setting(False, "compile the classifier and the generator with torch.compile.")
    threads: int = setting(0, """CPU threads; 0 is what OMP_NUM_THREADS says, or without it the number that convolves quickest; a
        run folder keeps its number (threads.json), so that a resumed run rounds its sums alike.""", Range(0, 1024))
    checkpoint_every: int = setting(250, "steps between checkpoints.", STEPS)
    sample_every: int = setting(250, "steps between sample pictures.", STEPS)
    logger: Literal["auto", "none", "csv", "tensorboard", "wandb", "mlflow"] = setting("auto", """where the log of a training
        goes beside stats.jsonl; "auto" is event files for TensorBoard where that is installed (docs/guide/watch.md).""")


@described
@dataclass(frozen=True)
class Settings:
    """Everything that decides a run."""

    seed: int = setting(0, "every random choice follows from it.", Range(0, 2**32 - 1))
    method: str = setting("counterfactual", """"counterfactual" (COIN, or Singla et al. by coin.conditions), or an attribution:
        "scorecam", "layercam", another CAM by its name, "rise".""")
    data: DataSettings = group(DataSettings, "what is read.")
    anomaly: AnomalySettings = group(AnomalySettings, "the synthetic anomaly.")
    classifier: ClassifierSettings = group(ClassifierSettings, "the classifier f.")
    coin: CoinSettings = group(CoinSettings, "counterfactual inpainting.")
    attribution: AttributionSettings = group(AttributionSettings, "CAMs and RISE.")
    masks: MaskSettings = group(MaskSettings, "from difference to mask.")
    student: StudentSettings = group(StudentSettings, "the network that learns from these masks.")
    engine: EngineSettings = group(EngineSettings, "where it is computed.")

    def __post_init__(self) -> None:
        for f in fields(self):
            kind, value = f.default_factory, getattr(self, f.name)
            if isinstance(kind, type) and not isinstance(value, kind):
                got, do = f"{f.name} is of type {type(value).__name__}", f"or give coinseg.settings_from({{{f.name!r}: {{...}}}})"
                raise UserError(got, f"{kind.__name__}", do)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain nested dictionaries, ready for JSON or YAML."""
        return asdict(self)
