"""What is proved, in one sentence and one table, and what a certificate means."""

from typing import Literal

from robust_student.report.document.blocks import Block, Bold, Facts, Paragraph, Section, Swatch, Table, Text
from robust_student.report.document.words import accuracy, norm, number
from robust_student.report.evidence.certificates import Certificates
from robust_student.report.sections.certified_phrases import as_record, between, budget_column, budgets
from robust_student.report.sections.phrases import model


def summary(c: Certificates) -> Section:
    """The best model's certified share, every model between its bounds, and whether any bound is on the wrong side."""
    broken = sum(int(count["value"] or 0) for count in c.violations.values())
    picked: Text = ""
    if len(c.names) > 1 and c.best:
        picked = (" ", Bold(c.best), " was picked for the sentence above by these very results.")
    luck = (
        "The intervals cover the choice of test examples, not the luck of training: one trained model of each kind was "
        "measured."
    )
    blocks = [
        Paragraph(_proved(c), anchor="proved"),
        _table(c),
        _violations(c, broken),
        Paragraph((luck, picked), "note"),
    ]
    look: Literal["plain", "fail"] = "fail" if broken else "plain"
    return Section("certificates", "Certificates: summary", blocks, short="Certificates", summary=look)


def _proved(c: Certificates) -> Text:
    if c.best is None:
        where = "the budget" if len(c.budgets) == 1 else "any of the budgets"
        return (
            f"No example of any model is certified at {where} {budgets(c)} ({norm(c.norm)}): nothing is guaranteed "
            "there, whatever attacks did not find."
        )
    held = {budget: c.between(c.best, "decision", budget) for budget in c.budgets}
    most = max(budget for budget, sides in held.items() if sides.certified and sides.certified.value > 0)
    more = ", and no model here has more" if len(c.names) > 1 else ""
    attacked: Text = ""
    if held[most].attack:
        left = accuracy(as_record(held[most].attack))
        attacked = (" Attacks broke all but ", left, ": the share that truly stands lies between the two.")
    return (
        f"It is proved that no perturbation of {norm(c.norm)} size up to {number(most, 'g')} changes the right "
        "decision of ",
        *(Bold(c.best), " on ", accuracy(as_record(held[most].certified)), f" of the examples{more}.", attacked),
    )


def _table(c: Certificates) -> Table:
    caption = (
        "Accuracy under any perturbation within the budget: from the certified share (proved) to the share that "
        "attacks did not break (upper bound), both on the same examples. In brackets: from the lower end of the "
        "first one’s 95\u00a0% Wilson interval to the upper end of the second one’s."
    )
    rows = [
        [
            model(c, name),
            accuracy(c.get(name, "accuracy")),
            *(between(c.between(name, "decision", budget)) for budget in c.budgets),
        ]
        for name in c.names
    ]
    return Table(caption, ["Model", "Clean", *(budget_column(c, budget) for budget in c.budgets)], rows, "stacked")


def _violations(c: Certificates, broken: int) -> Paragraph:
    checked = sum(violations["n"] for violations in c.violations.values())
    if broken:
        count = Bold(f"✕ {broken} sandwich {'violation' if broken == 1 else 'violations'}")
        words = (
            f" in {checked:,} comparisons: an attack found a perturbation smaller than a certified radius. One of the "
            "two is wrong, so no certificate on this page may be believed until it is explained."
        )
        return Paragraph((count, words), "fail")
    if checked:
        words = f" in {checked:,} comparisons: no attack found a perturbation smaller than a certified radius."
        return Paragraph(("✓ ", Bold("0 sandwich violations"), words), anchor="violations")
    words = "Certificates and attacks were not run on the same examples, so neither was checked by the other."
    return Paragraph(words, anchor="violations")


def guarantee(c: Certificates) -> Section:
    """What each kind of radius means."""
    attacks = " or ".join(c.settings["attacks"]) or "no attack"
    terms: list[tuple[Text, Text]] = [
        (
            (Swatch("certified"), " certified (guarantee)"),
            f"A certified radius r of an example means: no change of the input of {norm(c.norm)} size up to r that "
            "stays in the input range alters the outcome, whoever looks for it. It holds for the network as saved "
            "and for this very example; the bounds are computed in floating point with a margin for the network’s "
            "rounding. The true radius is at least r, often far more: a certified radius of 0 means that nothing was "
            "proved, not that the example is weak.",
        ),
        (
            (Swatch("attack"), " attack (upper bound)"),
            f"The smallest perturbation that {attacks} found, confirmed on the network itself. The true radius is at "
            "most this. A stronger attack can only lower it.",
        ),
        (
            (Swatch("sampled"), " sampled, ", Swatch("estimated"), " estimated (not guarantees)"),
            f"The same formula with the slope at {c.settings['sampled_points']} points of the ball, or at x alone, in "
            "place of a bound over the whole ball. Neither is a bound of the truth on any side.",
        ),
        (
            (Swatch("band"), " between"),
            "The true radius lies between the certified one and the attack’s. How wide the band is says how much is "
            "not known.",
        ),
    ]
    sample = c.details["sample"]
    note = (
        f"{sample['examples']:,} of the {sample['test']:,} {c.split} examples, a stratified random sample; "
        f"{sample['linear']:,} of these for the slow methods (linear bounds, sampled radii, attacks, agreement). "
        f"Certified radii are found to within {number(100 * c.settings['tolerance'], 'g')}\u00a0% of themselves, from "
        "below."
    )
    blocks: list[Block] = [Facts(terms, "terms"), Paragraph(note, "note")]
    return Section("guarantee", "What is guaranteed, and what is not", blocks, short="What is guaranteed")
