"""Operations know their transpose, their absolute values, their windows and how steep they are."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
import zoo
from torch import Tensor
from zoo import ALL
from zoo_balls import layers_of

from robust_student.bounds.layers import Layers
from robust_student.bounds.operations import Affine, Maximum
from robust_student.core.tensors import Shape

every_network = pytest.mark.parametrize("name", ALL)


def random_like(shape: Shape, layers: Layers, seed: int, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kind = layers.steps[0].operation
    like = kind.like if isinstance(kind, Affine) else torch.zeros(())
    return torch.randn((batch, *shape), generator=generator, dtype=torch.float64).to(like.device)


def parent_shapes(layers: Layers, number: int) -> list[Shape]:
    shapes = [layers.shape, *(step.shape for step in layers.steps)]
    return [tuple(shapes[parent]) for parent in layers.steps[number].parents]


def dense(map_: Callable[..., Tensor], shapes: list[Shape], like: Tensor) -> list[Tensor]:
    """The matrix of an affine map with respect to each of its inputs, column by column."""
    zeros = [like.new_zeros((1, *shape)) for shape in shapes]
    offset = map_(*zeros)
    matrices = []
    for k, shape in enumerate(shapes):
        columns = []
        for position in range(zeros[k].numel()):
            unit = [zero.clone() for zero in zeros]
            unit[k].view(-1)[position] = 1.0
            columns.append((map_(*unit) - offset).flatten())
        matrices.append(torch.stack(columns, dim=1))
        assert columns and shape == tuple(unit[k].shape[1:])
    return matrices


@every_network
@torch.no_grad()
def test_affine_steps_know_their_transpose_and_their_absolute_values(name: str, device: torch.device) -> None:
    layers = layers_of(name, device)
    for number, step in enumerate(layers.steps):
        if not isinstance(step.operation, Affine) or zoo.size_of(step.shape) > 200:
            continue
        shapes, operation = parent_shapes(layers, number), step.operation
        matrices = dense(operation.apply, shapes, operation.like)
        rows = random_like(tuple(step.shape), layers, number)
        inputs = [random_like(shape, layers, number + k).abs() for k, shape in enumerate(shapes)]
        pulled, spread = operation.pull(rows), operation.pull_spread(rows.abs())
        wide = operation.spread(*inputs)
        expected = torch.zeros(())
        for matrix, there, back, values in zip(matrices, pulled, spread, inputs, strict=True):
            torch.testing.assert_close(there.flatten(1), rows.flatten(1) @ matrix, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(back.flatten(1), rows.abs().flatten(1) @ matrix.abs(), rtol=1e-9, atol=1e-9)
            expected = expected + values.flatten(1) @ matrix.abs().T
        torch.testing.assert_close(wide.flatten(1), expected, rtol=1e-9, atol=1e-9)
        for p, order in ((1.0, 1), (2.0, 2), (torch.inf, torch.inf)):
            norm = sum(float(torch.linalg.matrix_norm(matrix, order)) for matrix in matrices)
            joint_norm = float(torch.linalg.matrix_norm(torch.cat(matrices, dim=1), order))
            bound = operation.lipschitz(p, *[1.0] * len(matrices))
            assert joint_norm * (1 - 1e-9) <= norm * (1 + 1e-9) and bound >= norm * (1 - 1e-9)
            if p != 2:
                assert bound == pytest.approx(norm)


@every_network
def test_bent_steps_have_no_more_than_their_lipschitz_constant(name: str, device: torch.device) -> None:
    layers = layers_of(name, device)
    for number, step in enumerate(layers.steps):
        if isinstance(step.operation, Affine):
            continue
        (shape,) = parent_shapes(layers, number)
        first = random_like(shape, layers, number, batch=50)
        second = first + 0.3 * random_like(shape, layers, number + 1, batch=50)
        moved = (step.operation.apply(second) - step.operation.apply(first)).flatten(1)
        for p in (1.0, 2.0, torch.inf):
            sizes = [torch.linalg.vector_norm(change, p, dim=1) for change in (moved, (second - first).flatten(1))]
            assert (sizes[0] <= step.operation.lipschitz(p, 1.0) * sizes[1] * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", [name for name in ALL if "max" in name or "cnn" in name or "larger" in name])
def test_windows_of_a_maximum_are_those_of_the_operation(name: str, device: torch.device) -> None:
    layers = layers_of(name, device)
    maxima: list[Maximum] = [step.operation for step in layers.steps if isinstance(step.operation, Maximum)]
    assert maxima
    for operation in maxima:
        inputs = random_like(operation.shape, layers, 5, batch=20)
        gathered = dataclasses.replace(operation, direct=None).apply(inputs)
        torch.testing.assert_close(gathered, operation.apply(inputs), rtol=0.0, atol=0.0)
        # Each window holds an element once, and at least one.
        for window in operation.window.tolist():
            inside = [position for position in window if position < operation.size]
            assert inside and len(set(inside)) == len(inside)
