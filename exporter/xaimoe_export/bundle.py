"""Writing a bundle: all is made and compared with PyTorch, and only then is the folder put in its place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from xaimoe_export import golden, triton
from xaimoe_export.card import CARD, model_card
from xaimoe_export.draft import BundleDescription
from xaimoe_export.folder import check_free, new_folder
from xaimoe_export.graphs import GraphModule
from xaimoe_export.make import Made, make
from xaimoe_export.measure import report_on
from xaimoe_export.options import ExportOptions
from xaimoe_export.plan import PLAN
from xaimoe_export.possible import check_possible, is_bundle
from xaimoe_export.recordings import Recordings
from xaimoe_export.report import ExportReport
from xaimoe_export.sign import signer
from xaimoe_runtime import BundleError, Runtime
from xaimoe_runtime.bundle import MANIFEST, Bundle
from xaimoe_runtime.providers import SessionFactory
from xaimoe_runtime.schema import Manifest
from xaimoe_runtime.signature import SIGNATURE
from xaimoe_runtime.verify import verify
from xaimoe_runtime.writing import cannot_be_written, replacing


def steps(graphs: tuple[GraphModule, ...], options: ExportOptions) -> int:
    """How often an export calls its ``advance``."""
    return len(graphs) * len({"fp32", *options.precisions})


def export_bundle(
    graphs: tuple[GraphModule, ...],
    description: BundleDescription,
    out: Path,
    options: ExportOptions | None = None,
    calibration: Recordings | None = None,
    validation: Recordings | None = None,
    advance: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Exports the graphs of a model to the bundle folder ``out``, and writes what was found to ``out``.export.json.

    Args:
        graphs: the five roles, and ``frames`` and ``window`` if frames can be shared; the experts are in the order of
            ``description.experts``, which is that of the gates' last axis.
        description: what cannot be read off the modules.
        out: folder of the bundle.
        options: what to write.
        calibration: windows of the training split; INT8 takes its ranges from them, and the line is compared with
            PyTorch on them.
        validation: recordings that accuracy is measured on.
        advance: called :func:`steps` times.

    Raises:
        ConfigError: ``out`` exists or cannot be written, or the options ask for what cannot be made.
        BundleError: the exported line differs from PyTorch by more than a tolerance. Nothing is written in either case.
    """
    options = options or ExportOptions()
    check_possible(graphs, description, options, out, calibrated=calibration is not None)
    sign = signer(options.sign) if options.sign is not None else None
    with ExitStack() as places:  # left in reverse order: the bundle takes its place first, then what tells of it
        told = places.enter_context(replacing(out.with_name(f"{out.name}.export.json")))
        repository = None
        if options.triton is not None:
            repository = places.enter_context(new_folder(options.triton / triton.MODEL, triton.is_ours, options.force))
        part = places.enter_context(new_folder(out, is_bundle, options.force))
        made = make(graphs, description, options, calibration, validation, advance)
        manifest = _completed(made, options, 0 if validation is None else len(validation.targets))
        raw = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        files = made.draft.files | {MANIFEST: raw} | ({} if sign is None else {SIGNATURE: sign(raw)})
        _write(part, files, out)
        if repository is not None:
            fused = manifest.graph(
                "fused", precision="fp32" if "fp32" in manifest.precisions else manifest.precisions[0]
            )
            _write(repository, triton.model(manifest, fused, files[fused.file]), options.triton or repository)
        _prove(part, manifest)
        report = report_on(made, manifest, sum(map(len, files.values())), calibration, validation)
        try:
            told.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
            told.flush()  # now, while nothing has been put in place
        except OSError as error:
            raise cannot_be_written(out, error) from error
        if options.triton is not None:  # a bundle whose repository cannot be put in place is not put there either
            check_free(options.triton / triton.MODEL, triton.is_ours, options.force)
    return report


def _write(folder: Path, files: dict[str, bytes], named: Path) -> None:
    """Writes files into a folder, which an error calls by another name."""
    try:
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
    except OSError as error:
        raise cannot_be_written(named, error) from error


def _completed(made: Made, options: ExportOptions, recordings: int) -> Manifest:
    """Adds the golden answers and the documents; drops the graphs that no precision asks for."""
    draft = made.draft
    draft.drop_unused()
    draft.golden = draft.put(golden.GOLDEN, golden.archive(made.golden))
    documents = [draft.put(PLAN, made.plan.encoded())] if made.plan.precisions else []
    documents.append(draft.put(CARD, model_card(draft.manifest(), options.licence, made.accuracy, recordings).encode()))
    draft.documents = tuple(documents)
    return draft.manifest()


def _prove(folder: Path, manifest: Manifest) -> None:
    """Loads what was written as a device would."""
    opened = Bundle.open(folder)  # which the exporter made itself, so no child process tries it first
    for precision in manifest.precisions:
        runtime = Runtime(opened, SessionFactory("cpu"), precision)
        failed = [found for found in verify(runtime) if not found.passed]
        if failed:
            raise BundleError(
                "the bundle does not prove itself: "
                + ", ".join(f"{precision} {one.what} deviates by {one.found:.1e}" for one in failed)
            )
