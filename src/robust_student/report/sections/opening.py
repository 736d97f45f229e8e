"""How a report begins: what was measured, and which figures are in doubt."""

from robust_student.report.document.blocks import Block, Bold, Paragraph
from robust_student.report.document.words import badge
from robust_student.report.evidence.certificates import Certificates
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.sections.phrases import WORTHLESS, worth


def evaluation(e: Evidence) -> list[Block]:
    """First each model that answers one class for everything; what was measured; each masking verdict but PASS."""
    sample, count = e.details["sample"], len(e.names)
    seed = e.details["provenance"].get("seed", "unknown")
    question = "does the small student" if e.teacher in e.styles else "does a model"
    words = (
        f"{count} {'model was' if count == 1 else 'models were'} measured on {sample['examples']:,} of the "
        f"{sample['test']:,} {e.split} examples of ",
        Bold(e.data),
        f" ({len(e.details['classes'])} classes): clean and under Gaussian noise on all of these, under attack on "
        f"{sample['attacked']:,} of them, evaluation seed {seed}. The question: {question} stay right when its inputs "
        "are disturbed, and what does that cost on clean inputs?",
    )
    return [*(_collapsed(e, name) for name in e.collapsed), Paragraph(words), *(_alarm(e, name) for name in e.alarms)]


def _collapsed(e: Evidence, name: str) -> Paragraph:
    return Paragraph((Bold(name), f": {e.collapsed[name]}. {WORTHLESS}"), "fail")


def _alarm(e: Evidence, name: str) -> Paragraph:
    verdict = e.masking(name)
    assert verdict is not None
    reasons = "; ".join(verdict["reasons"]) or "no reason recorded"
    words = f": {reasons}. Its accuracies under attack are {worth(verdict)} of resistance to attacks."
    return Paragraph((badge(verdict), " ", Bold(name), words), "fail" if verdict["level"] == "FAIL" else "warn")


def certificates(c: Certificates) -> list[Block]:
    """The question that certificates answer."""
    count = len(c.names)
    return [
        Paragraph(
            f"How large a perturbation does each example survive? For {count} {'model' if count == 1 else 'models'} "
            "this page answers from both sides: what is proved, and what attacks found."
        )
    ]
