"""The operators that a graph may hold, each with the rule that says how large its outputs are.

An operator that is not in the table is refused: nothing is known of the memory that it takes. One row adds one.
"""

from __future__ import annotations

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.onnx_safety import elementwise, reshaping, spatial
from xaimoe_runtime.onnx_safety.elementwise import Rule

SAME = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh CumSum Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Hardmax LeakyRelu Log LogSoftmax LpNormalization LRN Mish Neg Not Reciprocal Relu Round ScatterElements "
    "ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Trilu"
).split()
"""Whose output is as large as their first input."""
BROADCAST = "And BitwiseAnd BitwiseOr BitwiseXor BitShift Max Mean Min Or PRelu Pow Sum Xor".split()
"""Whose inputs are broadcast to one shape."""
ARITHMETIC = "Add Div Mod Mul Sub".split()
COMPARED = "Equal Greater GreaterOrEqual Less LessOrEqual".split()
REDUCED = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
).split()
NORMALISED = (
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization MeanVarianceNormalization"
).split()

OPERATORS: dict[str, Rule] = {
    **dict.fromkeys(SAME, elementwise.same),
    **dict.fromkeys(BROADCAST, elementwise.broadcast),
    **dict.fromkeys(ARITHMETIC, elementwise.arithmetic),
    **dict.fromkeys(COMPARED, elementwise.compared),
    **dict.fromkeys(REDUCED, elementwise.reduced),
    **dict.fromkeys(NORMALISED, elementwise.normalised),
    "ArgMax": elementwise.best,
    "ArgMin": elementwise.best,
    "AveragePool": spatial.pooled,
    "Cast": elementwise.cast,
    "CastLike": elementwise.cast_like,
    "Compress": reshaping.compressed,
    "Concat": reshaping.joined,
    "Constant": reshaping.constant,
    "ConstantOfShape": reshaping.filled,
    "Conv": spatial.convolution,
    "ConvInteger": spatial.convolution,
    "ConvTranspose": spatial.transposed_convolution,
    "DepthToSpace": spatial.depth_to_space,
    "DequantizeLinear": elementwise.dequantised,
    "Dropout": elementwise.dropout,
    "DynamicQuantizeLinear": elementwise.dynamically_quantised,
    "Einsum": elementwise.einsum,
    "Expand": reshaping.expanded,
    "EyeLike": reshaping.eye,
    "Flatten": reshaping.flattened,
    "Gather": reshaping.gathered,
    "GatherElements": reshaping.gathered_elements,
    "GatherND": reshaping.gathered_rows,
    "Gemm": elementwise.gemm,
    "GlobalAveragePool": spatial.globally_pooled,
    "GlobalMaxPool": spatial.globally_pooled,
    "Identity": elementwise.identity,
    "IsInf": elementwise.tested,
    "IsNaN": elementwise.tested,
    "LpPool": spatial.pooled,
    "MatMul": elementwise.matmul,
    "MatMulInteger": elementwise.matmul,
    "MaxPool": spatial.pooled,
    "NonZero": reshaping.found,
    "OneHot": reshaping.one_hot,
    "Pad": reshaping.padded,
    "QuantizeLinear": elementwise.quantised,
    "Range": reshaping.counted,
    "Reshape": reshaping.reshaped,
    "Resize": spatial.resized,
    "Shape": reshaping.shape_of,
    "Size": reshaping.size_of,
    "Slice": reshaping.sliced,
    "SpaceToDepth": spatial.space_to_depth,
    "Split": reshaping.split,
    "Squeeze": reshaping.squeezed,
    "Tile": reshaping.tiled,
    "TopK": elementwise.top,
    "Transpose": reshaping.transposed,
    "Unsqueeze": reshaping.unsqueezed,
    "Where": elementwise.chosen,
}
"""By name in the standard domain."""
ADDED: dict[str, Rule | str] = {}
"""Rows that this process has added, as they were given."""


def register_operator(name: str, rule: Rule | str) -> None:
    """Allow one more standard operator in the graphs that this process exports and loads.

    A bundle cannot do that: whoever runs it decides. For a spectrogram backend of one's own, call it where the backend
    is registered, and in the program that loads the bundle.

    Args:
        name: of the operator, as in ``"Softplus"``.
        rule: what is known of the outputs, given a :class:`~xaimoe_runtime.onnx_safety.call.Call`; or the name of an
            operator whose rule holds here, too, as in ``"Relu"``.

    Raises:
        ConfigError: the operator is in the table already, or the one that it is to be like is not.

    Example:
        >>> register_operator("Swish", "Relu")  # as large as its input
    """
    if name in OPERATORS:
        raise ConfigError(f"operator {name!r} is in the table already")
    if isinstance(rule, str) and rule not in OPERATORS:
        raise ConfigError(f"operator {name!r}: found no rule of {rule!r}, expected an operator of the table")
    ADDED[name] = rule
    OPERATORS[name] = OPERATORS[rule] if isinstance(rule, str) else rule
