"""Where each number comes from."""

from robust_student.report.document.blocks import Folded, Paragraph, Section
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.sections.phrases import card, origin


def provenance(e: Evidence) -> Section:
    """Version, hardware, seed and settings of the evaluation and of each model's training."""
    words = "Where each number comes from. The same files give this very page again, byte for byte."
    evaluation = Folded("Evaluation", origin(e.details["provenance"]), unfolded=True)
    models = [Folded(name, card(described)) for name, described in e.details["models"].items()]
    return Section("provenance", "Provenance", [Paragraph(words), evaluation, *models])
