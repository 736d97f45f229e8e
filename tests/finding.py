"""Looks up what the check-up found."""

from collections.abc import Sequence

from robust_student.doctor.findings import Finding


def levels_of(findings: Sequence[Finding], text: str) -> list[str]:
    """Levels of the findings that say `text`; every problem must come with a fix, and every finding be one line."""
    assert all(finding.fix for finding in findings if finding.level == "problem")
    assert all(len(f"{finding.text}{finding.fix}".splitlines()) == 1 for finding in findings)
    return [finding.level for finding in findings if text in finding.text]
