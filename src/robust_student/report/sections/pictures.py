"""Pictures of examples, with every model's answer to them; evaluations of images only have them."""

from collections.abc import Mapping, Sequence

from robust_student.report.document.blocks import (
    Block,
    Bold,
    Grid,
    Image,
    Mark,
    Paragraph,
    Pictures,
    Section,
    Small,
    Table,
    Text,
)
from robust_student.report.document.words import number, who
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.evidence.schema import Attacked, Example, Prediction

_ANSWERS = (Mark("right", "✓ right"), ", ", Mark("wrong", "✗ wrong"))


def worst(e: Evidence) -> Section | None:
    """The attacked examples on which a model was surest; None where there are no pictures."""
    if not e.attacked:
        return None
    words = (
        f"Of every model, the {e.split} examples that PGD broke although the model was surest of the right answer: "
        "chosen by result, to show the failures. The change is magnified around grey. The point was made against the "
        "model named; the others see it too. ",
        *(*_ANSWERS, ", with the model’s own confidence."),
    )
    blocks: list[Block] = [_attacked(e, example) for example in e.attacked]
    return Section("worst", "Worst attacked examples", [Paragraph(words), Grid(blocks)], short="Worst examples")


def examples(e: Evidence) -> Section | None:
    """The first examples under growing noise; None where there are no pictures."""
    if not e.gallery:
        return None
    words = (
        f"The first examples of the {e.split} sample, not chosen by result. ",
        *(*_ANSWERS, ", with the model’s own confidence in its answer."),
    )
    blocks: list[Block] = [_growing(e, example) for example in e.gallery]
    return Section("examples", "Examples under growing noise", [Paragraph(words), Grid(blocks)], short="Examples")


def _attacked(e: Evidence, example: Attacked) -> Pictures:
    truth, attack = e.class_name(example["label"]), example["attack"]
    where = e.place((attack["perturbation"], attack["setting"]))
    caption = (
        f"Example {example['index']} of the {e.split} split; {where} against ",
        Bold(attack["model"]),
        f"; change magnified {number(attack['magnified'], '.3g')}×",
    )
    original, perturbed = example["original"], example["perturbed"]
    pictures = {"original": original["png"], "perturbed": perturbed["png"], "change": example["change"]["png"]}
    answers = [original["predictions"], perturbed["predictions"], None]
    return _pictures(e, f"Against {attack['model']}: {truth}", caption, "Model", example["label"], pictures, answers)


def _growing(e: Evidence, example: Example) -> Pictures:
    levels = [
        "clean" if level["snr_db"] is None else f"{number(level['snr_db'], 'g')}\u00a0dB" for level in example["levels"]
    ]
    pictures = dict(zip(levels, (level["png"] for level in example["levels"]), strict=True))
    answers = [level["predictions"] for level in example["levels"]]
    title = f"True class: {e.class_name(example['label'])}"
    caption = f"Example {example['index']} of the {e.split} split"
    return _pictures(e, title, caption, "SNR", example["label"], pictures, answers)


def _pictures(
    e: Evidence,
    title: str,
    caption: Text,
    first: str,
    label: int,
    pictures: Mapping[str, str],
    answers: Sequence[Mapping[str, Prediction] | None],
) -> Pictures:
    """Pictures by title, and below them every model's answer; None where nobody was asked."""
    truth = e.class_name(label)
    rows: list[list[Text]] = [["", *(Image(png, f"{truth}, {name}") for name, png in pictures.items())]]
    for name in e.names:
        rows.append(
            [
                who(name),
                *("" if predictions is None else _answer(e, predictions.get(name), label) for predictions in answers),
            ]
        )
    return Pictures(title, Table(caption, [first, *pictures], rows, "pictures"))


def _answer(e: Evidence, prediction: Prediction | None, label: int) -> Text:
    if prediction is None:
        return "–"
    right = prediction["prediction"] == label
    mark = Mark("right" if right else "wrong", f"{'✓' if right else '✗'}\u00a0{e.class_name(prediction['prediction'])}")
    sure = prediction["confidence"]
    return mark if sure is None else (mark, " ", Small([f"{number(100 * sure, '.0f')}\u00a0%"]))
