"""The certified term of the objective and the certified selection metric, against interval arithmetic in numpy."""

import numpy as np
import pytest
import torch
from reference import as_numpy, toy_data
from reference_norm import Array
from torch import Tensor, nn

from robust_student.models.model import as_model
from robust_student.objectives.batch import Batch
from robust_student.objectives.certified import CertifiedSettings
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.selection import Validation
from robust_student.training.settings import DistillSettings, SelectionSettings
from robust_student.training.train import distill

SIZE, CLASSES = 6, 3


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, 5), nn.ReLU(), nn.Linear(5, CLASSES)).double()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand((8, SIZE), generator=generator, dtype=torch.float64)
    return inputs, torch.arange(8) % CLASSES, 2 * torch.randn((8, CLASSES), generator=generator, dtype=torch.float64)


def bounds_by_hand(network: nn.Sequential, inputs: Tensor, labels: Tensor, radius: float) -> Array:
    """Least margins by interval arithmetic, example by example, rival by rival, element by element."""
    first, second = (as_numpy(network.get_submodule(k).get_parameter("weight")) for k in ("0", "2"))
    shift, last = (as_numpy(network.get_submodule(k).get_parameter("bias")) for k in ("0", "2"))
    bounds = np.zeros((len(inputs), CLASSES))
    for n, (x, y) in enumerate(zip(as_numpy(inputs), labels.tolist(), strict=True)):
        lower, upper = np.clip(x - radius, 0, 1), np.clip(x + radius, 0, 1)
        low, high = [], []
        for row, offset in zip(first, shift, strict=True):
            low.append(
                max(0.0, offset + sum(w * (lo if w > 0 else up) for w, lo, up in zip(row, lower, upper, strict=True)))
            )
            high.append(
                max(0.0, offset + sum(w * (up if w > 0 else lo) for w, lo, up in zip(row, lower, upper, strict=True)))
            )
        for j in range(CLASSES):
            row = second[y] - second[j]
            least = sum(w * (lo if w > 0 else up) for w, lo, up in zip(row, low, high, strict=True))
            bounds[n, j] = least + last[y] - last[j]
    return bounds


def term(form: str, progress: float = 1.0, network: nn.Module | None = None, **more: float) -> Tensor:
    certified = CertifiedSettings.parse({"weight": 1.0, "form": form, **more})
    objective = RobustStudentObjective(network or student(), ObjectiveSettings(radius=0.1, certified=certified))
    inputs, labels, teacher = batch()
    return objective(Batch(inputs, labels, teacher_logits=teacher, progress=progress)).values["certified"]


def test_the_forms_are_their_formulas_on_interval_bounds() -> None:
    inputs, labels, teacher = batch()
    network = student()
    bounds = bounds_by_hand(network, inputs, labels, 0.1)
    logits = as_numpy(network(inputs).detach())
    values = {form: as_numpy(term(form).detach()) for form in ("divergence", "score", "slope")}
    for n, y in enumerate(labels.tolist()):
        target = np.exp(as_numpy(teacher)[n])
        target /= target.sum()
        worst = np.exp(-bounds[n])
        worst /= worst.sum()
        assert values["divergence"][n] == pytest.approx(float((target * np.log(target / worst)).sum()))
        hinge = [as_numpy(teacher)[n][y] - as_numpy(teacher)[n][j] - bounds[n, j] for j in range(CLASSES) if j != y]
        assert values["score"][n] == pytest.approx(max(0.0, *hinge))
        drop = max(logits[n][y] - logits[n][j] - bounds[n, j] for j in range(CLASSES))
        assert values["slope"][n] == pytest.approx((max(0.0, drop) / 0.1) ** 2)


@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.0), (0.2, 0.0), (0.45, 0.5), (0.7, 1.0), (1.0, 1.0)])
def test_the_radius_grows_after_the_warm_up(progress: float, share: float) -> None:
    inputs, labels, teacher = batch()
    bounds = torch.from_numpy(bounds_by_hand(student(), inputs, labels, 0.1 * share))
    expected = nn.functional.kl_div((-bounds).log_softmax(1), teacher.softmax(1), reduction="none").sum(1)
    assert torch.allclose(term("divergence", progress, warmup=0.2, ramp=0.5), expected)


def test_the_gradient_reaches_every_parameter_and_running_statistics_stay() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(SIZE, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES)).double().train()
    torch.autograd.backward(term("slope", network=network).sum())
    assert all(parameter.grad is not None for parameter in network.parameters()) and network.training
    # The distillation term's training pass has moved the statistics once; the certified pass has not.
    assert int(network.get_submodule("1").get_buffer("num_batches_tracked")) == 1


def test_training_raises_certified_accuracy_and_the_metric_measures_it() -> None:
    data = toy_data()
    selection = SelectionSettings(metric="certified", radius=0.05)
    results = {}
    for weight in (0.0, 3.0):
        settings = DistillSettings.parse(
            {
                "training": {"epochs": 12, "device": "cpu", "selection": selection.model_dump()},
                "objective": {"radius": 0.05, "certified": {"weight": weight}},
            }
        )
        teacher = as_model(nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(data.shape)), len(data.classes))), data)
        results[weight] = distill(teacher, "mlp:16", data, settings)
    assert results[3.0].validation["certified"] >= results[0.0].validation["certified"]
    assert results[3.0].validation["selection"] == results[3.0].validation["certified"]


def test_the_metric_is_the_share_whose_margins_stay_positive() -> None:
    data = toy_data()
    model = as_model(nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(data.shape)), len(data.classes))), data).eval()
    weight = as_numpy(model.network.get_submodule("1").get_parameter("weight").detach())
    shares = []
    for radius in (1e-6, 0.02, 0.3):
        settings = SelectionSettings(metric="certified", radius=radius)
        shares.append(
            Validation(data.training_examples, settings, scale=data.scale, seed=0).measure(model)["certified"]
        )
        inputs, labels = data.training_examples.floats(), data.training_examples.labels
        logits, std = as_numpy(model(inputs).detach()), as_numpy(model.std) if hasattr(model, "std") else 1.0
        right = 0
        for n, y in enumerate(labels.tolist()):
            x = as_numpy(inputs)[n]
            lower, upper = np.clip(x - radius, 0, 1) - x, np.clip(x + radius, 0, 1) - x
            rows = [((weight[y] - weight[j]).reshape(x.shape) / std) for j in range(len(data.classes)) if j != y]
            others = [logits[n][y] - logits[n][j] for j in range(len(data.classes)) if j != y]
            worst = [m + np.where(row > 0, row * lower, row * upper).sum() for m, row in zip(others, rows, strict=True)]
            right += min(worst) > 0
        assert shares[-1] == pytest.approx(right / len(labels), abs=1 / len(labels) + 1e-9)
    assert shares[0] > shares[-1]
