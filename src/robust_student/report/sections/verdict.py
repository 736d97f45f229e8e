"""The verdict: is the student more robust than the baseline, and what does that cost?"""

from collections.abc import Mapping
from typing import Any, Literal

from robust_student.report.document.blocks import Block, Bold, Paragraph, Section, Text, Tile, Tiles, Value
from robust_student.report.document.words import accuracy, compact, number, share
from robust_student.report.evidence.evaluation import Evidence, Place
from robust_student.report.sections.phrases import at_noise, gap, signed, worth

_CLEAN: Place = ("none", None)


def verdict(e: Evidence) -> Section:
    """One sentence on the best student against the baseline, and its figures at a glance."""
    compared = e.hero is not None and bool(e.others)
    sentence = (*_collapsed(e), *(_compared(e, str(e.hero)) if compared else _alone(e)))
    blocks: list[Block] = [Paragraph(sentence, anchor="sentence")]
    if compared:
        blocks.append(Tiles(_tiles(e, str(e.hero))))
    blocks += _balanced(e)
    return Section("verdict", "Verdict", [*blocks, _note(e)], summary=_look(e) if compared else "plain")


def _collapsed(e: Evidence) -> tuple[Text, ...]:
    """A sentence for each model that answers one class for everything, or no better than chance."""
    return tuple(part for name, words in e.collapsed.items() for part in (Bold(name), f": {words}. "))


def _balanced(e: Evidence) -> list[Block]:
    """Balanced accuracies of the models that are compared, where classes are unbalanced."""
    names = [str(e.hero), str(e.baseline)] if e.hero is not None and e.others else e.names
    confusions = {(name, at): e.confusion(name, at) for name in names for at in e.main_places}
    if not any(confusion is not None and confusion.unbalanced for confusion in confusions.values()):
        return []
    words: list[Text] = ["Classes are unbalanced. Balanced over them, accuracy is "]
    for name in names:
        figures = [
            (share(confusion.balanced_accuracy().value), f" {e.where(at)}", e.mark(name, at))
            for at in e.main_places
            if (confusion := confusions[name, at]) is not None and confusion.classes
        ]
        listed = [part for figure in figures for part in (", ", *figure)][1:]
        words += ["" if name == names[0] else "; ", "for ", Bold(name), " ", *listed]
    words.append("; one answer for everything would have ")
    classes = max(len(confusion.measures()) for confusion in confusions.values() if confusion is not None)
    return [Paragraph((*words, f"{number(100 / classes, '.1f')} %."), anchor="balanced")]


def _look(e: Evidence) -> Literal["plain", "warn", "fail"]:
    verdicts = [e.masking(str(name)) for name in (e.hero, e.baseline)]
    levels = {verdict["level"] for verdict in verdicts if verdict} | ({"FAIL"} if e.collapsed else set())
    return "fail" if "FAIL" in levels else "warn" if "WARN" in levels else "plain"


def _compared(e: Evidence, hero: str) -> tuple[Text, ...]:
    hero_verdict, baseline_verdict = e.masking(hero), e.masking(str(e.baseline))
    student = "the student " if e.teacher in e.styles else ""
    clean, noise = (
        _clause(e, hero, _CLEAN, "on clean inputs"),
        _clause(e, hero, ("gaussian_snr_db", e.level), at_noise(e)),
    )
    baseline = Bold(str(e.baseline))
    if hero_verdict and hero_verdict["level"] != "PASS":
        return (
            *("The masking verdict of ", student, Bold(hero), _size(e, hero), " is ", Bold(hero_verdict["level"])),
            f": its figures under attack are {worth(hero_verdict)} of robustness and nothing is claimed from them; "
            "compared with ",
            *(baseline, " on the same test examples it ", clean, " and ", noise, "."),
        )
    head = ("Compared with ", baseline, " on the same test examples, ", student, Bold(hero), _size(e, hero), " ", clean)
    if e.attack[1] is None:
        return (*head, " and ", noise, "; AutoAttack was not run, so nothing is claimed about attacks.")
    if e.doubted(hero, e.attack):
        level = baseline_verdict["level"] if baseline_verdict else "missing"
        why = ("; under attack the two are not compared, because the masking verdict of ", baseline, f" is {level}.")
        return (*head, " and ", noise, *why)
    attack = _clause(e, hero, e.attack, f"under {e.place(e.attack)}")
    hero_level = hero_verdict["level"] if hero_verdict else "missing"
    weaker: Text = ""
    if baseline_verdict and baseline_verdict["level"] != "PASS":
        but = f" is {baseline_verdict['level']}: it can only be weaker than measured, so the gain is not overstated)"
        weaker = (" (that of ", baseline, but)
    return (*head, ", ", noise, " and ", attack, f"; masking verdict {hero_level}", weaker, ".")


def _alone(e: Evidence) -> tuple[Text, ...]:
    has_baseline = e.baseline in e.styles
    why = "no student beside the baseline and the teacher" if has_baseline else "no baseline to compare with"
    models = [part for name in e.names for part in ("; ", *_one_model(e, name))]
    return (f"There is {why}. ", *models[1:], ".")


def _one_model(e: Evidence, name: str) -> tuple[Text, ...]:
    verdict, attacked = e.masking(name), e.get(name, "accuracy", *e.attack)
    words: tuple[Text, ...] = (Bold(name), _size(e, name), ": ", accuracy(e.get(name, "accuracy")), " on clean inputs")
    if e.level is not None:
        words += (", ", accuracy(e.get(name, "accuracy", "gaussian_snr_db", e.level)), f" {at_noise(e)}")
    if verdict and verdict["level"] != "PASS":
        doubt = f"figures that are {worth(verdict)} of robustness (masking verdict {verdict['level']})"
        return (*words, f", and attack {doubt}")
    if attacked:
        level = verdict["level"] if verdict else "missing"
        return (*words, ", ", accuracy(attacked), f" under {e.place(e.attack)} (masking verdict {level})")
    return (*words, "; AutoAttack was not run, so nothing is claimed about attacks")


def _clause(e: Evidence, name: str, at: Place, where: str) -> Text:
    """What the comparison with the baseline in a cell says, as it follows the model's name."""
    record = e.get(name, f"accuracy_minus_{e.baseline}", *at)
    if record is None or record["value"] is None:
        return f"was not compared {where}"
    n = f"n\u00a0=\u00a0{e.among(record['n'])}".replace(" ", "\u00a0")
    match e.outcome(name, at):
        case "better":
            return ("gains ", gap(record), f" {where} ({n})")
        case "worse":
            return (f"loses ground {where} (", gap(record), f", {n})")
        case "not shown":
            return (f"shows no difference larger than its uncertainty {where} (", gap(record), f", {n})")
    return ("differs by ", gap(record), f" {where}, without an interval")


def _size(e: Evidence, name: str) -> Text:
    """A model's parameters, and how many times fewer they are than the teacher's."""
    count, teacher_count = _parameters(e.get(name, "parameters")), _parameters(e.get(e.teacher, "parameters"))
    if not count:
        return ""
    fewer = ""
    if teacher_count and teacher_count > count:
        times = number(teacher_count / count, ".2g" if teacher_count < 10 * count else ".0f")
        fewer = f", {times}\u00d7 fewer than the teacher"
    return (" (", Value(count, compact(count)), " parameters", fewer, ")")


def _parameters(record: Mapping[str, Any] | None) -> float | None:
    return None if record is None else record["value"]


def _tiles(e: Evidence, hero: str) -> list[Tile]:
    places = [("Clean inputs", _CLEAN)]
    places += [(e.place(at), at) for at in (("gaussian_snr_db", e.level), e.attack) if at[1] is not None]
    tiles = []
    for title, at in places:
        records = [(name, e.get(name, "accuracy", *at)) for name in (hero, str(e.baseline))]
        if all(record for _, record in records):
            figures = [(name, accuracy(record)) for name, record in records]
            tiles.append(Tile(title, figures, signed(e, hero, at, "\u00a0points")))
    return tiles


def _note(e: Evidence) -> Paragraph:
    words = (
        "Accuracy under attack can only fall when a stronger attack is found: it bounds robustness from above and is "
        "not certified. Differences are in percentage points, on the same examples for both models, with 95\u00a0% "
        "bootstrap intervals. “Gains” and “loses ground” are said only where the interval excludes 0 and, if it was "
        "recorded, McNemar’s exact test after Holm’s correction over all comparisons has p ≤ 0.05. The intervals "
        "cover the choice of test examples, not the luck of training: one trained model of each kind was measured."
    )
    picked: Text = ""
    if len(e.students) > 1 and e.others:
        flattered = " students by these very test results, which flatters it a little."
        picked = (" ", Bold(str(e.hero)), f" was picked for this sentence out of {len(e.students)}{flattered}")
    return Paragraph((words, picked), "note")
