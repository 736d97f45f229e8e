"""FitNets hints with a regressor, the worked example of CONTRIBUTING.md, as tests can use it."""

from typing import Any

from pages import ROOT, blocks

from robust_student.objectives.settings import ObjectiveSettings

_names: dict[str, Any] = {"__name__": __name__}
(_block,) = [block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if "class FitNetsMethod" in block.code]
exec(compile("\n" * (_block.line - 1) + _block.code, str(ROOT / "CONTRIBUTING.md"), "exec"), _names)
FitNetsMethod: type[ObjectiveSettings] = _names["FitNetsMethod"]
"""L = L_KD + weight ||r(S_i(x)) - T_j(x)||^2 / 2 with a linear regressor r."""
