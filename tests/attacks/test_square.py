"""Square never goes uphill."""

import math

import pytest
import reference
import torch
from affine_target import CPU, every_power
from reference import smooth_student

from robust_student.attacks.square import square
from robust_student.core.norms import Norm
from robust_student.core.rng import generators
from robust_student.core.tensors import UNIT_RANGE, Shape
from robust_student.core.threat_model import ThreatModel


@every_power
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6), (10,)], ids=str)
def test_square_never_goes_uphill_and_reaches_the_whole_image(power: float, shape: Shape) -> None:
    network = smooth_student(shape, 3, CPU)
    inputs = torch.rand((5, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = network(inputs).argmax(dim=1)
    threat = ThreatModel(Norm(power), 0.05 if power == math.inf else 0.2, UNIT_RANGE)
    margins = []
    for queries in (0, 30, 300):
        points = square(network, inputs, labels, threat, generators(list(range(5)), "s"), queries=queries)
        assert bool((threat.norm.size(points - inputs) <= threat.budget * (1 + 1e-6)).all())
        rows = zip(network(points).tolist(), labels.tolist(), strict=True)
        margins.append([reference.margin(row, y) for row, y in rows])
    assert all(a >= b for a, b in zip(margins[0], margins[1], strict=True))
    assert all(a >= b for a, b in zip(margins[1], margins[2], strict=True))
    assert sum(margins[2]) < sum(margins[0])
    if len(shape) == 3:
        touched = (points != inputs).flatten(0, 1)
        assert bool(touched.any(dim=(0, 1)).all()) and bool(touched.any(dim=(0, 2)).all())  # every row and column
