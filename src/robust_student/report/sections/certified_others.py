"""The smoothed classifier, agreement with the teacher, and where the certificates come from."""

from robust_student.report.document.blocks import Bold, Folded, Group, Paragraph, Section, Table, Text
from robust_student.report.document.words import accuracy, number, radius
from robust_student.report.evidence.certificates import CertificateRecord, Certificates
from robust_student.report.sections.certified_phrases import as_record, budget_column, heads_with_roles
from robust_student.report.sections.phrases import card, model, origin


def smoothed(c: Certificates) -> Section | None:
    """Certificates of randomized smoothing; None where it was not run."""
    by_model, settings = c.smoothed(), c.settings["smoothing"]
    if not by_model:
        return None
    sigma = "unknown" if settings["sigma"] is None else number(settings["sigma"], "g")
    sure = f"{number(100 * (1 - settings['alpha']), 'g')}\u00a0%"
    words = (
        Bold("Another classifier"),
        ", not the network: it answers what the network says most often under Gaussian noise of standard deviation "
        f"{sigma}. Its certificates hold for it alone, and each with confidence 1\u00a0−\u00a0α\u00a0=\u00a0{sure} "
        f"over its own {settings['samples']:,} noise draws; where the draws do not settle the class it abstains, which "
        "counts as wrong.",
    )
    caption = (
        "Randomized smoothing, L2: share of examples that the smoothed classifier decides rightly, on which it "
        "abstains, its median certified radius, and the share certified at each budget; each certificate holds with "
        f"probability {sure}. Intervals: 95\u00a0% Wilson and order statistics."
    )
    head = ["Smoothed", "Right", "Abstains", "Median certified radius"]
    head += [f"Certified, L2\u00a0{number(budget, 'g')}" for budget in c.budgets]
    rows = [
        [
            model(c, name),
            accuracy(as_record(right)),
            accuracy(as_record(abstains)),
            radius(c.get(name, "median_certified_smoothed_radius")),
            *(accuracy(c.share(name, "certified_smoothed_radius", budget)) for budget in c.budgets),
        ]
        for name, (right, abstains) in by_model.items()
    ]
    title = "The smoothed classifier"
    return Section(
        "smoothed", title, [Paragraph(words), Table(caption, head, rows, "stacked")], short="Smoothed classifier"
    )


def agreement(c: Certificates) -> Section:
    """On how many examples student and teacher decide alike within the budget."""
    title, short = "Agreement with the teacher", "Agreement"
    students = [name for name in c.names if name != c.teacher]
    if c.teacher not in c.styles or not students:
        has_teacher = c.teacher in c.styles
        why = "there is no student beside the teacher" if has_teacher else f"no model is called {c.teacher}"
        return Section("agreement", title, [Paragraph(f"Not measured: {why}.")], short=short)
    words = (
        *("On how many examples do student and ", Bold(c.teacher)),
        " decide alike under every perturbation within the budget? At least: both are certified to decide rightly "
        "there. At most: no perturbation that was tried made them differ (empirical).",
    )
    caption = (
        "Certified lower bound and empirical upper bound of agreement, with 95\u00a0% Wilson intervals. The lower "
        "bound cannot exceed the teacher’s own certified accuracy."
    )
    groups = []
    for budget in c.budgets:
        sides = [c.agreement(name, budget) for name in students]
        least: list[Text] = ["certified: at least", *(accuracy(as_record(side.certified)) for side in sides)]
        most: list[Text] = ["no difference found: at most", *(accuracy(as_record(side.attack)) for side in sides)]
        groups.append(Group(budget_column(c, budget), [least, most]))
    table = Table(caption, heads_with_roles(c, title.split()[0], students), [], "stacked", groups)
    return Section("agreement", title, [Paragraph(words), table], short=short)


def records(c: Certificates) -> Section:
    """Every record of the certification."""
    words = (
        "Certified figures are guarantees (lower bounds), attack figures upper bounds; estimated and sampled ones are "
        "neither."
    )
    head = ["Model", "Figure", "Kind", "Budget", "Value", "95\u00a0% interval", "n"]
    table = Table(f"Records of the {c.split} split.", head, [_record(row) for row in c.records])
    return Section("records", "Every figure", [Paragraph(words), Folded("Records", [table])])


def _record(row: CertificateRecord) -> list[Text]:
    ends = (row["value"], row["low"], row["high"])
    value, low, high = (None if end is None else number(end, ".4g") for end in ends)
    return [
        row["model"],
        row["metric"].replace("_", " "),
        "" if row["perturbation"] == "none" else row["perturbation"].replace("_", " "),
        "" if row["setting"] is None else number(row["setting"], "g"),
        value or "–",
        "" if low is None or high is None else f"[{low}, {high}]",
        f"{row['n']:,}",
    ]


def provenance(c: Certificates) -> Section:
    """Version, hardware, seed and settings of the certification and of each model's training."""
    words = "Where each number comes from. The same files give this very page again, byte for byte."
    models = [Folded(name, card(described)) for name, described in c.details["models"].items()]
    blocks = [Paragraph(words), Folded("Certification", origin(c.details["provenance"])), *models]
    return Section("certified-from", "Provenance of the certificates", blocks, short="Provenance")
