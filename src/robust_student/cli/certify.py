"""The command `certify`."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from robust_student.cli import terminal
from robust_student.cli.arguments import Config, Flat
from robust_student.cli.measure import Measure
from robust_student.evaluation.settings import CertificationSettings


class Certify(Measure):
    """Bound the perturbation that each example survives, from below (certified) and from above (attacks).

    Bound B and agreement refer to the model named teacher.
    """

    name: ClassVar[str] = "certify"
    settings_field: ClassVar[str] = "certification"
    certification: Annotated[CertificationSettings, Flat] = CertificationSettings()
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    @property
    def function(self) -> Callable[..., Any]:
        """`certify` of the Python interface."""
        from robust_student.evaluation.certify import certify

        return certify

    def show(self, result: Any) -> None:
        """Print accuracy by budget and median radii."""
        terminal.show_radii(result, self.output / "summary.json")
