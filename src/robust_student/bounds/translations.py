"""What each operation of a traced network becomes: an affine, element-wise or maximum step, or a refusal."""

from robust_student.bounds.activations import ABSOLUTE, GELU, GELU_TANH, RELU, SIGMOID, SILU, TANH, Activation, Kinked
from robust_student.bounds.affine_translations import AFFINE_TRANSLATIONS, scaled
from robust_student.bounds.layers import Call, Steps, Traced, Translation
from robust_student.bounds.maximum_translations import MAXIMUM_TRANSLATIONS
from robust_student.bounds.operations import Elementwise


def _elementwise(function: Activation) -> Translation:
    return lambda steps, call: steps.add(Elementwise(function), [call.traced], call.shape())


def _leaky(steps: Steps, call: Call) -> Traced:
    slope = float(call.argument(1, "negative_slope", 0.01))
    return steps.add(Elementwise(Kinked(slope)), [call.traced], call.shape())


def _gelu(steps: Steps, call: Call) -> Traced:
    function = GELU_TANH if call.argument(1, "approximate", "none") == "tanh" else GELU
    return steps.add(Elementwise(function), [call.traced], call.shape())


def _clamped(steps: Steps, call: Call) -> Traced:
    """low + relu(x - low) - relu(x - high)."""
    low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
    above = [scaled(steps, call, call.traced, 1.0, -end) for end in (low, high)]
    parts = [steps.add(Elementwise(RELU), [part], call.shape()) for part in above]
    return steps.affine(call, lambda x, y: x - y + low, parts, lambda r, s: r + s)


TRANSLATIONS: dict[str, Translation] = {
    **AFFINE_TRANSLATIONS,
    **dict.fromkeys(("relu", "relu_"), _elementwise(RELU)),
    **dict.fromkeys(("leaky_relu", "leaky_relu_"), _leaky),
    **dict.fromkeys(("hardtanh", "hardtanh_"), _clamped),
    **dict.fromkeys(("abs",), _elementwise(ABSOLUTE)),
    **dict.fromkeys(("tanh", "tanh_"), _elementwise(TANH)),
    **dict.fromkeys(("sigmoid", "sigmoid_"), _elementwise(SIGMOID)),
    **dict.fromkeys(("silu", "silu_"), _elementwise(SILU)),
    **dict.fromkeys(("gelu",), _gelu),
    **MAXIMUM_TRANSLATIONS,
}
"""Operation name without overload -> how it becomes steps."""
