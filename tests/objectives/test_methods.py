"""The table of methods, and a method that brings a group of settings and a term of its own."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from command_line import refused, run
from reference import make_batch, message_of, smooth_student
from torch import device

from robust_student.core.settings import Settings
from robust_student.core.tensors import PerExample
from robust_student.objectives.methods import METHODS, kind_of, with_objective
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.objectives.term import Term, Visit
from robust_student.training.settings import DistillSettings

ROOT = Path(__file__).parents[2]


class OwnGroup(Settings):
    """A group of its own."""

    weight: float = 2.0
    """Weight of the squared logits."""


@dataclass(frozen=True)
class Squares(Term):
    """Squared logits."""

    name: ClassVar[str] = "squares"

    def __call__(self, visit: Visit) -> PerExample:
        return visit.logits.square().sum(dim=1)


class OwnSettings(ObjectiveSettings):
    """The sum and a term of its own."""

    own: OwnGroup = OwnGroup()

    def terms(self) -> tuple[Term, ...]:
        return (*super().terms(), Squares(self.own.weight))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A row of the table."""
    monkeypatch.setitem(METHODS, "own", OwnSettings())
    yield


def test_the_methods_are_the_documented_ones() -> None:
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    table = page[page.index("| method |") : page.index("\n\n", page.index("| method |"))]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, flags=re.MULTILINE)) == set(METHODS)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_settings_of_every_method_come_back_from_their_record(method: str) -> None:
    settings = DistillSettings(objective=METHODS[method])
    assert DistillSettings.parse(settings.model_dump(mode="json")) == settings
    assert kind_of(METHODS[method].model_dump()) is type(METHODS[method])


@pytest.mark.usefixtures("own")
def test_a_term_of_its_own_joins_the_sum() -> None:
    student, batch = smooth_student((6,), 3, device("cpu")), make_batch((6,), device("cpu")).taught
    terms = RobustStudentObjective(student, OwnSettings())(batch)
    assert terms.weights == {"distillation": 1.0, "squares": 2.0}
    assert terms.loss.item() == pytest.approx(
        terms.values["distillation"].mean().item() + 2 * student(batch.inputs).square().sum(dim=1).mean().item()
    )


def test_a_shared_pass_is_for_terms_that_may_be_taken_at_its_start() -> None:
    student, batch = smooth_student((6,), 3, device("cpu")), make_batch((6,), device("cpu")).taught
    shared = OwnSettings(secant=METHODS["secant"].secant)
    values = RobustStudentObjective(student, shared)(batch).values
    expected = student(batch.inputs).square().sum(dim=1)
    assert shared.shared_pass and values["squares"].tolist() == pytest.approx(expected.tolist())


@pytest.mark.usefixtures("own")
def test_plain_values_that_name_its_group_become_its_settings() -> None:
    settings = DistillSettings.parse({"objective": {"own": {"weight": 3}, "radius": 0.2}})
    assert settings.objective == OwnSettings(own=OwnGroup(weight=3.0), radius=0.2)
    assert type(DistillSettings.parse({"objective": {"radius": 0.2}}).objective) is ObjectiveSettings
    complaint = message_of(lambda: DistillSettings.parse({"objective": {"own": {"wieght": 3}}}))
    assert complaint == "objective: unknown setting 'own.wieght'; did you mean 'weight'?"


@pytest.mark.usefixtures("own")
def test_its_class_takes_the_place_of_the_objectives() -> None:
    kind = with_objective(DistillSettings, METHODS["own"])
    assert kind().objective == OwnSettings() and kind.__doc__ == DistillSettings.__doc__
    assert with_objective(kind, METHODS["own"]) is kind


@pytest.mark.usefixtures("own")
def test_the_command_line_has_its_options_under_its_name_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("distill", "--help")
    shown = capsys.readouterr().out
    assert all(method in shown for method in METHODS if method != "own") and "--own.weight" not in shown
    with pytest.raises(SystemExit):
        run("distill", "--method", "own", "--help")
    shown = capsys.readouterr().out
    assert "--own.weight NUMBER" in shown and "Weight of the squared logits. (default: 2.0)" in shown
    assert "--secant.weight" in shown and "A group of its own:" in shown
    complaint = refused(capsys, "distill", "--method", "kd", "--own.weight", "3")
    assert "unknown flag --own.weight; it belongs to --method own" in complaint
    assert "unknown method 'onw'; did you mean 'own'?" in refused(capsys, "distill", "--method", "onw")


@pytest.mark.usefixtures("own")
def test_flags_and_files_reach_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objectives: list[ObjectiveSettings] = []
    monkeypatch.setattr("robust_student.cli.distill.Distill.run", lambda self: objectives.append(self.objective))
    words = ["distill", "--teacher", "t", "--data", "digits", "--model", "linear", "--output", str(tmp_path / "out")]
    run(*words, "--method", "own", "--own.weight", "3")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"method": "own", "objective": {"own": {"weight": 4}}}))
    run(*words, "--config", str(config))
    run(*words, "--config", str(config), "--own.weight", "5", "--radius", "0.3")
    assert objectives == [
        OwnSettings(own=OwnGroup(weight=3.0)),
        OwnSettings(own=OwnGroup(weight=4.0)),
        OwnSettings(own=OwnGroup(weight=5.0), radius=0.3),
    ]
