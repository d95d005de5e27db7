"""A bundle in words."""

from __future__ import annotations

from xaimoe_runtime.costs import PERCENTILES, Costs
from xaimoe_runtime.schema import LINE, Manifest


def describe(manifest: Manifest) -> str:
    """What a bundle answers, listens to and holds, as text for a terminal."""
    audio, frontend, grid = manifest.audio, manifest.frontend, manifest.patches.grid
    n_freq, n_time = grid.shape
    labels = manifest.task.labels
    streamable = "streamable" if frontend.streamable else "not streamable"
    source = manifest.patches.source.replace("_", " ")
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in manifest.provenance.metrics.items())
    return "\n".join(
        [
            f"bundle      {manifest.bundle_id[:16]}  (schema {manifest.schema_version})",
            f"task        {manifest.task.kind}, {len(labels)} classes: {', '.join(labels)}",
            f"audio       {audio.sample_rate} Hz, clips of {audio.clip_samples / audio.sample_rate:.2f} s, "
            f"a window every {audio.window_hop / audio.sample_rate:.2f} s",
            f"spectrogram {frontend.backend}, {frontend.bins} bands {frontend.fmin:g}…{frontend.fmax:g} Hz x "
            f"{frontend.frames} frames, window {frontend.win_length}, hop {audio.frame_hop}, {streamable}",
            f"patches     {grid.count} ({n_freq} in frequency x {n_time} in time) from the {source}",
            f"routing     {manifest.routing}",
            f"precisions  {', '.join(manifest.precisions)}",
            "experts",
            *(
                f"  {expert.name:<24} {expert.parameters:>8,} parameters {expert.macs / 1e6:>7.2f} MMAC a patch  "
                f"{expert.purpose}"
                for expert in manifest.experts
            ),
            "attributes  (5 %, median, 95 % of the training split)",
            *(
                f"  {item.name:<24} {item.q05:>10.3g} {item.q50:>10.3g} {item.q95:>10.3g}  {item.unit}"
                for item in manifest.attributes
            ),
            "graphs",
            *(
                f"  {graph.file:<40} {graph.bytes / 1024:>8.0f} KiB  {graph.precision}  "
                f"for {', '.join(graph.providers)}"
                for graph in manifest.graphs
            ),
            f"metrics     {metrics or 'none'}",
        ]
    )


def describe_costs(costs: Costs) -> str:
    """What each graph costs, as a table for a terminal: of one, and of one more in the largest batch."""
    floor = sum(costs[name].predict(1, "p95") for name in LINE)
    return "\n".join(
        [
            f"{'ms':<32}{'p50':>9}{'p95':>9}{'p99':>9}{'one more':>10}",
            *(
                f"{graph:<32}"
                + "".join(f"{cost.predict(1, of):>9.3f}" for of in PERCENTILES)
                + f"{cost.each('p50'):>10.3f}"
                for graph, cost in costs.items()
            ),
            f"the floor, whatever the budget: {floor:.3f} ms (p95 of {', '.join(LINE)})",
        ]
    )
