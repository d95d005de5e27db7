"""The bundle's model card: what it answers, what it learnt from, how well it does and where it must not be trusted."""

from __future__ import annotations

from collections.abc import Mapping

from xaimoe_runtime.schema import Manifest, Precision

CARD = "README.md"
UNKNOWN_LICENCE = "unknown"


def model_card(
    manifest: Manifest,
    licence: str | None,
    accuracy: Mapping[Precision, float | None] | None = None,
    recordings: int = 0,
) -> str:
    """The card as Markdown, with the metadata block that model hubs read.

    Args:
        manifest: of the bundle.
        licence: identifier of the licence the model is given out under; None if nobody said.
        accuracy: of each precision on the validation recordings, as far as measured.
        recordings: how many these are.
    """
    task, audio, frontend, source = manifest.task, manifest.audio, manifest.frontend, manifest.provenance
    clip_s = audio.clip_samples / audio.sample_rate
    several = "any number of classes" if task.kind == "multi_label" else "one class"
    metrics = [f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in sorted(source.metrics.items())]
    for precision, value in (accuracy or {}).items():
        if value is not None:
            what = "share of right decisions, label by label," if task.kind == "multi_label" else "accuracy"
            metrics.append(f"| {what} in {precision}, {recordings} recordings of validation | {value:.4f} |")
    precisions = []
    for precision in manifest.precisions:
        own = sum(graph.precision == precision and graph.role != "fused" for graph in manifest.graphs)
        precisions.append(precision if precision == "fp32" else f"{precision} ({own or 'none'} of its graphs)")
    attributes = [
        f"| {item.name} | {item.q05:.5g} | {item.q50:.5g} | {item.q95:.5g} | {item.unit} |"
        for item in manifest.attributes
    ]
    return "\n".join(
        [
            "---",
            f"license: {licence or UNKNOWN_LICENCE}",
            "library_name: xai-moe-audio",
            "pipeline_tag: audio-classification",
            "---",
            "",
            f"# Audio classifier, {len(task.labels)} classes",
            "",
            f"Answers {several} for a recording: {', '.join(task.labels)}.",
            "",
            f"It hears {clip_s:.2f} s at a time, at {audio.sample_rate} Hz, from {frontend.fmin:g} to "
            f"{frontend.fmax:g} Hz ({frontend.backend}, {frontend.bins} bands). A saliency map decides which of "
            f"{manifest.patches.grid.count} patches of the spectrogram go to which of {len(manifest.experts)} experts.",
            "",
            "## Use",
            "",
            "```sh",
            'pip install "xai-moe-audio[cpu]"',
            "xaimoe-runtime verify BUNDLE",
            "xaimoe-runtime infer BUNDLE RECORDING",
            "```",
            "",
            "## Data",
            "",
            f"Trained on a dataset with SHA-256 `{source.dataset_sha256}` (seed {source.seed}). Signal attributes of "
            "its training recordings, at the model's rate:",
            "",
            "| attribute | 5 % | median | 95 % | unit |",
            "|---|---|---|---|---|",
            *attributes,
            "",
            "## Metrics",
            "",
            *(["| metric | value |", "|---|---|", *metrics] if metrics else ["None were measured."]),
            "",
            "## Limits",
            "",
            "- It knows the classes above and no other: of anything else it names the most similar one.",
            "- Recordings whose attributes lie outside the ranges above are unlike what it learnt from; check its "
            "answers there by ear before you rely on them.",
            f"- What lies above {min(frontend.fmax, audio.sample_rate / 2):g} Hz or below {frontend.fmin:g} Hz it "
            "cannot hear.",
            "- Scores are calibrated on recordings like those of the validation split, and on no other.",
            "",
            "## Provenance",
            "",
            f"Bundle `{manifest.bundle_id}`, checkpoint `{source.checkpoint_sha256}`, exporter "
            f"{source.exporter_version}. Precisions: {', '.join(precisions)}. SHA-256 of each file: "
            "`manifest.json`.",
            "",
        ]
    )
