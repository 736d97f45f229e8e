"""Settings of measuring: what `evaluate` and `certify` do, and named suites to start from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from robust_student.attacks.autoattack import Tier
from robust_student.bounds.propagation import METHODS_OF_BOUNDS, Method
from robust_student.core.norms import NormName
from robust_student.core.settings import LARGEST_SEED, Radius, Settings
from robust_student.corruptions.snr_noise import NoiseName


class CorruptionSettings(Settings):
    """Common corruptions of images (docs/corruptions.md), generated or from a published set."""

    kinds: tuple[str, ...] = ()
    """Kinds to measure; `all`: the fifteen of ImageNet-C; empty: none, or the fifteen where there is a set."""
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = Field((1, 2, 3, 4, 5), min_length=1)
    """How strong, 1 to 5."""
    examples: int | None = Field(2000, ge=1)
    """Examples of the evaluation's sample, stratified, the same for all kinds, severities and models; None: all."""
    set: Path | None = None
    """Folder of a published set (KIND.npy and labels.npy, as CIFAR-10-C) to measure instead of generated images."""


class MaskingSettings(Settings):
    """The checks behind the masking verdict (docs/masking.md), at AutoAttack's norm and budget."""

    examples: int = Field(100, ge=1)
    """Examples of the attacked ones, stratified again, on which the checks run."""
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 50), min_length=1)
    """PGD at these numbers of steps: more steps must not find less; the largest serves the other checks too."""
    surrogates: tuple[str, ...] | None = None
    """Models of the evaluation on which transfer attacks are made; None: every other model."""


class EvaluationSettings(Settings):
    """What `evaluate` measures, on test examples."""

    examples: int | None = Field(None, ge=1)
    """Test examples for clean accuracy and noise, a stratified random sample; None: all."""
    attack_examples: int | None = Field(1000, ge=1)
    """Examples of that sample, stratified again, for PGD, AutoAttack and estimated radii; None: all of it."""
    snr_db: tuple[float, ...] = (20.0, 15.0, 10.0, 5.0, 0.0, -5.0)
    """Noise levels, signal-to-noise ratio in dB."""
    noises: tuple[NoiseName, ...] = ("gaussian",)
    """Kinds of noise at each level."""
    corruptions: CorruptionSettings = CorruptionSettings()
    pgd_linf: tuple[Radius, ...] | None = None
    """PGD budgets, Linf, in input units, such as 8/255; None: 1/4, 1/2, 1, 3/2 and 2 times the radius (AutoAttack's, or
    the runs', in this norm, else the default), and the radius of each run."""
    pgd_l2: tuple[Radius, ...] | None = None
    """PGD budgets, L2, in input units; None: likewise."""
    pgd_steps: int = Field(50, ge=1)
    """Steps of each PGD attack, half of them on the log-odds, half on the margin."""
    every_budget: bool = False
    """Attack every example at every budget of PGD. Otherwise the largest comes first, and what holds there is taken to
    hold at smaller ones."""
    autoattack: Literal[Tier, "none"] = "screening"
    """screening: APGD-CE, a short APGD-T; fast: APGD-CE, APGD-T, Square 1,000; standard: APGD-CE, APGD-T, FAB-T, Square
    5,000; none: no robust claim."""
    autoattack_norm: NormName | None = None
    """Norm of AutoAttack; None: the one that the first run was trained for, else linf."""
    autoattack_radius: Radius | None = None
    """Budget of AutoAttack in input units; None: the largest that a run was trained for, else the norm's default."""
    attacks: tuple[str, ...] = ()
    """Further attacks at AutoAttack's norm and budget, one by one: apgd-ce, apgd-t, fab-t, square, and with the extra
    named attacks ddn, fmn and deepfool."""
    skip_certified: bool = False
    """Skip AutoAttack on examples that interval bounds certify at its budget. They count as right, marked certified."""
    masking: MaskingSettings = MaskingSettings()
    baseline: str | None = None
    """Model with which the others are compared on the same examples; None: the one named kd, else the first that plain
    distillation (--method kd) trained."""
    teacher: str = "teacher"
    """Name of the teacher among the models. Estimated confidence radii (bound B) compare the others' scores with its
    own; without a model of that name they are left out."""
    batch_size: int = Field(250, ge=1)
    """Examples per batch, of which an interruption loses at most one. Another size rounds otherwise, by which about one
    answer in 1,000 may change."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed of the samples, the noise and the attacks."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""


class SmoothingSettings(Settings):
    """Randomized smoothing (Cohen et al. 2019): certifies the classifier that votes under Gaussian noise, l2 only."""

    sigma: float | None = Field(None, gt=0)
    """Standard deviation of the noise in input units; None: no smoothing."""
    samples: int = Field(10_000, ge=1)
    """Noisy copies per example from which the confidence bound is computed."""
    selection_samples: int = Field(100, ge=1)
    """Further copies that choose the class."""
    alpha: float = Field(0.001, gt=0, lt=1)
    """Probability, per example, that its certificate is wrong."""
    examples: int = Field(200, ge=1)
    """Examples of the sample to smooth."""


class CertificationSettings(Settings):
    """What `certify` measures, on test examples: bounds from below and from above on the radii r_A and r_B."""

    norm: NormName | None = None
    """Norm of the perturbation; None: the one that the first run was trained for, else linf."""
    budgets: tuple[Radius, ...] | None = None
    """Radii at which certified accuracy is reported, in input units; None: 1/5, 1/2 and 1 times the largest that a run
    was trained for, else the default, and the radius of each run."""
    methods: tuple[Method, ...] = METHODS_OF_BOUNDS
    """How margins are bounded from below: intervals, bounds of the gradient, a Lipschitz product, linear bounds (CROWN:
    tightest and slowest)."""
    examples: int | None = Field(1000, ge=1)
    """Test examples, a stratified random sample, for every method but linear; None: all."""
    linear_examples: int | None = Field(200, ge=1)
    """Examples of that sample, stratified again, for linear bounds, sampled radii and attacks; None: all of it."""
    linear_models: tuple[str, ...] | None = None
    """Models that get linear bounds; None: all but the teacher, whose size makes them slow."""
    tolerance: float = Field(0.05, gt=0, lt=1)
    """Relative tolerance of the search for the largest certified radius."""
    attacks: tuple[str, ...] = ("pgd-bisection", "fab")
    """Minimum-norm attacks for the bound from above: pgd-bisection, fab, ddn, fmn, deepfool (the last three need the
    attacks extra)."""
    sampled_points: int = Field(16, ge=1)
    """Points of the ball at which the gradient is computed for sampled radii."""
    smoothing: SmoothingSettings = SmoothingSettings()
    baseline: str | None = None
    """Model with whose median radii the others' are compared; None: the one named kd, else the first that plain
    distillation (--method kd) trained."""
    teacher: str = "teacher"
    """Name of the teacher among the models. Bound B and agreement compare the others' scores with its own; without a
    model of that name they are left out."""
    batch_size: int = Field(50, ge=1)
    """Examples per batch, of which an interruption loses at most one."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed of the samples, the noise and the attacks."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""


Suite = Literal["quick", "default", "full"]
SUITES: dict[Suite, EvaluationSettings] = {
    "quick": EvaluationSettings(examples=1000, attack_examples=200),
    "default": EvaluationSettings(),
    "full": EvaluationSettings(
        attack_examples=1000,
        every_budget=True,
        autoattack="standard",
        masking=MaskingSettings(examples=200),
        corruptions=CorruptionSettings(kinds=("all",), examples=2000),
    ),
}
"""Named starting points; every setting of the chosen one can still be changed."""
