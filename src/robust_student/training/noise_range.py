"""The noise that a training mixes in where nobody names its levels: from the data and the teacher."""

import torch

from robust_student.core.module_state import device_of, evaluating
from robust_student.core.tensors import answers
from robust_student.core.threat_model import ThreatModel
from robust_student.corruptions.snr_noise import gaussian_at_snr
from robust_student.data.examples import Examples
from robust_student.data.samples import stratified_sample
from robust_student.models.model import Model

_EXAMPLES = 500
_LEVELS = torch.arange(20.0, -10.1, -2.5)
"""Signal-to-noise ratios in dB at which the teacher is asked."""


def fitted_lowest_db(teacher: Model, validation: Examples, threat: ThreatModel) -> float:
    """The signal-to-noise ratio in dB at which the teacher has lost half of its accuracy above chance.

    Balanced accuracy under Gaussian noise, clipped to the range of `threat`, on at most 500 validation examples
    (stratified, seed 0), at levels from 20 dB down in steps of 2.5 dB; between the last level above (A + 1 / K) / 2 and
    the first below on a straight line, rounded to half a dB. 20 or -10 where it is beyond them.
    """
    count = min(_EXAMPLES, len(validation))
    sample = validation.subset(stratified_sample(validation.labels, count, seed=0))
    device, inputs, labels = device_of(teacher), sample.floats().cpu(), sample.labels.cpu()
    draws = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    present = torch.bincount(labels).nonzero()[:, 0]

    def balanced(points: torch.Tensor) -> float:
        right = answers(teacher.logits(points.to(device))) == labels
        return float(torch.stack([right[labels == k].double().mean() for k in present]).mean())

    with evaluating(teacher):
        half = (balanced(inputs) + 1 / len(present)) / 2
        above = float(_LEVELS[0]), balanced(gaussian_at_snr(inputs, float(_LEVELS[0]), threat.input_range, draws)[0])
        if above[1] <= half:
            return above[0]
        for level in _LEVELS[1:].tolist():
            below = level, balanced(gaussian_at_snr(inputs, level, threat.input_range, draws)[0])
            if below[1] <= half:
                share = (above[1] - half) / (above[1] - below[1])
                return round(2 * (above[0] + share * (below[0] - above[0]))) / 2
            above = below
    return above[0]
