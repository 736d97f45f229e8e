"""Accuracy under Gaussian noise, and what the noise was after clipping."""

from functools import partial

from robust_student.report.document.blocks import Figure, Grid, Paragraph, Section, Table, Text, Value
from robust_student.report.document.figures import noise_figure
from robust_student.report.document.words import NONE, number
from robust_student.report.evidence.evaluation import Evidence, Place
from robust_student.report.sections.phrases import WILSON


def noise(e: Evidence) -> Section:
    """The curve over SNR beside the SNR that the models really saw."""
    title = "Accuracy under noise"
    if e.level is None:
        return Section("noise", title, [Paragraph("Noise was not measured.")], short="Noise")
    words = (
        "Gaussian noise is added to each input at a given signal-to-noise ratio (SNR): at 0\u00a0dB the noise is as "
        "strong as the signal, and noisier is to the right."
    )
    if e.range_width < 1e300:
        words += (
            " Values are then clipped to the valid range, which changes the SNR that the models really see: it is in "
            "the table."
        )
    note = (
        f"n\u00a0=\u00a0{e.counts(('gaussian_snr_db', e.level))} {e.split} examples, the same noise for every model. "
        f"{WILSON}. Empirical: what happened on these examples under this noise, not certified."
    )
    blocks = [Paragraph(words), Grid([noise_level_figure(e), _realised(e)]), Paragraph(note, "note")]
    return Section("noise", title, blocks, short="Noise")


def noise_level_figure(e: Evidence) -> Figure:
    """Accuracy over SNR."""
    words = (
        f"Accuracy against signal-to-noise ratio, a line for each of {', '.join(e.names)}; the numbers are in the "
        "table of all accuracies."
    )
    draw = partial(noise_figure, e.records, e.styles, "noise")
    return Figure("Accuracy under Gaussian noise", draw, words, e.styles)


def _realised(e: Evidence) -> Table:
    """The SNR after clipping; the noise is the same for every model, so the first one stands for all."""
    rows: list[list[Text]] = []
    for at in e.plan("noise", "gaussian"):
        level = f"{number(at[1] or 0.0, 'g')}\u00a0dB"
        rows.append([level, *_first(e, at)])
    caption = "SNR after clipping, mean over the examples; an all-zero input has no SNR and is excluded."
    return Table(caption, ["SNR asked for", "Realised", "Excluded"], rows)


def _first(e: Evidence, at: Place) -> tuple[Text, Text]:
    realised, excluded = (e.get(e.names[0], metric, *at) for metric in ("mean_realised_snr_db", "excluded_examples"))
    snr = None if realised is None else realised["value"]
    count = None if excluded is None else excluded["value"]
    return (
        NONE if snr is None else (Value(snr, number(snr, ".1f")), "\u00a0dB"),
        NONE if count is None else Value(count, number(count, "g")),
    )
