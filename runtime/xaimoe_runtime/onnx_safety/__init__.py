"""Graphs from outside, checked before ONNX Runtime is given anything.

``wire`` and ``onnx_schema`` read and write the file, ``graph`` refuses what no graph of a bundle may hold, ``bounds``
and ``operators`` refuse what takes too much memory or time, ``trial`` loads a bundle in a child process first.
"""

from xaimoe_runtime.onnx_safety.operators import OPERATORS, register_operator

__all__ = ["OPERATORS", "register_operator"]
