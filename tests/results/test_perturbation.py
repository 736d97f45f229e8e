"""The text in rows and records, and what it means."""

import pytest

from robust_student.results.perturbation import CLEAN, NORMS, Perturbation

MEANT = {
    "none": CLEAN,
    "gaussian_snr_db": Perturbation("noise", "gaussian"),
    "uniform_snr_db": Perturbation("noise", "uniform"),
    "corruption_gaussian_noise": Perturbation("corruption", "gaussian_noise"),
    "corruptions": Perturbation("other", "corruptions"),
    "pgd_linf": Perturbation.attack("pgd", "linf"),
    "autoattack_l2": Perturbation.attack("autoattack", "l2"),
    "apgd-ce_l1": Perturbation.attack("apgd-ce", "l1"),
    "masking_cross_entropy": Perturbation("masking", "cross_entropy"),
    "agreement_linf": Perturbation("agreement", norm="linf"),
    "estimated_decision_radius_linf": Perturbation.radius("estimated", "decision", "linf"),
    "certified_interval_confidence_radius_l2": Perturbation.radius("certified_interval", "confidence", "l2"),
    "certified_decision_radius": Perturbation.radius("certified", "decision"),
    "certified_smoothed_radius_l2": Perturbation("radius", "certified_smoothed", "l2"),
    "something else": Perturbation("other", "something else"),
}


@pytest.mark.parametrize("text", MEANT)
def test_a_perturbation_is_its_text_and_back(text: str) -> None:
    assert Perturbation.parse(text) == MEANT[text]
    assert str(MEANT[text]) == text


def test_every_attack_needs_a_verdict_whatever_its_name_and_nothing_else_does() -> None:
    for norm in NORMS:
        for name in ("pgd", "autoattack", "square", "apgd-t", "brand_new"):
            assert Perturbation.parse(f"{name}_{norm}").is_attack
    assert [text for text, meant in MEANT.items() if meant.is_attack] == ["pgd_linf", "autoattack_l2", "apgd-ce_l1"]


@pytest.mark.parametrize(
    ("text", "unit", "title"),
    [
        ("none", None, "Clean"),
        ("gaussian_snr_db", "dB", "Noise"),
        ("impulse_snr_db", "dB", "impulse_snr_db"),
        ("corruption_motion_blur", "severity", "motion blur"),
        ("pgd_l2", "l2", "PGD"),
        ("autoattack_l1", "l1", "AutoAttack"),
        ("square_linf", "linf", "square"),
        ("estimated_decision_radius_l2", None, "estimated_decision_radius_l2"),
    ],
)
def test_its_unit_and_its_name_for_people(text: str, unit: str | None, title: str) -> None:
    assert (Perturbation.parse(text).unit, Perturbation.parse(text).title) == (unit, title)
