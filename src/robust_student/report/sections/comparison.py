"""Several evaluations side by side: what is compared, differences, accuracies, masking verdicts."""

from robust_student.report.document.blocks import Block, Findings, Paragraph, Section, Table, Text
from robust_student.report.document.words import NONE, accuracy, number
from robust_student.report.evidence.evaluation import Place
from robust_student.report.evidence.side_by_side import Comparison, Pair
from robust_student.report.sections.masking import HEAD, verdicts
from robust_student.report.sections.phrases import sample
from robust_student.results.comparison import p_text


def lead(c: Comparison) -> list[Block]:
    """How the evaluations are compared."""
    words = (
        f"{len(c.evaluations)} evaluations; every accuracy is of the {c.reference.split} split, in percent with its "
        "95 % Wilson interval. Models of the later evaluations are compared with the first one’s model of the same "
        "name, else with its baseline."
    )
    return [Paragraph(words)]


def compared(c: Comparison) -> Section:
    """The samples, and which settings differ."""
    findings = [sample(label, e) for label, e in c.evaluations.items()] + c.settings_in_words()
    return Section("compared", "What is compared", [Findings(findings)])


def differences(c: Comparison) -> Section:
    """Every pair in numbers, the main cells in words."""
    if not c.pairs:
        nothing = Paragraph("No cell was measured in both for models that belong together.")
        return Section("differences", "Differences", [nothing])
    findings = [f"{c.sentence(pair)}." for pair in c.pairs if pair.at in c.reference.main_places]
    caption = (
        f"Differences of accuracy on the {c.reference.split} split with 95 % intervals. Paired (the same examples): "
        "bootstrap interval, McNemar's exact test; unpaired: Newcombe's interval, Fisher's exact test. "
        f"Holm: corrected for all {len(c.pairs)} comparisons of this table."
    )
    head = ["Models", "Perturbation", "Points", "Evidence", "Larger than its uncertainty"]
    table = Table(caption, head, [_row(c, pair) for pair in c.pairs], "dense")
    return Section("differences", "Differences", [Findings(findings), table])


def _row(c: Comparison, pair: Pair) -> list[Text]:
    difference = pair.difference
    d, low, high = (number(100 * value, "+.1f") for value in difference.estimate)
    n = " and ".join(f"{count:,}" for count in difference.n)
    evidence = (
        f"{'paired' if difference.paired else 'unpaired'}, n = {n}; {difference.test} {p_text(difference.p or 0.0)}"
    )
    return [
        f"{pair.first[1]} ({pair.first[0]}) − {pair.second[1]} ({pair.second[0]})",
        c.reference.place(pair.at),
        f"{d} [{low}, {high}]",
        f"{evidence}; Holm {p_text(difference.adjusted_p or 0.0)}",
        "no evidence" if pair.doubts else "yes" if difference.distinguishable else "no",
    ]


def accuracies(c: Comparison) -> Section:
    """Every measured cell of every model of every evaluation."""
    columns = [(label, name) for label, e in c.evaluations.items() for name in e.names]
    places = dict.fromkeys(at for e in c.evaluations.values() for at in e.plan())
    rows = [[c.reference.place(at), *(_cell(c, *column, at) for column in columns)] for at in places]
    caption = f"Accuracy in percent on the {c.reference.split} split; columns: model (evaluation)."
    table = Table(caption, ["Perturbation", *(f"{name} ({label})" for label, name in columns)], rows, "dense")
    return Section("accuracy", "Accuracy", [table])


def _cell(c: Comparison, label: str, name: str, at: Place) -> Text:
    record = c.evaluations[label].get(name, "accuracy", *at)
    return NONE if record is None else accuracy(record, c.evaluations[label].mark(name, at))


def masking(c: Comparison) -> Section:
    """The masking verdicts of every evaluation."""
    rows = [row for label, e in c.evaluations.items() for row in verdicts(e, [label])]
    return Section(
        "masking", "Masking verdict", [Table("By evaluation and model.", ["Evaluation", *HEAD], rows, "dense")]
    )
