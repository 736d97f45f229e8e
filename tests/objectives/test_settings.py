import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robust_student.core.errors import UserError
from robust_student.core.settings import Settings
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.objectives.methods import METHODS
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.settings import SelectionSettings

Nested = dict[str, Any]
GROUPS = {name: list(type(group).model_fields) for name, group in ObjectiveSettings() if isinstance(group, Settings)}
PRESETS = pytest.mark.parametrize("method", sorted(METHODS))


def message_of(values: object) -> str:
    """The one-line complaint about the values."""
    with pytest.raises(UserError) as error:
        ObjectiveSettings.parse(values, "run.yaml")
    message = str(error.value)
    assert message.startswith("run.yaml: ") and len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("kd", set()),
        ("score", {"score"}),
        ("exact", {"score", "gradient"}),
        ("direct", {"score", "gradient"}),
        ("projection", {"score", "gradient"}),
        ("secant", {"secant"}),
        ("secant-exact", {"gradient", "secant"}),
    ],
)
def test_each_method_switches_on_the_terms_of_its_name(method: str, terms: set[str]) -> None:
    assert {name for name in ("score", "gradient", "secant") if getattr(METHODS[method], name).weight > 0} == terms


@PRESETS
def test_json_brings_back_equal_settings(method: str) -> None:
    settings = METHODS[method]
    assert type(settings).parse(json.loads(settings.model_dump_json())) == settings


def test_settings_cannot_be_changed_behind_the_objectives_back() -> None:
    with pytest.raises(ValueError, match="frozen"):
        METHODS["kd"].norm = "l1"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"nrom": "l2"}, "unknown setting 'nrom'; did you mean 'norm'?"),
        ({"secant": {"wieght": 1}}, "unknown setting 'secant.wieght'; did you mean 'weight'?"),
        ({"distillation": {"temprature": 1}}, "'distillation.temprature'; did you mean 'temperature'?"),
        ({"qqq": 1}, "unknown setting 'qqq'; choose from certified, distillation, gradient"),
        ({"score": {"qqq": 1}}, "unknown setting 'score.qqq'; choose from form, reduce, score, slack, weight"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(values: Nested, complaint: str) -> None:
    assert complaint in message_of(values)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("score", "weight", -1),
        ("gradient", "weight", -0.1),
        ("secant", "weight", -5),
        ("distillation", "temperature", 0),
        ("distillation", "soft_weight", 1.5),
        ("distillation", "soft_weight", -0.5),
        ("gradient", "target", 0),
        ("gradient", "projections", 0),
        ("secant", "steps", -1),
        ("secant", "start", "anywhere"),
        ("noise", "share", 1.5),
        ("secant", "steps", 1.5),
        ("secant", "step", 0),
        ("secant", "form", "chord"),
        ("score", "weight", "much"),
        ("score", "weight", None),
    ],
)
def test_a_value_outside_its_range_is_refused_with_the_settings_full_name(group: str, name: str, value: object) -> None:
    message = message_of({group: {name: value}})
    assert f"'{group}.{name}'" in message and f"got {value!r}" in message


NUMBERS = ("radius", "score.weight", "score.slack", "gradient.target", "secant.step", "distillation.temperature")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, ".nan", "inf"])
@pytest.mark.parametrize("setting", NUMBERS)
def test_numbers_must_be_finite(setting: str, value: object) -> None:
    group, _, name = setting.rpartition(".")
    assert f"'{setting}'" in message_of({group: {name: value}} if group else {name: value})


@pytest.mark.parametrize("value", [0, -1, "wide", [0.1]])
def test_radius_must_be_a_positive_number(value: object) -> None:
    assert "'radius'" in message_of({"radius": value})


@pytest.mark.parametrize("values", [None, [], "kd", 3])
def test_settings_that_are_not_a_mapping_are_refused(values: object) -> None:
    message_of(values)


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_projection_needs_the_l2_norm(norm: str) -> None:
    projection = {"weight": 1, "kind": "projection"}
    assert f"needs norm = l2, not {norm}" in message_of({"norm": norm, "gradient": projection})
    assert ObjectiveSettings.parse({"norm": "l2", "gradient": projection}).gradient.kind == "projection"


def test_the_shared_pass_needs_the_training_mode() -> None:
    secant = {"weight": 1}
    assert "secant.shared = false" in message_of({"gradient_mode": "eval", "secant": secant})
    for private in ({"shared": False}, {"start": "inputs"}, {"weight": 0}):
        assert not ObjectiveSettings.parse({"gradient_mode": "eval", "secant": secant | private}).shared_pass


def test_the_teacher_form_of_the_score_needs_probabilities() -> None:
    assert "use score = probability" in message_of({"score": {"form": "teacher"}})
    assert ObjectiveSettings.parse({"score": {"form": "teacher", "score": "probability"}}).score.form == "teacher"


@pytest.mark.parametrize("change", [{"weight": 0}, {"start": "inputs"}, {"shared": False}], ids=str)
def test_no_pass_is_shared_without_a_secant_term_a_random_start_and_consent(change: Nested) -> None:
    assert not ObjectiveSettings.parse({"secant": {"weight": 1} | change}).shared_pass


@pytest.mark.parametrize("change", [{"start": "random"}, {"shared": False}, {"form": "slope"}], ids=str)
def test_no_ascent_step_needs_a_shared_pass_from_a_kept_point(change: Nested) -> None:
    kept = {"weight": 1, "steps": 0, "start": "persistent"}
    assert ObjectiveSettings.parse({"secant": kept}).persistent
    assert "secant.steps = 0 needs" in message_of({"secant": kept | change})


def test_a_slope_cannot_begin_at_a_noisy_input() -> None:
    secant = {"weight": 1, "form": "slope"}
    assert "a slope begins at the input" in message_of({"secant": secant, "noise": {"share": 0.5}})
    assert "above noise.highest_db" in message_of({"noise": {"lowest_db": 30, "highest_db": 29}})


def test_the_secant_shares_its_pass_by_default() -> None:
    assert ObjectiveSettings.parse({"secant": {"weight": 1}}).shared_pass


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 3),
    st.floats(),
    st.floats(-1, 3),
    st.text(max_size=4),
    st.sampled_from(["l1", "l2", "linf", "margin", "teacher", "probability", "logit", "eval", "projection", "slope"]),
    st.lists(st.integers(), max_size=2),
)


def group_of(names: list[str]) -> st.SearchStrategy[Nested]:
    return st.dictionaries(st.one_of(st.sampled_from(names), st.text(max_size=6)), values, max_size=3)


@st.composite
def nested(draw: st.DrawFn) -> Nested:
    """Nested settings: groups and plain settings by their names, a strange key here and there, any values."""
    groups = {name: st.one_of(group_of(names), values) for name, names in GROUPS.items()}
    chosen = draw(st.fixed_dictionaries({}, optional=groups))
    return draw(group_of(["norm", "radius", "gradient_mode"])) | chosen


@given(nested())
@example({"two\nlines": 1})
@example({"score": {"two\u2028lines": 1}})
@example({"score": {"weight": math.inf}})
@example({"radius": 10**400})
@example({"norm": "\ud800"})
def test_parse_returns_settings_that_survive_json_or_raises_a_one_line_error(values: Nested) -> None:
    try:
        settings = ObjectiveSettings.parse(values)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert ObjectiveSettings.parse(json.loads(settings.model_dump_json())) == settings


@pytest.mark.parametrize(("text", "number"), [("8/255", 8 / 255), (" 1 / 4 ", 0.25), ("0.1", 0.1), ("2.5e-1/5", 0.05)])
def test_a_radius_may_be_a_quotient(text: str, number: float) -> None:
    assert ObjectiveSettings.parse({"radius": text}).radius == number
    assert EvaluationSettings.parse({"pgd_linf": [text, 0.3]}).pgd_linf == (number, 0.3)
    assert SelectionSettings.parse({"radius": text}).radius == number


@pytest.mark.parametrize(
    "values", [{"radius": True}, {"secant": {"steps": True}}, {"gradient": {"weight": False}}], ids=str
)
def test_a_switch_is_no_number(values: Nested) -> None:
    assert "a number is needed, not a switch" in message_of(values)


@pytest.mark.parametrize("text", ["8/0", "8/x", "/255", "1/2/3", "-8/255", "0/255", "8 255"])
def test_other_texts_are_no_radius(text: str) -> None:
    assert message_of({"radius": text}).startswith("run.yaml: 'radius': input should be ")
