"""What every page of the report shares: checked reading of saved files, the templates, numbers for people."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from robust_student.report.figures import BAND, NORMS, SIDES
from robust_student.results.comparison import p_text


def render(template: str, **content: Any) -> str:
    """The page that a template of this package makes; every value is escaped."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "heat": heat, "p_text": p_text}
    environment.globals |= {"norms": NORMS, "looks": SIDES | {"band": BAND}}
    return environment.get_template(template).render(**content)


def number(value: float, form: str = ".3g") -> str:
    """A number for people, with a true minus sign; zero has no sign."""
    text = f"{value:{form}}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def place(perturbation: str, setting: float | None, suite: str | None = None) -> str:
    """The name of a perturbation at a setting for people; `suite` is AutoAttack's."""
    value = "" if setting is None else number(setting, "g")
    head, _, rest = perturbation.partition("_")
    if perturbation == "none":
        return "Clean"
    if perturbation == "gaussian_snr_db":
        return f"Noise, {value}\u00a0dB" if value else "Noise"
    if head == "pgd":
        return f"PGD, {NORMS.get(rest, rest)}\u00a0{value}"
    if head == "autoattack":
        return f"AutoAttack{f' ({suite})' if suite else ''}, {NORMS.get(rest, rest)}\u00a0{value}"
    if head == "corruption":
        return f"{rest.replace('_', ' ')}, severity\u00a0{value}"
    return f"{perturbation} {value}".strip()


def percent(record: Mapping[str, Any] | None) -> str:
    """An accuracy with its interval in percent, as text: "80.5 [74.5, 85.4]"."""
    if record is None or record["value"] is None:
        return "\u2013"
    text = number(100 * record["value"], ".1f")
    if record["low"] is None or record["high"] is None:
        return text
    return f"{text} [{number(100 * record['low'], '.1f')}, {number(100 * record['high'], '.1f')}]"


def heat(share: float) -> str:
    """Colours of a heat map's cell as CSS: white for 0, dark blue for 1, and text that stays readable on it."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(255 + share * (end - 255)) for end in (0, 78, 140))
    return f"background:rgb({red},{green},{blue});color:{'#fff' if share > 0.7 else '#1b1f24'}"


def _source(name: str) -> str:
    return resources.files("robust_student.report").joinpath("templates", name).read_text(encoding="utf-8")
