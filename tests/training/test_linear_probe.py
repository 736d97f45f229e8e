"""The linear probe is ridge regression, at a cost that does not grow with the size of the images."""

from dataclasses import replace

import torch
from reference import toy_data

from robust_student.core.tensors import UNBOUNDED
from robust_student.data.readers.load import Examples, load_data
from robust_student.training.linear_probe import probe_answers


def test_the_probe_is_ridge_regression() -> None:
    """The dual form against the primal one."""
    data = toy_data(train=90, noise=0.6)
    inputs = data.test.floats()
    x = data.training_examples.floats().flatten(1).double()
    y = torch.nn.functional.one_hot(data.training_examples.labels, 3).double()
    centred, centre = x - x.mean(dim=0), x.mean(dim=0)
    ridge = float((centred @ centred.T).diagonal().mean())
    weights = torch.linalg.solve(centred.T @ centred + ridge * torch.eye(16).double(), centred.T @ (y - y.mean(dim=0)))
    expected = (inputs.flatten(1).double() - centre) @ weights + y.mean(dim=0)
    assert torch.equal(probe_answers(data, data.train, inputs), expected.argmax(dim=1))


def test_the_probe_learns() -> None:
    digits = load_data("digits")
    right = probe_answers(digits, digits.train, digits.test.floats()) == digits.test.labels
    assert right.double().mean() > 0.85


def test_the_unit_of_a_feature_does_not_matter() -> None:
    data = toy_data(train=90, shape=(5,), input_range=UNBOUNDED, scale=torch.ones(5))
    factors = torch.tensor([1e-3, 1.0, 30.0, 1e4, 1.0])
    train, test = (Examples(part.floats() * factors, part.labels) for part in (data.training_examples, data.test))
    other = replace(data, train=train, test=test, scale=factors)
    assert torch.equal(probe_answers(data, data.train, data.test.floats()), probe_answers(other, train, test.floats()))


def test_large_images_are_averaged_down() -> None:
    small = toy_data(train=60, shape=(1, 32, 16))

    def enlarged(part: Examples) -> Examples:
        return Examples(part.floats().repeat_interleave(3, dim=2).repeat_interleave(2, dim=3), part.labels)

    large = replace(small, train=enlarged(small.training_examples), test=enlarged(small.test))
    assert large.shape == (1, 96, 32)
    assert len(probe_answers(large, large.train, large.test.floats())) == 30
