import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import affine, assert_state, prototype_classifier, rivals, state_of, toy_data
from reference_norm import ReferenceNorm
from torch import Tensor, nn

from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED
from robust_student.data.examples import Examples
from robust_student.data.readers.load import Data
from robust_student.models.model import Model, as_model
from robust_student.training.balanced import BalancedClasses
from robust_student.training.selection import Validation, choose_epoch
from robust_student.training.settings import SelectionSettings

Measured = list[dict[str, float]]


def measured(*pairs: tuple[float, float]) -> Measured:
    """Entries of (clean, selection)."""
    return [{"clean": clean, "selection": selection} for clean, selection in pairs]


@pytest.mark.parametrize(
    ("pairs", "epoch"),
    [
        ([(0.5, 0.5)], 0),
        ([(0.90, 0.60), (0.90, 0.70), (0.90, 0.65)], 1),  # equally clean: the best selection
        ([(0.86, 0.99), (0.90, 0.50)], 1),  # 0.86 is below 0.90 - 0.03: half-trained
        ([(0.88, 0.99), (0.90, 0.50)], 0),  # 0.88 is within one standard error
        ([(0.90, 0.70), (0.90, 0.70), (0.89, 0.10)], 1),  # a tie goes to the later epoch
        ([(0.0, 0.3), (0.0, 0.2)], 0),
        ([(1.0, 0.3), (0.999, 0.9)], 0),  # no spread at all when everything is right
    ],
)
def test_the_most_robust_epoch_within_one_standard_error_is_kept(pairs: list[tuple[float, float]], epoch: int) -> None:
    assert choose_epoch(measured(*pairs), 100) == epoch


@pytest.mark.parametrize(("examples", "epoch"), [(100, 0), (10_000, 1)])
def test_more_validation_examples_make_the_rule_stricter(examples: int, epoch: int) -> None:
    assert choose_epoch(measured((0.88, 0.9), (0.9, 0.5)), examples) == epoch


def test_an_epoch_no_better_than_chance_is_kept_only_where_there_is_no_other() -> None:
    assert choose_epoch(measured((0.35, 0.9), (0.4, 0.2)), 1) == 0
    assert choose_epoch(measured((0.35, 0.9), (0.4, 0.2)), 1, 0.35) == 1
    assert choose_epoch(measured((0.35, 0.9), (0.4, 0.2)), 1, 0.5) == 0
    certified = [{"clean": 0.5, "selection": 0.5, "certified": 0.5}, {"clean": 0.9, "selection": 0.1, "certified": 0.1}]
    assert choose_epoch(certified, 100) == 0 and choose_epoch(certified, 100, 0.55) == 1


GRID = st.integers(0, 20).map(lambda k: k / 20)


@given(st.lists(st.tuples(GRID, GRID), min_size=1, max_size=8), st.integers(1, 500))
def test_the_kept_epoch_is_eligible_and_no_eligible_one_beats_it(pairs: list[tuple[float, float]], n: int) -> None:
    epoch = choose_epoch(measured(*pairs), n)
    p = max(clean for clean, _ in pairs)
    floor = p - math.sqrt(p * (1 - p) / n)
    assert pairs[epoch][0] >= floor
    for k, (clean, selection) in enumerate(pairs):
        if clean >= floor and k != epoch:
            assert (selection, k) < (pairs[epoch][1], epoch)


# Measurement ----------------------------------------------------------------------------------------------------------

DATA = toy_data(train=90, noise=0.3)


def model_for(data: Data) -> Model:
    return as_model(prototype_classifier(data), data)


def measure(data: Data, model: Model | None = None, **selection: object) -> dict[str, float]:
    settings = SelectionSettings.model_validate({"examples": 30, "steps": 5} | selection)
    return Validation(data.training_examples, settings, scale=data.scale, seed=0).measure(model or model_for(data))


def test_clean_accuracy_uses_every_validation_example() -> None:
    model = model_for(DATA)
    right = [
        int(row.argmax()) == y
        for row, y in zip(model(DATA.training_examples.floats()), DATA.training_examples.labels, strict=True)
    ]
    assert 0.5 < sum(right) / 90 < 1
    assert measure(DATA, model)["clean"] == pytest.approx(sum(right) / 90)


def test_the_selection_is_the_mean_of_all_accuracies() -> None:
    figures = measure(DATA, snr_db=(3.0, 0.0, -2.5))
    assert list(figures) == ["clean", "snr_3", "snr_0", "snr_-2.5", "pgd", "selection"]
    *accuracies, selection = figures.values()
    assert selection == pytest.approx(sum(accuracies) / 5) and all(0 <= value <= 1 for value in accuracies)


def test_more_noise_and_larger_budgets_leave_less_accuracy() -> None:
    figures = measure(DATA, snr_db=(30.0, -10.0), examples=90)
    assert figures["snr_30"] > figures["snr_-10"]
    assert measure(DATA, radius=0.001)["pgd"] > measure(DATA, radius=0.5)["pgd"] == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_accuracy_of_an_affine_model_is_the_share_beyond_the_closed_form_distance(norm: NormName) -> None:
    data = toy_data(classes=2, shape=(6,), input_range=UNBOUNDED, noise=0.5)
    model = model_for(data)
    weight = next(model.parameters())
    oracle = ReferenceNorm(Norm.named(norm), (6,))
    slope = oracle.dual_size((weight[0] - weight[1]).detach().double().numpy())
    rows = model(data.training_examples.floats()).tolist()
    distances = [
        (row[y] - row[rivals(row, y)[0]]) / slope
        for row, y in zip(rows, data.training_examples.labels.tolist(), strict=True)
    ]
    radius = sorted(distances)[20] + 1e-3
    share = sum(distance > radius for distance in distances) / 60
    assert 0 < share < 1
    figures = measure(data, model, norm=norm, radius=radius, examples=60, steps=60)
    assert figures["pgd"] == pytest.approx(share, abs=1.01 / 60)


def test_the_norm_is_measured_in_units_of_the_datas_scale() -> None:
    table = toy_data(shape=(6,), input_range=UNBOUNDED, noise=0.3)
    coarse = toy_data(shape=(6,), input_range=UNBOUNDED, noise=0.3, scale=torch.full((6,), 10.0))
    model = model_for(table)
    assert measure(coarse, model, radius=0.03, norm="l2")["pgd"] == measure(table, model, radius=0.3, norm="l2")["pgd"]
    assert measure(table, model, radius=0.03, norm="l2")["pgd"] > measure(table, model, radius=0.3, norm="l2")["pgd"]


def test_one_answer_for_everything_is_worth_no_more_than_chance_by_any_metric() -> None:
    labels = torch.tensor([0] * 80 + [1] * 20)
    examples = Examples(torch.rand(100, 1, 4, 4), labels)
    constant = as_model(affine(torch.zeros(2, 16), torch.tensor([1.0, 0.0])), toy_data(classes=2))
    for metric in ("robust", "accuracy", "certified"):
        settings = SelectionSettings(metric=metric, steps=2, examples=50)
        validation = Validation(examples, settings, scale=None, seed=0)
        figures = validation.measure(constant)
        assert figures.pop("accuracy") == 0.8
        assert set(figures.values()) == {0.5} and validation.classes.chance > 0.5
        assert validation.given_answers(constant).eq(0).all()


def test_recalls_are_averaged_and_the_usual_accuracy_is_recorded_where_classes_differ_in_size() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    pixels = torch.cat([torch.ones(60, 1, 4, 4), torch.zeros(40, 1, 4, 4)])  # right: 60 of 90, and 10 of 10
    bright = as_model(affine(torch.tensor([[1.0] * 16, [0.0] * 16]), torch.tensor([0.0, 0.5])), toy_data(classes=2))
    settings = SelectionSettings(metric="accuracy")
    figures = Validation(Examples(pixels, labels), settings, scale=None, seed=0).measure(bright)
    assert figures == {"clean": pytest.approx((60 / 90 + 1) / 2), "accuracy": 0.7, "selection": figures["clean"]}


@pytest.mark.parametrize(
    ("counts", "equivalent", "chance"),
    [
        ([50, 50], 100.0, 0.5 + 2.33 * 0.05),
        ([90, 10], 36.0, 0.5 + 2.33 * math.sqrt(0.25 / 36)),
        ([2, 0, 2, 2], 6.0, 2 / 3),  # an accuracy half-way from a third to one is not called chance
        ([0, 7], 7.0, -1.0),
    ],
)
def test_what_is_chance_depends_on_how_many_classes_there_are_and_how_large(
    counts: list[int], equivalent: float, chance: float
) -> None:
    classes = BalancedClasses(torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))
    assert classes.equivalent == pytest.approx(equivalent) and classes.chance == pytest.approx(chance)


def test_the_accuracy_metric_skips_noise_and_attack() -> None:
    figures = measure(DATA, metric="accuracy")
    assert list(figures) == ["clean", "selection"] and figures["clean"] == figures["selection"]


def test_measuring_again_gives_the_same_and_leaves_the_global_generator_alone() -> None:
    model = model_for(DATA)
    before = torch.get_rng_state()
    first = measure(DATA, model)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert measure(DATA, model) == first


def test_the_attacked_sample_is_stratified() -> None:
    validation = Validation(DATA.training_examples, SelectionSettings(examples=30), scale=None, seed=0)
    assert Counter(validation.sample.labels.tolist()) == {0: 10, 1: 10, 2: 10}


def test_fewer_examples_than_asked_for_are_all_used() -> None:
    validation = Validation(DATA.training_examples, SelectionSettings(examples=5000), scale=None, seed=0)
    assert len(validation.sample) == 90


class Fragile(nn.Module):
    """Fails after some passes."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.passes, self.inner = passes, affine(torch.ones(3, 16))

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes -= 1
        if self.passes < 0:
            raise RuntimeError("worn out")
        return self.inner(inputs)


def test_the_mode_of_every_module_is_restored_even_when_measuring_fails() -> None:
    model = as_model(Fragile(3), DATA).train()
    with pytest.raises(RuntimeError, match="worn out"):
        measure(DATA, model)
    assert all(module.training for module in model.modules())


def test_measuring_uses_evaluation_mode_and_restores_modes_and_buffers() -> None:
    model = as_model("resnet8:2", DATA).train()
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.eval()
    modes, before = [module.training for module in model.modules()], state_of(model)
    figures = measure(DATA, model)
    assert [module.training for module in model.modules()] == modes
    assert_state(model, before)
    assert measure(DATA, model.eval()) == figures
