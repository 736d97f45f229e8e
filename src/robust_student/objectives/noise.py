"""Noise in training: the first pass of some examples is made at the noisy input."""

from dataclasses import dataclass

from jaxtyping import Bool
from pydantic import Field, model_validator
from torch import Tensor

from robust_student.core.rng import ExampleRng, Source, normal, uniform
from robust_student.core.settings import Settings
from robust_student.core.tensors import Inputs
from robust_student.core.threat_model import ThreatModel
from robust_student.corruptions.snr_noise import gaussian_at_snr

_LOWEST, _WIDTH = -5.0, 25.0
"""dB, where the settings name no level."""


@dataclass(frozen=True, eq=False)
class Noisy:
    """A batch of which some are noisy, and which."""

    inputs: Inputs
    """With noise where they are chosen."""
    chosen: Bool[Tensor, " batch"]


class NoiseSettings(Settings):
    """Some examples, chosen anew in every step, are trained at the input plus Gaussian noise, clipped to the range."""

    share: float = Field(0.0, ge=0, le=1)
    """Probability with which an example is trained at its noisy input."""
    lowest_db: float | None = None
    """Least signal-to-noise ratio in dB; each example draws its own between the two ends. None: where the teacher has
    lost half of its accuracy above chance; without a look at the teacher, in a loop of your own, -5."""
    highest_db: float | None = None
    """Greatest signal-to-noise ratio in dB; None: 25 above the least."""

    @model_validator(mode="after")
    def _ordered(self) -> "NoiseSettings":
        lowest, highest = self.range_db
        if lowest > highest:
            raise ValueError(f"noise.lowest_db = {lowest:g} is above noise.highest_db = {highest:g}")
        return self

    @property
    def range_db(self) -> tuple[float, float]:
        """Both ends, for a teacher that nobody looked at."""
        lowest = _LOWEST if self.lowest_db is None else self.lowest_db
        return lowest, lowest + _WIDTH if self.highest_db is None else self.highest_db

    def draw(self, inputs: Inputs, threat: ThreatModel, source: Source, scale: float = 1.0) -> Noisy:
        """The inputs, with noise on those that are trained there: `scale` times the share of the examples."""
        draws, ratio = uniform((len(inputs), 2), inputs, source).unbind(1)
        chosen = draws < scale * self.share
        lowest, highest = self.range_db
        ratio = lowest + (highest - lowest) * ratio
        few, source = inputs[chosen], source.among(chosen) if isinstance(source, ExampleRng) else source
        noisy = inputs.clone()
        noisy[chosen] = gaussian_at_snr(few, ratio[chosen], threat.input_range, normal(tuple(few.shape), few, source))[
            0
        ]
        return Noisy(noisy, chosen)
