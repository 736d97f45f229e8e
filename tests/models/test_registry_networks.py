"""The networks of the field have the sizes and layers that their papers state."""

import pytest
import torch
from reference import message_of

from robust_student.core.tensors import Shape
from robust_student.models.costs import count_parameters
from robust_student.models.networks.fitnet import FITNETS
from robust_student.models.registry import build

CIFAR = (3, 32, 32)
FAMILIES = ["resnet32", "resnet56", "wrn-16-2", "wrn-40-2", "mobilenetv2", "maxout", *FITNETS]


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "classes", "millions"),
    [
        ("resnet20", 10, 0.27),  # He et al. 2015, table 6
        ("resnet32", 10, 0.46),
        ("resnet56", 10, 0.85),
        ("wrn-16-2", 10, 0.69),
        ("wrn-16-2", 100, 0.70),  # Tian et al. 2020 (CRD), supplement
        ("wrn-40-2", 10, 2.2),  # Zagoruyko & Komodakis 2016, tables 4 and 5, and below
        ("wrn-40-1", 10, 0.6),
        ("wrn-40-4", 10, 8.9),
        ("wrn-16-8", 10, 11.0),
        ("wrn-22-8", 10, 17.2),
        ("wrn-28-10", 10, 36.5),
        ("mobilenetv2", 10, 2.24),
        ("mobilenetv2", 1000, 3.5),  # Sandler et al. 2018, table 4: 3.4 million; torchvision counts 3,504,872
        ("mobilenetv2:50", 100, 0.82),  # Tian et al. 2020: 0.81 million
    ],
)
def test_networks_have_the_published_number_of_parameters(spec: str, classes: int, millions: float) -> None:
    with torch.device("meta"):
        count = count_parameters(build(spec, CIFAR, classes)) / 1e6
    assert count == pytest.approx(millions, abs=0.5 * 10 ** -len(str(millions).partition(".")[2]))


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("ResNet-20", "resnet20"),
        ("WRN-16-2", "wrn:16,2"),
        ("wrn-40-2", "wrn:40,2"),
        ("FitNet-1", "fitnet1"),
        ("wrn", "wrn:16,2"),
    ],
)
def test_published_names_are_understood(published: str, ours: str) -> None:
    with torch.device("meta"):
        assert str(build(published, CIFAR, 10)) == str(build(ours, CIFAR, 10))


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("shape", "classes"), [(CIFAR, 10), ((1, 9, 13), 2), ((5, 8, 8), 3)], ids=str)
def test_networks_take_images_of_any_format(name: str, shape: Shape, classes: int) -> None:
    logits = build(name, shape, classes).eval()(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, classes) and bool(logits.isfinite().all())


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_images_refuse_tables(name: str) -> None:
    assert "needs images" in message_of(lambda: build(name, (64,), 3))


@pytest.mark.parametrize(("name", "shape"), [("maxout", (1, 7, 9)), ("fitnet1", (1, 3, 8)), ("fitnet4", (1, 8, 2))])
def test_images_that_pooling_would_empty_are_refused(name: str, shape: Shape) -> None:
    assert "at least" in message_of(lambda: build(name, shape, 3))


@pytest.mark.parametrize(
    "spec", ["wrn:17,2", "wrn:4,2", "wrn-18-2", "wrn:16,0", "wrn:16,2,3", "fitnet1:0", "resnet32:a"]
)
def test_bad_numbers_are_refused_in_one_line(spec: str) -> None:
    assert message_of(lambda: build(spec, CIFAR, 10)).startswith("model '")
