"""The models that `evaluate` and `certify` are asked to measure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robust_student.cli.arguments import named
from robust_student.core.errors import UserError
from robust_student.models.settings import PreprocessingSettings


def open_models(
    command: str,
    models: Sequence[str],
    data: str,
    output: Path,
    *,
    image_size: int | tuple[int, int] | None,
    group: str | None,
    teaching: PreprocessingSettings,
    trust: bool,
) -> tuple[dict[str, Any], Any]:
    """The models that `command` is given as [NAME=]SPEC, and the data; its output must lie outside them."""
    from robust_student.data.readers.load import load_data, require_outside
    from robust_student.models.hub import CARD
    from robust_student.models.open_model import expected_group, expected_shape, open_model

    if not models:
        raise UserError(f"{command}: name at least one run directory")
    specs: dict[str, str] = {}
    for text in models:
        label, spec = named(text)
        if not spec:
            raise UserError(f"{command}: '{text}' names no directory; write NAME=DIR")
        if label in specs:
            raise UserError(f"{command}: two models are called '{label}'; name them as NAME=DIR")
        specs[label] = spec
    require_outside(output, data)
    run = next((folder for folder in (output, *output.parents) if (folder / CARD).is_file()), None)
    if run is not None:
        raise UserError(f"output {output}: lies in the run of a model, {run}; choose a place outside it")
    shape = expected_shape(list(specs.values())) if image_size is None else None
    group = expected_group(list(specs.values())) if group is None else group
    examples = load_data(data, shape=shape, image_size=image_size, group=group)
    if "teacher" not in specs and teaching != PreprocessingSettings():
        raise UserError(
            f"{command}: --teacher-... flags are for the model named teacher, and no model is; name it teacher=SPEC"
        )
    settings = {"teacher": teaching}
    opened = {
        label: open_model(spec, examples, settings.get(label), trust=trust, role=f"model {label}")
        for label, spec in specs.items()
    }
    return opened, examples
