"""Complaints offer the nearest choice."""

from robust_student.core.errors import nearest


def test_nearest_offers_the_closest_choice_or_all_of_them() -> None:
    assert nearest("secnat", ["secant", "kd"]) == "; did you mean 'secant'?"
    assert nearest("zzz", ["secant", "kd"]) == "; choose from kd, secant"
