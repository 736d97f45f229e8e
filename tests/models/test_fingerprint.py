"""What must be the same for interrupted work to be continued, and which difference is named."""

from dataclasses import replace
from typing import Any

import torch
from reference import affine, prototype_classifier, toy_data
from torch import nn

from robust_student.data.examples import Examples
from robust_student.models.fingerprint import PROBE, difference, fingerprint
from robust_student.models.model import as_model
from robust_student.models.probe import probe

DATA = toy_data()


def of(
    network: str | nn.Module,
    untrained: str | None = None,
    *,
    name: str = "toy",
    seed: int = 1,
    test: Examples = DATA.test,
) -> dict[str, Any]:
    """The fingerprint of work with one network, which is called `m`."""
    data = replace(DATA, name=name)
    torch.manual_seed(0)
    return fingerprint({"m": as_model(network, data)}, data, {"test": test}, {"seed": seed}, untrained)


def test_everything_that_is_used_is_in_it_by_name() -> None:
    network = prototype_classifier(DATA)
    here = of(network)
    assert set(here) == {"models", "data", "test", "settings", PROBE} and difference(here, of(network)) is None
    others = {
        "models.m": of(affine(torch.zeros(3, 16))),
        "data": of(network, name="other"),
        "test": of(network, test=toy_data(seed=5).test),
        "settings.seed": of(network, seed=2),
    }
    for name, there in others.items():
        assert str(difference(there, here)).startswith(f"{name}: ")


def test_the_weights_of_a_network_that_is_to_be_trained_may_differ_and_their_shapes_may_not() -> None:
    one, other = affine(torch.zeros(3, 16)), affine(torch.ones(3, 16))
    assert difference(of(one, "m"), of(other, "m")) is None
    assert "models.m: " in str(difference(of(one), of(other)))
    assert "models.m: mlp:4:" in str(difference(of("mlp:4", "m"), of("mlp:5", "m")))


def test_the_first_other_mark_is_named_before_the_probe() -> None:
    answers = probe(as_model(prototype_classifier(DATA), DATA))
    assert answers is not None
    doubled = [[2 * (value or 0.0) for value in row] for row in answers]
    here = {"settings": {"seed": 1, "size": 2}, PROBE: {"kd": answers}}
    there = {"settings": {"seed": 1, "size": 3}, PROBE: {"kd": doubled}}
    assert difference(there, here) == "settings.size: 3 there, 2 here"
    assert difference({"settings": here["settings"]}, here) is None  # written before there were probes
    assert difference(3, here) == "everything"
    for damaged in (3, {"kd": "x"}, {"kd": [["a"]]}, [1]):
        assert difference(here | {PROBE: damaged}, here) == "probe: damaged there"
