"""Noise in training: the first pass of some examples is made at the noisy input."""

from dataclasses import dataclass

from jaxtyping import Bool
from pydantic import Field, model_validator
from torch import Tensor

from robust_student.core.rng import Source, normal, uniform
from robust_student.core.settings import Settings
from robust_student.core.tensors import Inputs
from robust_student.core.threat_model import ThreatModel
from robust_student.corruptions.snr_noise import gaussian_at_snr


@dataclass(frozen=True, eq=False)
class Noisy:
    """A batch with noise, and who of it is trained there."""

    inputs: Inputs
    chosen: Bool[Tensor, " batch"]


class NoiseSettings(Settings):
    """Some examples, chosen anew in every step, are trained at the input plus Gaussian noise, clipped to the range."""

    share: float = Field(0.0, ge=0, le=1)
    """Probability with which an example is trained at its noisy input."""
    lowest_db: float = -5.0
    """Least signal-to-noise ratio in dB; each example draws its own between the two ends."""
    highest_db: float = 20.0
    """Greatest signal-to-noise ratio in dB."""

    @model_validator(mode="after")
    def _ordered(self) -> "NoiseSettings":
        if self.lowest_db > self.highest_db:
            raise ValueError(f"noise.lowest_db = {self.lowest_db:g} is above noise.highest_db = {self.highest_db:g}")
        return self

    def draw(self, inputs: Inputs, threat: ThreatModel, source: Source) -> Noisy:
        """Noise on every input, and the examples that are trained there."""
        count = len(inputs)
        chosen, ratio = uniform((count, 2), inputs, source).unbind(1)
        ratio = self.lowest_db + (self.highest_db - self.lowest_db) * ratio
        noise = normal(tuple(inputs.shape), inputs, source)
        return Noisy(gaussian_at_snr(inputs, ratio, threat.input_range, noise)[0], chosen < self.share)
