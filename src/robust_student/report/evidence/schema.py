"""The form of the files that `evaluate` writes, as pydantic checks it when they are read (docs/results-format.md)."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, FiniteFloat
from typing_extensions import TypedDict

from robust_student.results.masking import Level
from robust_student.results.records import SUMMARY_SCHEMA

Number = FiniteFloat | None


class Masking(TypedDict):
    """A masking verdict; beside these, the figures it rests on, by name."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    level: Level
    reasons: list[str]


class PlainRecord(TypedDict):
    """What every summary record holds."""

    schema: Annotated[int, Field(ge=1, le=SUMMARY_SCHEMA)]
    model: str
    split: str
    perturbation: str
    setting: Number
    metric: str
    value: Number
    low: Number
    high: Number
    n: int
    unit: NotRequired[str | None]
    interval: NotRequired[str | None]
    seed: NotRequired[int]


class EvaluationRecord(PlainRecord):
    """One summary record of an evaluation."""

    verdict: Masking | None


class Epoch(TypedDict):
    """One epoch of a training."""

    epoch: int
    terms: dict[str, Number]
    validation: dict[str, Number]


class Try(TypedDict):
    """One candidate of a search."""

    radius: Number
    weight: Number
    validation: dict[str, Number]
    accepted: bool


class Search(TypedDict):
    """A search for radius and weight."""

    max_accuracy_drop: FiniteFloat
    baseline: dict[str, Number] | None
    tries: list[Try]
    chosen: int | None


class Described(TypedDict):
    """What a model's run recorded about it."""

    card: dict[Literal["input_range"] | str, Any]
    history: list[Epoch]
    search: Search | None
    best_epoch: NotRequired[int]


class Fingerprint(TypedDict):
    """What tells one measurement from another: weights by model, the test set, and more."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    models: dict[str, str]
    test: str


class CommonDetails(TypedDict):
    """What evaluation.json and certification.json both hold."""

    provenance: dict[str, Any]
    baseline: str | None


class Threat(TypedDict):
    """What was attacked with, and why."""

    norm: str
    radius: FiniteFloat
    words: str


class Sample(TypedDict):
    """How many test examples there are, and how many were measured."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    test: int
    examples: int
    attacked: int


class Details(TypedDict):
    """evaluation.json, with whatever else is in it."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    provenance: dict[str, Any]
    baseline: str | None
    autoattack_suite: str | None
    sample: Sample
    threat: NotRequired[Threat]
    classes: list[str]
    skipped_certified: NotRequired[dict[str, int] | None]
    fingerprint: NotRequired[Fingerprint]
    models: Annotated[dict[str, Described], Field(min_length=1)]


class Prediction(TypedDict):
    """A model's answer to one picture."""

    prediction: int
    confidence: Number


class NoiseLevel(TypedDict):
    """One example at one noise level."""

    snr_db: Number
    png: str
    predictions: dict[str, Prediction]


class Example(TypedDict):
    """One example of the gallery under growing noise."""

    index: int
    label: int
    levels: list[NoiseLevel]


class Picture(TypedDict):
    """A picture, with every model's answer to it."""

    png: str
    predictions: dict[str, Prediction]


class Change(TypedDict):
    """What an attack added, as a picture; grey is no change."""

    png: str


class GalleryAttack(TypedDict):
    """The attack of a worst example."""

    model: str
    perturbation: str
    setting: FiniteFloat
    magnified: FiniteFloat


class Attacked(TypedDict):
    """One worst example: before, after, and the change magnified."""

    index: int
    label: int
    attack: GalleryAttack
    original: Picture
    perturbed: Picture
    change: Change
