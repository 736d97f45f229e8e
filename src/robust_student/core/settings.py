"""Every dial of the product with its unit, default and valid range; the same objects serve Python, YAML and flags."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from robust_student.core.errors import UserError, nearest, short
from robust_student.core.margins import Form, Score
from robust_student.core.norms import NormName

Group = TypeVar("Group", bound="Settings")
_WHOLE = {"parse": "whole"}  # validation context of Settings.whole


LARGEST_SEED = 2**32 - 1
"""The largest seed that every random generator in use takes."""


class Settings(BaseModel):
    """A frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def parse(cls: type[Group], values: Any, source: str = "settings") -> Group:
        """Build the settings from plain values (a parsed YAML or JSON file), or raise a one-line UserError."""
        try:
            return cls.whole(values)
        except ValidationError as error:
            raise UserError(" ".join(f"{source}: {explain(cls, error.errors()[0])}".split())) from None

    @classmethod
    def whole(cls: type[Group], values: Any) -> Group:
        """Build the settings, or raise pydantic's ValidationError, whose problems have the whole path of a setting."""
        return cls.model_validate(values, context=_WHOLE)

    @model_validator(mode="wrap")
    @classmethod
    def _one_line(cls, values: Any, handler: Callable[[Any], Any], info: Any) -> Any:
        """Turn pydantic's report into a UserError, except below `parse`, which knows the whole path of a setting."""
        if info.context is _WHOLE:
            return handler(values)
        try:
            return handler(values)
        except ValidationError as error:
            name = cls.__name__.removesuffix("Settings").lower()
            raise UserError(" ".join(f"{name}: {explain(cls, error.errors()[0])}".split())) from None

    @model_validator(mode="after")
    def _whole_numbers_have_64_bits(self) -> "Settings":
        for name, value in self:
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"{name} is beyond any number of use")
        return self


class DistillationSettings(Settings):
    """L_KD = (1 - a) CE(S, y) + a t^2 KL(T/t || S/t), Hinton et al. 2015."""

    temperature: float = Field(1.0, gt=0)
    """Temperature t of the softened scores; also used by the secant's divergence."""
    soft_weight: float = Field(1.0, ge=0, le=1)
    """Weight a of the teacher's scores; 1 - a goes to the labels."""


class ScoreSettings(Settings):
    """L_score: hinge that asks the student's margin (or true score) to be at least the teacher's."""

    weight: float = Field(0.0, ge=0)
    """C1; 0 leaves the term out."""
    form: Form = Form.MARGIN
    """margin: bound A, [(T_y - T_j) - (S_y - S_j) + slack]_+; teacher: bound B, [T_y - S_y + slack]_+."""
    score: Score = Score.LOGIT
    """What S and T mean; the teacher form needs probability."""
    reduce: Literal["max", "mean"] = "max"
    """Over the classes j != y (margin form)."""
    slack: float = 0.0
    """How far the student must exceed the teacher, in score units."""

    @model_validator(mode="after")
    def _teacher_form_needs_probabilities(self) -> "ScoreSettings":
        if self.form is Form.TEACHER and self.score is Score.LOGIT:
            raise ValueError("the teacher form is empty on logits (a constant satisfies it): use score = probability")
        return self


class GradientSettings(Settings):
    """L_gradient at a point: keep the slope of the student's confidence small (double backward)."""

    weight: float = Field(0.0, ge=0)
    """C2; 0 leaves the term out. Meaningful per norm and input size only (docs/objectives.md)."""
    kind: Literal["exact", "direct", "projection"] = "exact"
    """exact: squared dual norm of the gradient; direct: hinge on the estimated radius; projection: random-projection
    Jacobian (l2 only)."""
    form: Form = Form.TEACHER
    """exact: slope of the margin (bound A) or of the true class's score (bound B)."""
    score: Score = Score.PROBABILITY
    """exact, projection: slope of logits or of probabilities."""
    norm: NormName | None = None
    """Norm whose dual measures the slope; None: the objective's. l2 suits random noise: sigma^2 ||grad S||_2^2 is what
    noise of that variance does to S, to first order."""
    at: Literal["input", "ball"] = "input"
    """Where the slope is taken: at x, or at a point drawn uniformly in the ball of radius R around it."""
    target: float = Field(1.0, gt=0)
    """direct: the estimated radius to reach, in units of the norm."""
    projections: int = Field(1, ge=1)
    """projection: random directions per step."""


class SecantSettings(Settings):
    """The gradient objective over the whole ball: K ascent steps, then penalise what happened on the way."""

    weight: float = Field(0.0, ge=0)
    """C2; 0 leaves the term out."""
    form: Literal["slope", "divergence"] = "divergence"
    """slope: [m(x) - m(z)]_+^2 / ||z - x||_p^2; divergence: t^2 KL(T(x)/t || S(z)/t)."""
    ascent: Literal["drop", "divergence"] = "divergence"
    """What the ascent raises: the drop of the margin, or the divergence from the teacher's scores at x."""
    score: Score = Score.LOGIT
    """slope, drop: margin of logits or of probabilities."""
    steps: int = Field(1, ge=1)
    """K: ascent steps, each one forward-backward pass."""
    step: float | None = Field(None, gt=0)
    """Size of an ascent step in units of R; None: 1.25 for K = 1, else max(1.5 / K, 0.25)."""
    random_start: bool = True
    """Start at a uniformly random point of the ball instead of at x."""
    shared: bool = True
    """Shared pass: train at the random start instead of at x; the same pass gives the first ascent direction."""


class CertifiedSettings(Settings):
    """The same two objectives on certified margins: lower bounds lb_j of m_j(z) over the ball, by intervals.

    The bounds are those of the network in evaluation mode. R grows linearly from 0 after a warm-up (Gowal et al. 2018,
    section 4): a network that has learnt nothing yet answers large intervals by becoming constant.
    """

    weight: float = Field(0.0, ge=0)
    """C2; 0 leaves the term out."""
    form: Literal["divergence", "score", "slope"] = "divergence"
    """divergence: L_KD with the certified margins in place of the student's; score: L_score with them;
    slope: max_j [m_j(x) - lb_j]_+^2 / R^2, the squared certified slope."""
    warmup: float = Field(0.2, ge=0, le=1)
    """Share of the training steps after which R begins to grow."""
    ramp: float = Field(0.5, ge=0, le=1)
    """Share of the training steps during which R grows to its full size."""


class ObjectiveSettings(Settings):
    """L = L_KD + C1 L_score + C2 L_gradient, the last at a point (gradient) or over the ball (secant, certified)."""

    norm: NormName = "linf"
    """Norm of the perturbations to resist."""
    radius: float | None = Field(None, gt=0)
    """R of the ball, in input units of the norm (pixels in [0, 1]); None: default per norm and input range."""
    distillation: DistillationSettings = DistillationSettings()
    score: ScoreSettings = ScoreSettings()
    gradient: GradientSettings = GradientSettings()
    secant: SecantSettings = SecantSettings()
    certified: CertifiedSettings = CertifiedSettings()
    gradient_mode: Literal["train", "eval"] = "train"
    """Mode of the student (BatchNorm, dropout) during gradient terms and ascent (docs/objectives.md)."""

    @model_validator(mode="after")
    def _consistent(self) -> "ObjectiveSettings":
        norm = self.gradient.norm or self.norm
        if self.gradient.weight > 0 and self.gradient.kind == "projection" and norm != "l2":
            raise ValueError(f"gradient.kind = projection measures a Frobenius norm: it needs norm = l2, not {norm}")
        if self.shared_pass and self.gradient_mode == "eval":
            raise ValueError("gradient_mode = eval cannot share the training pass: set secant.shared = false")
        return self

    @property
    def shared_pass(self) -> bool:
        """Whether the student is trained at the random start and that pass also starts the ascent."""
        return self.secant.weight > 0 and self.secant.shared and self.secant.random_start


class SelectionSettings(Settings):
    """How the best epoch is chosen, on validation examples only."""

    metric: Literal["robust", "accuracy", "certified"] = "robust"
    """robust: mean accuracy over clean inputs, each noise level and PGD; accuracy: clean inputs alone; certified:
    certified accuracy by interval propagation at the radius."""
    snr_db: tuple[float, ...] = (0.0, -5.0)
    """Gaussian noise levels, signal-to-noise ratio in dB."""
    norm: NormName = "linf"
    """Norm of the PGD attack or the certificate."""
    radius: float | None = Field(None, gt=0)
    """Budget of PGD or the certificate, in input units of the norm; None: default per norm and input range."""
    steps: int = Field(20, ge=1)
    """PGD steps."""
    examples: int = Field(1000, ge=1)
    """Validation examples (stratified sample) under noise and PGD or certified; clean accuracy uses all."""


class AugmentationSettings(Settings):
    """Random changes of training images; the teacher sees the same changed images as the student."""

    crop: int = Field(0, ge=0)
    """Pixels of zero padding around the image out of which a window of the original size is cut; 0: no cropping."""
    flip: bool = False
    """Mirror left to right with probability 1/2."""
    mixup: float = Field(0.0, ge=0)
    """alpha of mixup: pairs of images are blended with a share drawn from Beta(alpha, alpha); 0: none."""
    cutmix: float = Field(0.0, ge=0)
    """alpha of CutMix: a rectangle comes from another image; 0: none."""

    @property
    def anything(self) -> bool:
        """Whether an input ever changes."""
        return self.crop > 0 or self.flip or self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def _one_mixture(self) -> "AugmentationSettings":
        if self.mixup > 0 and self.cutmix > 0:
            raise ValueError("mixup and cutmix exclude each other: set one of them to 0")
        return self


class TrainingSettings(Settings):
    """Optimisation, shared by teachers and students."""

    epochs: int = Field(10, ge=1)
    """Passes over the training examples."""
    batch_size: int = Field(128, ge=1)
    """Examples per step, over all processes and parts; at most a sixteenth of the training set (but 8 are always
    allowed), so that small sets get enough steps. A last, smaller batch is left for the next epoch's shuffle."""
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
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is validated and kept; 0: none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: passes that only train run under autocast; all that the gradient objective differentiates stays fp32."""
    compile: bool = False
    """Compile the student's passes with torch.compile where the objective allows it."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    checkpoint_minutes: float = Field(2.0, ge=0)
    """Minutes between checkpoints, from which the same command goes on after an interruption; 0: every step."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Dashboards that get each epoch's figures (extra `track`): tensorboard, wandb, mlflow."""
    augmentation: AugmentationSettings = AugmentationSettings()
    selection: SelectionSettings = SelectionSettings()


class DistillSettings(Settings):
    """Everything `distill` can be told."""

    training: TrainingSettings = TrainingSettings()
    objective: ObjectiveSettings = ObjectiveSettings(secant=SecantSettings(weight=5.0))
    cache_scores: bool = True
    """Keep the teacher's scores on unchanging training inputs on disk, for the next run with the same teacher."""
    shard_teacher: bool = False
    """Spread the teacher's weights over the processes of a torchrun (FSDP): for teachers too big for one device."""


METHODS: dict[str, ObjectiveSettings] = {
    "kd": ObjectiveSettings(distillation=DistillationSettings(temperature=4.0, soft_weight=0.9)),
    "score": ObjectiveSettings(
        distillation=DistillationSettings(temperature=4.0, soft_weight=0.9),
        score=ScoreSettings(weight=0.1, reduce="mean"),
    ),
    "exact": ObjectiveSettings(
        norm="l2",
        distillation=DistillationSettings(temperature=4.0, soft_weight=0.9),
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=3.0),
    ),
    "direct": ObjectiveSettings(
        norm="l2",
        distillation=DistillationSettings(temperature=4.0, soft_weight=0.9),
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=1.0, kind="direct", target=2.0),
    ),
    "projection": ObjectiveSettings(
        norm="l2",
        distillation=DistillationSettings(temperature=4.0, soft_weight=0.9),
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=0.1, kind="projection", score=Score.LOGIT),
    ),
    "secant": ObjectiveSettings(secant=SecantSettings(weight=5.0)),
    "secant-exact": ObjectiveSettings(
        secant=SecantSettings(weight=5.0), gradient=GradientSettings(weight=10.0, norm="l2", at="ball")
    ),
    "certified": ObjectiveSettings(certified=CertifiedSettings(weight=2.0)),
}
"""Named starting points; every dial of the chosen one can still be changed."""


LARGEST_CONFIG = 1_000_000
"""Bytes of the largest configuration file that is parsed; examples have a few hundred."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of several equal keys; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"'{name}' is given twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML file that holds a mapping; one-line UserError where it is missing or malformed."""
    if not path.is_file():
        raise UserError(f"config {path}: cannot read it ({'not a file' if path.exists() else 'no such file'})")
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise UserError(f"config {path}: larger than {LARGEST_CONFIG:,} bytes, which no settings are")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a safe one
    except OSError as error:
        raise UserError(f"config {path}: cannot read it ({error.strerror})") from None
    except RecursionError:
        raise UserError(f"config {path}: not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError) as error:  # the last four: 2001-99-99, ...
        raise UserError(f"config {path}: not valid YAML ({' '.join(str(error).split())[:200]})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"config {path}: expected 'name: value' pairs at the top level, found {type(values).__name__}")
    strange = [name for name in values if not isinstance(name, str)]
    if strange:
        raise UserError(f"config {path}: {short(strange[0])} is not the name of a setting")
    return values


def _nearest_setting(name: str, group: type[BaseModel]) -> str:
    """`nearest` among the settings of a group and those of the groups in it, the latter with their group's name."""
    places = {leaf: place for place in _settings_in(group) if (leaf := place.rpartition(".")[2]) != place}
    places |= {own: own for own in group.model_fields}
    close = difflib.get_close_matches(name, list(places), n=1, cutoff=0.75)
    return f"; did you mean '{places[close[0]]}'?" if close else nearest(name, list(group.model_fields))


def _settings_in(group: type[BaseModel]) -> Iterator[str]:
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{inner}" for inner in _settings_in(field.annotation))
        else:
            yield name


def explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """A problem of a validation error in words that name the setting."""
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        group: Any = model
        for part in problem["loc"][:-1]:
            group = group.model_fields[str(part)].annotation
        return f"unknown setting '{place}'" + _nearest_setting(str(problem["loc"][-1]), group)
    if problem["type"] == "missing":
        return f"'{place}': is missing"
    if problem["type"] == "model_type":
        where = f"'{place}': " if place else ""
        return f"{where}expected 'name: value' pairs (got {short(problem['input'])})"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"'{place}': {message} (got {short(problem['input'])})" if place else message
