"""Settings of training, selection and distillation."""

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from robust_student.core.norms import NormName
from robust_student.core.settings import LARGEST_SEED, Radius, Settings
from robust_student.data.augmentation import AugmentationSettings
from robust_student.objectives.methods import METHODS, kind_of
from robust_student.objectives.precision import Precision
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.class_weights import ClassWeights
from robust_student.training.tracking import TrackerName


class SelectionSettings(Settings):
    """How the best epoch is chosen, on validation examples only."""

    metric: Literal["robust", "accuracy", "certified"] = "robust"
    """robust: mean accuracy over clean inputs, each noise level and PGD; accuracy: clean inputs alone; certified:
    certified accuracy by interval propagation at the radius. All are balanced: the mean of the classes' recalls."""
    snr_db: tuple[float, ...] = (0.0, -5.0)
    """Gaussian noise levels, signal-to-noise ratio in dB."""
    norm: NormName | None = None
    """Norm of the PGD attack or the certificate; None: that of the objective, for labels alone linf."""
    radius: Radius | None = None
    """Budget of PGD or the certificate, in input units of the norm; None: the radius of an objective of that norm, else
    the customary one of the norm and the input range."""
    steps: int = Field(20, ge=1)
    """PGD steps."""
    examples: int = Field(1000, ge=1)
    """Validation examples (stratified sample) under noise and PGD or certified; clean accuracy uses all."""


class TrainingSettings(Settings):
    """Optimisation, shared by teachers and students."""

    epochs: int | None = Field(None, ge=1)
    """Passes over the training examples; None: as many as make 3,000 steps, but at least 10, and fewer where nothing
    improves any more (patience)."""
    patience: float = Field(0.3, ge=0, le=1)
    """Only where epochs is None: share of the planned epochs without a better selection metric after which what is left
    is cut to the last fifth of the schedule; 0: never."""
    batch_size: int = Field(128, ge=1)
    """Examples per step, over all processes and parts. It is cut to a sixteenth of the training set, but not below 8,
    so that small sets get enough steps. An incomplete last batch is left out; the next epoch is shuffled anew."""
    accumulate: int = Field(1, ge=1)
    """Parts in which each process puts its share of a batch through the network, to save memory."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with Nesterov momentum 0.9."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """Decoupled (adamw) or L2 (sgd) weight decay."""
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    """one_cycle: warm up for 30 % of the steps, then anneal; cosine: anneal from the start."""
    gradient_clip: float | None = Field(1.0, gt=0)
    """Largest Euclidean norm of the parameter gradient; None: no limit."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training examples set aside for validation, stratified."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed of initial weights, data order, random starts and the validation split."""
    class_weights: ClassWeights | None = None
    """balanced: an example counts in the loss by the inverse frequency of its class in training; None: all alike."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights. The average is validated and kept; 0: no average."""
    precision: Precision = "fp32"
    """bf16: passes that only train run under autocast. All that the gradient objective differentiates stays fp32."""
    compile: bool = False
    """Compile the student's passes with torch.compile where the objective allows it."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    checkpoint_minutes: float = Field(2.0, ge=0)
    """Minutes between checkpoints, from which the same command continues after an interruption; 0: every step."""
    track: tuple[TrackerName, ...] = ()
    """Dashboards that get each epoch's figures (extra `track`): tensorboard, wandb, mlflow."""
    augmentation: AugmentationSettings = AugmentationSettings()
    selection: SelectionSettings = SelectionSettings()


class FloorSettings(Settings):
    """The clean accuracy that a student must keep while its radius is moved during training (docs/objectives.md)."""

    max_accuracy_drop: float | None = Field(None, ge=0, le=100)
    """Points of clean validation accuracy that the student may lose against the plain student, else the teacher: the
    radius shrinks and grows during training so that this holds. None: nothing against a plain student of fewer steps,
    which is trained first; only where no radius is named."""
    plain: str | None = None
    """Run of a plain student (any run of method kd on the same data) to compare with; None: the teacher where
    max_accuracy_drop is given, else a plain student of fewer steps."""
    target_radius: Radius | None = None
    """R that the student is trained for, whatever it costs in clean accuracy; the price is said at the end. In place of
    radius and max_accuracy_drop."""

    @model_validator(mode="after")
    def _one_wish(self) -> "FloorSettings":
        if self.target_radius is not None and self.max_accuracy_drop is not None:
            raise ValueError("target_radius and max_accuracy_drop ask for two things: name one of them")
        return self


class DistillSettings(Settings):
    """All settings of `distill`."""

    training: TrainingSettings = TrainingSettings()
    objective: SerializeAsAny[ObjectiveSettings] = METHODS["persistent"]
    floor: FloorSettings = FloorSettings()
    cache_scores: bool = True
    """Keep the teacher's scores on disk for the next run with the same teacher, where training inputs do not change."""
    shard_teacher: bool = False
    """Spread the teacher's weights over the processes of a torchrun (FSDP): for teachers too big for one device."""

    @model_validator(mode="after")
    def _one_radius(self) -> "DistillSettings":
        if self.floor.target_radius is not None and self.objective.radius is not None:
            raise ValueError("target_radius and radius name the radius twice: name one of them")
        return self

    @field_validator("objective", mode="before")
    @classmethod
    def _of_its_method(cls, values: Any) -> Any:
        """Plain values that name a group of one method alone become that method's settings."""
        kind = kind_of(values)
        return values if kind is ObjectiveSettings else kind.parse(values, "objective")
