"""What AutoAttack finds on an example does not depend on the others."""

import numpy as np
import pytest
import torch
from affine_target import ATTACKS, CPU, PARTS, Target, every_norm
from reference import smooth_student
from torch import Tensor, nn

from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel


@every_norm
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_examples_result_depends_on_its_own_seed_alone(name: NormName, attack: str) -> None:
    """In float64 an example is broken, or not, whatever is beside it; no global generator is touched."""
    default = ThreatModel.named(name, None, UNIT_RANGE, (1, 4, 4))
    network = smooth_student((1, 4, 4), 5, CPU)
    inputs = torch.rand((12, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = network(inputs).argmax(dim=1)
    threat, own = default.at(1.5 * default.budget), PARTS[attack]
    state, drawn = torch.get_rng_state(), str(np.random.get_state())
    seeds = [7 * k for k in range(12)]
    in_batch = own.propose(network, inputs, labels, threat, seeds)
    assert torch.equal(torch.get_rng_state(), state) and str(np.random.get_state()) == drawn
    broken = network(in_batch).argmax(dim=1) != labels
    assert 0 < int(broken.sum()) < 12
    torch.manual_seed(77)
    for part in ([3], [11, 0, 5, 8, 4, 7]):
        apart = own.propose(network, inputs[part], labels[part], threat, [seeds[k] for k in part])
        torch.testing.assert_close(apart, in_batch[part], rtol=0, atol=1e-7)


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t", "square"])
def test_another_seed_starts_elsewhere(attack: str) -> None:
    network = smooth_student((1, 4, 4), 5, CPU)
    inputs = torch.rand((4, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, threat = network(inputs).argmax(dim=1), ThreatModel(Norm.named("linf"), 0.5, UNIT_RANGE)
    first, second = (PARTS[attack].propose(network, inputs, labels, threat, range(s, s + 4)) for s in (0, 9))
    assert not torch.equal(first, second)


def test_broken_examples_leave_the_batch_inside_every_attack() -> None:
    class Counting(nn.Module):
        """Remembers the sizes of the batches that a network sees."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network, self.sizes = network, list[int]()

        def forward(self, inputs: Tensor) -> Tensor:
            self.sizes.append(len(inputs))
            return self.network(inputs)

    norm = Norm.named("linf")
    target = Target((1, 6, 6), 5, UNIT_RANGE, norm)
    radius = float(np.median(target.distances))
    for attack in ("apgd-ce", "apgd-t", "fab-t", "square"):
        network = Counting(target.network)
        threat = ThreatModel(norm, radius if attack != "square" else 4 * radius, UNIT_RANGE)
        PARTS[attack].propose(network, target.inputs, target.labels, threat, range(12))
        assert network.sizes[0] == 12 and min(network.sizes[-3:]) < 12, attack
