"""The command `evaluate`."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from robust_student.cli import terminal
from robust_student.cli.arguments import Config, Flat, merged
from robust_student.cli.measure import Measure
from robust_student.core.errors import UserError, nearest, short
from robust_student.evaluation.settings import SUITES, EvaluationSettings, Suite


class Evaluate(Measure):
    """Measure models on the same test examples: noise, attacks, masking verdict, estimated radii, size, speed."""

    name: ClassVar[str] = "evaluate"
    settings_field: ClassVar[str] = "evaluation"
    starting_point: ClassVar[str] = "suite"
    suite: Suite = "default"
    """Starting point for the settings below: quick (1,000 examples, 200 attacked), default, full (AutoAttack standard
    on 1,000, PGD at every budget, masking checks on 200, and the fifteen corruptions on 2,000)."""
    evaluation: Annotated[EvaluationSettings, Flat] = EvaluationSettings()
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The settings start from the suite that a flag or the file names."""
        suite, evaluation = values.get("suite", "default"), values.get("evaluation") or {}
        if suite not in list(SUITES):  # it may be anything, as a YAML file says
            raise UserError(
                f"evaluate: unknown suite {short(suite)}"
                + nearest(suite if isinstance(suite, str) else "", list(SUITES))
            )
        if isinstance(evaluation, dict):
            return values | {"evaluation": merged(SUITES[suite].model_dump(), evaluation), "suite": suite}
        return values

    @property
    def function(self) -> Callable[..., Any]:
        """`evaluate` of the Python interface."""
        from robust_student.evaluation.evaluate import evaluate

        return evaluate

    def show(self, result: Any) -> None:
        """Print the headline figures."""
        terminal.show(result, self.output / "summary.json")
