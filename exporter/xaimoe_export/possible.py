"""What can be said against an export before time is spent on it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from xaimoe_export import triton
from xaimoe_export.draft import BundleDescription
from xaimoe_export.folder import check_free
from xaimoe_export.graphs import GraphModule, file_of
from xaimoe_export.options import ExportOptions
from xaimoe_export.plan import PrecisionPlan
from xaimoe_export.sign import signer
from xaimoe_runtime import ConfigError
from xaimoe_runtime.bundle import MANIFEST


def check_possible(
    graphs: tuple[GraphModule, ...],
    description: BundleDescription,
    options: ExportOptions,
    out: Path,
    calibrated: bool,
) -> None:
    """Checks what would else fail, or do harm, after recordings have been decoded and graphs exported.

    Args:
        graphs: those of :func:`xaimoe_export.export_bundle`, as the other arguments.
        description: of the model.
        options: what the bundle is to hold.
        out: folder of the bundle.
        calibrated: whether there are recordings of the training split.

    Raises:
        ConfigError: the export is not possible.
    """
    check_free(out, is_bundle, options.force)
    if (told := out.with_name(f"{out.name}.export.json")).is_dir():
        raise ConfigError(f"{told}: found a folder where the report goes; choose another name for the bundle")
    if options.sign is not None:
        signer(options.sign)
    names = [graph.name for graph in graphs]
    files = [file_of(graph.role, graph.expert, "fp32").lower() for graph in graphs]
    alike = sorted(name for name, file in zip(names, files, strict=True) if files.count(file) > 1)
    if alike:
        raise ConfigError(f"experts: found {', '.join(alike)}, whose files would have one name; expected other letters")
    if "int8" in options.precisions and not calibrated:
        raise ConfigError(
            "precision int8: found no recordings to take ranges from; give the dataset that the model was trained on "
            "(--dataset)"
        )
    if options.plan is not None:
        _check_plan(options.plan, options, names)
    if options.triton is not None:
        _check_triton(options.triton, description, options, out)


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle, of this version or of another."""
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes())
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        return False
    return isinstance(found, dict) and {"schema_version", "bundle_id", "graphs"} <= found.keys()


def _check_plan(plan: PrecisionPlan, options: ExportOptions, names: list[str]) -> None:
    lacking = [precision for precision in options.precisions if precision not in {"fp32", *plan.precisions}]
    if lacking:
        raise ConfigError(
            f"precision plan: found none for {', '.join(lacking)}, which the bundle is to hold; add it, or leave the "
            "precision out"
        )
    for precision, choices in plan.precisions.items():
        if set(choices) != set(names):
            raise ConfigError(
                f"precision plan: found {precision} choices for {', '.join(sorted(choices))}; expected "
                f"{', '.join(names)}"
            )


def _check_triton(folder: Path, description: BundleDescription, options: ExportOptions, out: Path) -> None:
    bundle, repository = out.resolve(), folder.resolve()
    if bundle == repository or bundle in repository.parents or repository in bundle.parents:
        raise ConfigError(f"triton: found {folder} and the bundle {out} in each other, expected two places")
    check_free(folder / triton.MODEL, triton.is_ours, options.force)
    broken = [label for label in description.task.labels if len(label.splitlines()) > 1 or label != label.strip()]
    if broken:
        raise ConfigError(
            f"triton: found labels {', '.join(map(repr, broken))}, expected none with a line break or outer blanks, "
            "since its labels are lines of a file; export without --triton"
        )
