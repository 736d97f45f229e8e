"""The batch that the objective's test files share."""

import pytest
import torch
from objective_steps import IMAGE
from reference import Batch, make_batch


@pytest.fixture
def batch(device: torch.device) -> Batch:
    return make_batch(IMAGE, device)
