"""From PyTorch modules to a bundle of ONNX graphs that proves itself on the device.

The exporter takes five roles of modules and a description; it knows nothing of how they were trained.
"""

from xaimoe_runtime.user_name import ensure_user_name

ensure_user_name()  # before the first import of PyTorch

from xaimoe_export.bundle import export_bundle, steps
from xaimoe_export.draft import BundleDescription
from xaimoe_export.graphs import GraphModule
from xaimoe_export.options import ExportOptions
from xaimoe_export.plan import PrecisionPlan
from xaimoe_export.possible import check_possible
from xaimoe_export.recordings import Recordings
from xaimoe_export.report import ExportReport

__all__ = [
    "BundleDescription",
    "ExportOptions",
    "ExportReport",
    "GraphModule",
    "PrecisionPlan",
    "Recordings",
    "check_possible",
    "export_bundle",
    "steps",
]
