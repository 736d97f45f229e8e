"""The persistent start: what earlier visits reached, against a loop over examples in float64."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import NORMS, Batch, gradients_after, make_batch, message_of, smooth_student
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.core.norms import NormName
from robust_student.core.rng import ExampleRng
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel
from robust_student.data.augmentation import AugmentationSettings, Placement
from robust_student.objectives.batch import Batch as Taught
from robust_student.objectives.batch import Terms
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings

IMAGE = (2, 4, 4)
RADII: dict[NormName, float] = {"l1": 2.0, "l2": 0.6, "linf": 0.1}
every_norm = pytest.mark.parametrize("name", NORMS)


def settings_of(name: NormName, steps: int, **others: Any) -> ObjectiveSettings:
    secant = {"weight": 2.0, "start": "persistent", "steps": steps}
    return ObjectiveSettings.parse({"norm": name, "radius": RADII[name], "secant": secant} | others)


def taught(batch: Batch, examples: Tensor, placement: Placement | None = None) -> Taught:
    inputs, labels = batch.inputs[examples], batch.labels[examples]
    return Taught(inputs, labels, examples, teacher_logits=batch.teacher_logits[examples], placement=placement)


def stored(change: Tensor) -> Tensor:
    """d as one byte an element keeps it."""
    size = float(change.abs().max())
    return (change * (127 / size)).round() * (torch.tensor(size, dtype=torch.float32).item() / 127) if size else change


def loop(
    student: nn.Module, batch: Batch, settings: ObjectiveSettings, kept: dict[int, Tensor], examples: list[int]
) -> Tensor:
    """The loss of one step, one example after the other; `kept` is brought up to date."""
    assert settings.radius is not None
    threat = ThreatModel.named(settings.norm, settings.radius, UNIT_RANGE, IMAGE)
    losses = []
    for i in examples:
        x, soft = batch.inputs[i : i + 1], batch.teacher_logits[i : i + 1].softmax(1)

        def divergence(z: Tensor, soft: Tensor = soft) -> Tensor:
            return (soft * (soft.log() - student(z).log_softmax(1))).sum()

        start = threat.project(x + kept.get(i, torch.zeros_like(x)), x).requires_grad_()
        here = divergence(start)
        (gradient,) = torch.autograd.grad(here, start, retain_graph=True)
        step = (0.75 if settings.secant.steps == 0 else 0.5) * settings.radius  # of the first; two make it 1/2 each
        z = threat.project(threat.step(start.detach(), gradient, step), x)
        for _ in range(settings.secant.steps - 1):
            point = z.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(divergence(point), point)
            z = threat.project(threat.step(point.detach(), gradient, step), x)
        kept[i] = stored(z - x)
        losses.append(here + settings.secant.weight * (here if settings.secant.steps == 0 else divergence(z)))
    return torch.stack(losses).mean()


@every_norm
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_three_visits_are_those_of_a_loop_over_examples(name: NormName, steps: int, device: torch.device) -> None:
    batch, student = make_batch(IMAGE, device), smooth_student(IMAGE, 3, device)
    settings, count = settings_of(name, steps), len(batch.labels)
    kept = KeptPerturbations(count, IMAGE, device)
    objective = RobustStudentObjective(student, settings, kept=kept)
    memory: dict[int, Tensor] = {}
    for visit in ([0, 1, 2, 3], [3, 0, 1], [1, 3, 0]):
        terms = objective(taught(batch, torch.tensor(visit, device=device)))
        expected = loop(student, batch, settings, memory, visit)
        torch.testing.assert_close(terms.loss, expected, atol=1e-7, rtol=1e-6)
        ours, open_ones = gradients_after(terms.loss, student), gradients_after(expected, student)
        torch.testing.assert_close(ours, open_ones, atol=1e-7, rtol=1e-5)
    for example in range(count):
        change = kept.read(torch.tensor([example], device=device))
        wanted = memory.get(example, torch.zeros_like(change))
        torch.testing.assert_close(change, wanted.to(change), atol=RADII[name] / 100, rtol=0)
    assert bool(kept.read(torch.tensor([0, 1, 3], device=device)).flatten(1).any(1).all())


@every_norm
@pytest.mark.parametrize("steps", [1, 3])
def test_from_an_empty_memory_it_is_the_step_from_the_inputs(
    name: NormName, steps: int, smooth: nn.Module, device: torch.device
) -> None:
    batch = make_batch(IMAGE, device)
    examples = torch.arange(len(batch.labels), device=device)
    step = {"step": 0.4}

    def terms(changes: dict[str, Any]) -> Terms:
        settings = settings_of(name, steps, secant={"weight": 2.0, "steps": steps} | step | changes)
        kept = KeptPerturbations(len(batch.labels), IMAGE, device)
        return RobustStudentObjective(smooth, settings, kept=kept)(taught(batch, examples))

    persistent, fresh = terms({"start": "persistent"}), terms({"start": "inputs", "shared": False})
    for key, value in fresh.values.items():
        torch.testing.assert_close(persistent.values[key].detach(), value.detach(), atol=1e-12, rtol=1e-9)
    ours, theirs = gradients_after(persistent.loss, smooth), gradients_after(fresh.loss, smooth)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


@given(
    name=st.sampled_from(NORMS),
    steps=st.integers(0, 2),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    step=st.floats(0.05, 5.0),
    seed=st.integers(0, 1000),
)
def test_no_point_ever_leaves_ball_and_range(name: NormName, steps: int, share: float, step: float, seed: int) -> None:
    device = torch.device("cpu")
    batch, student = make_batch(IMAGE, device, seed=seed), smooth_student(IMAGE, 3, device)
    noise = {"share": share}
    settings = settings_of(name, steps, noise=noise).model_copy()
    settings = settings.model_copy(update={"secant": settings.secant.model_copy(update={"step": step})})
    objective = RobustStudentObjective(student, settings, kept=KeptPerturbations(len(batch.labels), IMAGE))
    examples = torch.arange(len(batch.labels))
    threat, seen = objective.threat(IMAGE), list[Tensor]()
    student.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    for visit in range(3):
        seen.clear()
        objective(taught(batch, examples), ExampleRng(seed, visit, examples))
        for place, points in enumerate(seen):
            assert points.min() >= 0 and points.max() <= 1
            if share == 0 or place > 0:
                assert threat.norm.size(points - batch.inputs).max() <= RADII[name] * (1 + 1e-6)


def test_weight_zero_is_plain_distillation_to_the_bit(conv: nn.Module, device: torch.device) -> None:
    batch = make_batch(IMAGE, device)
    examples = torch.arange(len(batch.labels), device=device)
    off = settings_of("linf", 1, secant={"weight": 0.0, "start": "persistent"})
    kept = KeptPerturbations(len(batch.labels), IMAGE, device)
    ours = RobustStudentObjective(conv, off, kept=kept)(taught(batch, examples)).loss
    plain = RobustStudentObjective(conv, ObjectiveSettings())(taught(batch, examples)).loss
    assert torch.equal(ours, plain) and not kept.levels.any()


@pytest.mark.parametrize("steps", [0, 1])
def test_noisy_examples_move_their_kept_point_only_in_a_second_pass(
    steps: int, smooth: nn.Module, device: torch.device
) -> None:
    batch = make_batch(IMAGE, device)
    examples = torch.arange(len(batch.labels), device=device)
    kept = KeptPerturbations(len(batch.labels), IMAGE, device)
    objective = RobustStudentObjective(smooth, settings_of("linf", steps, noise={"share": 1.0}), kept=kept)
    objective(taught(batch, examples), ExampleRng(0, 1, examples))
    assert bool(kept.levels.flatten(1).any(1).all()) == (steps == 1)


def test_the_first_pass_of_noisy_examples_is_made_at_the_ratio_they_drew(
    smooth: nn.Module, device: torch.device
) -> None:
    count = 400
    inputs = 0.5 + 0.01 * torch.rand((count, *IMAGE), dtype=torch.float64, device=device)
    batch = Taught(inputs, torch.zeros(count, dtype=torch.long, device=device), teacher_logits=torch.zeros(count, 3))
    noise = {"share": 0.5, "lowest_db": 20.0, "highest_db": 30.0}
    seen: list[Tensor] = []
    smooth.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    RobustStudentObjective(smooth, ObjectiveSettings.parse({"noise": noise}))(batch, torch.Generator().manual_seed(0))
    change = (seen[0] - inputs).flatten(1).square().mean(1)
    noisy = change > 0
    ratio = 10 * torch.log10(inputs.flatten(1).square().mean(1) / change)[noisy]
    assert 160 < noisy.sum() < 240
    assert ratio.quantile(0.1) == pytest.approx(21, abs=1.5) and ratio.quantile(0.9) == pytest.approx(29, abs=1.5)


# The memory ---------------------------------------------------------------------------------------------------------


@every_norm
def test_a_byte_an_element_is_exact_to_a_254th_of_the_largest(name: NormName, device: torch.device) -> None:
    threat = ThreatModel.named(name, RADII[name], UNIT_RANGE, (3, 32, 32))
    inputs = torch.full((16, 3, 32, 32), 0.5, device=device)
    change = threat.random(inputs, torch.Generator(device).manual_seed(0)) - inputs
    kept = KeptPerturbations(20, (3, 32, 32), device)
    examples = torch.arange(2, 18, device=device)
    kept.write(examples, change)
    error = kept.read(examples) - change
    assert bool((error.abs().flatten(1).amax(1) <= change.abs().flatten(1).amax(1) / 253).all())
    assert bool((threat.norm.size(error) <= 0.03 * threat.norm.size(change)).all())
    assert not kept.read(torch.tensor([0, 1, 18, 19], device=device)).any()


def test_chosen_examples_alone_are_replaced_and_zero_stays_zero() -> None:
    kept = KeptPerturbations(3, (2,))
    kept.write(torch.tensor([0, 2]), torch.ones(2, 2), torch.tensor([False, True]))
    assert kept.read(torch.arange(3)).tolist() == [[0, 0], [0, 0], [1, 1]]
    kept.write(torch.tensor([2]), torch.zeros(1, 2))
    assert not kept.read(torch.arange(3)).any()


def test_a_memory_on_disk_holds_the_same(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(bytes(60))
    with (tmp_path / "kept").open("r+b") as file:
        there, here = KeptPerturbations(5, (3, 4), file=file), KeptPerturbations(5, (3, 4))
    for seed, examples in enumerate(([0, 3], [3, 1], [4])):
        change = torch.randn(len(examples), 3, 4, generator=torch.Generator().manual_seed(seed))
        for kept in (there, here):
            kept.write(torch.tensor(examples), change)
    assert torch.equal(there.read(torch.arange(5)), here.read(torch.arange(5)))
    assert (tmp_path / "kept").read_bytes() == here.levels.numpy().tobytes() != bytes(60)
    again = KeptPerturbations(5, (3, 4))
    again.restore(there.state())
    assert torch.equal(again.read(torch.arange(5)), here.read(torch.arange(5)))


def test_a_state_of_other_examples_is_refused() -> None:
    state = KeptPerturbations(5, (3, 4)).state()
    assert "other training examples" in message_of(lambda: KeptPerturbations(6, (3, 4)).restore(state))


def test_without_a_memory_there_is_no_persistent_start(smooth: nn.Module, device: torch.device) -> None:
    batch = make_batch(IMAGE, device)
    with pytest.raises(UserError, match="persistent start needs a memory"):
        RobustStudentObjective(smooth, settings_of("linf", 1))(batch.taught)


# Augmented images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [0, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_a_change_of_the_window_goes_back_to_where_it_was_cut_out(crop: int, flip: bool) -> None:
    """Pixel by pixel: image (r, c) of the padded original at `place` is pixel (r, c) of the window."""
    count, height, width = 30, 5, 4
    examples = torch.arange(count)
    settings = AugmentationSettings(crop=crop, flip=flip)
    placement = Placement.drawn(count, settings, ExampleRng(0, 1, examples))
    if placement is None:
        assert crop == 0 and not flip
        return
    before = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    cut = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))
    after = placement.back(cut, before)
    for i in range(count):
        top, left = (0, 0) if placement.places is None else (placement.places[i] - crop).tolist()
        mirrored = placement.mirrored is not None and bool(placement.mirrored[i])
        expected = before[i].clone()
        for r in range(height):
            for c in range(width):
                row, column = r + top, c + left
                if 0 <= row < height and 0 <= column < width:
                    expected[:, row, column] = cut[i, :, r, width - 1 - c if mirrored else c]
        assert torch.equal(after[i], expected)
    assert torch.equal(placement.back(placement.carried(before), before), before)


def test_under_augmentation_the_kept_point_moves_with_the_image(smooth: nn.Module, device: torch.device) -> None:
    batch = make_batch(IMAGE, device)
    count = len(batch.labels)
    examples = torch.arange(count, device=device)
    kept = KeptPerturbations(count, IMAGE, device)
    original = 0.05 * torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(0)).to(device).clamp(-1, 1)
    kept.write(examples, original)
    placement = Placement.drawn(count, AugmentationSettings(crop=1, flip=True), ExampleRng(0, 1, examples))
    assert placement is not None
    seen: list[Tensor] = []
    smooth.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    inputs = placement.carried(batch.inputs)
    moved = Taught(inputs, batch.labels, examples, teacher_logits=batch.teacher_logits, placement=placement)
    RobustStudentObjective(smooth, settings_of("linf", 0), kept=kept)(moved)
    threat = ThreatModel.named("linf", RADII["linf"], UNIT_RANGE, IMAGE)
    expected = threat.project(inputs + placement.carried(original).to(inputs), inputs)
    torch.testing.assert_close(seen[0], expected, atol=2e-3, rtol=0)
    assert math.isfinite(float(kept.sizes.sum()))
