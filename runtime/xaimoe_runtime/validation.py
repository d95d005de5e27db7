"""What single fields of a manifest cannot say: that its numbers fit each other, and a window into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from xaimoe_runtime.schema import STREAM, Manifest

MAX_WINDOW_BYTES = 1 << 30
"""Bytes of all tensors of one window, and of a batch of an expert's patches."""
MAX_BUNDLE_BYTES = 2 << 30
"""Bytes of all files."""
MAX_SMOOTHED = 1 << 26
"""Scores that a stream keeps to average them."""
FLOAT = 4
"""Bytes of a number."""
AXES = frozenset({"B", "M", "n"})
"""Dynamic axes that a profile may be for: clips, patches, and frames of a stream."""


def find_defects(manifest: Manifest) -> Iterator[str]:
    """Yield each defect: what was found and what was expected."""
    for check in CHECKS:
        yield from check(manifest)


def _check_sizes(manifest: Manifest) -> Iterator[str]:
    audio, frontend, grid = manifest.audio, manifest.frontend, manifest.patches.grid
    if frontend.win_length > frontend.n_fft:
        yield f"frontend: found a window of {frontend.win_length} samples, expected at most n_fft, {frontend.n_fft}"
    heard = frontend.context_samples + frontend.frames * audio.frame_hop
    if frontend.streamable and heard > audio.clip_samples:
        yield (
            f"frontend: found {frontend.frames} frames every {audio.frame_hop} samples and a context of "
            f"{frontend.context_samples}, which is {heard} samples, expected at most the clip, {audio.clip_samples}"
        )
    if frontend.context_samples > audio.clip_samples:
        yield f"frontend: found context_samples {frontend.context_samples}, expected at most {audio.clip_samples}"
    if frontend.frames > audio.clip_samples:
        yield f"frontend: found {frontend.frames} frames, expected at most the clip's samples, {audio.clip_samples}"
    if manifest.patches.source == "spectrogram" and (grid.rows, grid.columns) != (frontend.bins, frontend.frames):
        yield (
            f"patches: found a grid of {grid.rows} x {grid.columns} cells, expected the spectrogram's "
            f"{frontend.bins} x {frontend.frames}"
        )


def _check_bands(manifest: Manifest) -> Iterator[str]:
    frontend, rate = manifest.frontend, manifest.audio.sample_rate
    if not frontend.fmin < frontend.fmax <= rate / 2:
        yield (
            f"frontend: found fmin {frontend.fmin:g} and fmax {frontend.fmax:g} Hz, expected fmin < fmax <= "
            f"{rate / 2:g}"
        )
    if any(not lower < upper for lower, upper in zip(frontend.centres_hz, frontend.centres_hz[1:], strict=False)):
        yield "frontend: found centres of bands that do not rise, expected each over the one before"
    for expert in manifest.experts:
        if not expert.band[0] < expert.band[1]:
            yield f"expert {expert.name}: found the band {expert.band}, expected its lower end first"


def _check_attributes(manifest: Manifest) -> Iterator[str]:
    names = [attribute.name for attribute in manifest.attributes]
    if len(set(names)) < len(names):
        yield "attributes: found a name twice, expected different ones"
    for one in manifest.attributes:
        if not one.q05 <= one.q50 <= one.q95:
            yield f"attribute {one.name}: found quantiles {one.q05:g}, {one.q50:g}, {one.q95:g}, expected them rising"


def _check_graphs(manifest: Manifest) -> Iterator[str]:
    files = [graph.file for graph in manifest.graphs]
    others = [manifest.golden.file, *(document.file for document in manifest.documents)]
    if len(set(files) | set(others)) < len(files) + len(others):
        yield "files: found a path twice, expected one for each graph and document"
    total = sum(one.bytes for one in (*manifest.graphs, *manifest.documents, manifest.golden))
    if total > MAX_BUNDLE_BYTES:
        yield f"files: found {total} bytes in all, expected at most {MAX_BUNDLE_BYTES}"
    for graph in manifest.graphs:
        if strangers := set(graph.profiles) - AXES:
            yield f"{graph.file}: found a profile for the axis {min(strangers)!r}, expected {', '.join(sorted(AXES))}"
        for side in (graph.inputs, graph.outputs):
            if len({tensor.name for tensor in side}) < len(side):
                yield f"{graph.file}: found a tensor twice, expected different names"


def _check_memory(manifest: Manifest) -> Iterator[str]:
    """Bound what is allocated for one window; a graph's intermediate tensors are bounded where the graph is checked."""
    sizes = {
        tensor.name: _count(tensor.shape) * FLOAT
        for graph in manifest.graphs
        if graph.role not in STREAM
        for tensor in (*graph.inputs, *graph.outputs)
    }
    of_patch, patches = sizes.get("patches", 0), manifest.patches.grid.count
    sizes |= {"patches": of_patch * patches, "features": sizes.get("features", 0) * patches}
    largest = max(sizes, key=lambda name: sizes[name])
    if (total := sum(sizes.values())) > MAX_WINDOW_BYTES:
        yield (
            f"a window takes {total} bytes, {sizes[largest]} of them for {largest}; expected at most {MAX_WINDOW_BYTES}"
        )
    if (batch := manifest.buckets[-1] * of_patch) > MAX_WINDOW_BYTES:
        yield f"buckets: found {manifest.buckets[-1]} patches, which take {batch} bytes, expected {MAX_WINDOW_BYTES}"
    if (scores := manifest.events.smooth * len(manifest.task.labels)) > MAX_SMOOTHED:
        yield f"events: found smooth {manifest.events.smooth}: {scores} scores, expected at most {MAX_SMOOTHED}"


def _count(shape: tuple[int | str, ...]) -> int:
    """Return the numbers of a tensor, one along each axis without a size."""
    return prod(size for size in shape if isinstance(size, int))


CHECKS: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    _check_sizes,
    _check_bands,
    _check_attributes,
    _check_graphs,
    _check_memory,
)
"""Each yields what does not fit."""
