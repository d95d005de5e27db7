"""From PyTorch modules to a bundle of ONNX graphs that proves itself on the device.

The exporter takes five roles of modules and a description; it knows nothing of how they were trained.
"""

from xaimoe_export.bundle import BundleDescription, ExportReport, export_bundle
from xaimoe_export.graphs import GraphModule

__all__ = ["BundleDescription", "ExportReport", "GraphModule", "export_bundle"]
