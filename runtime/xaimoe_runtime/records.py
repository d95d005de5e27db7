"""The JSON Lines records. Their JSON Schema lies beside this file in ``schemas/``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from xaimoe_runtime.costs import Milliseconds
from xaimoe_runtime.schema import Count, Pool, Routing, Share

if TYPE_CHECKING:
    from xaimoe_runtime.result import Trace

Seconds = Annotated[float, Meta(ge=0)]


class TraceRecord(Struct, frozen=True, kw_only=True):
    """How the answer for a window came about."""

    attributes: dict[str, float]
    saliency: tuple[float, ...]
    """Of each patch; sums to 1."""
    run: tuple[tuple[int, str, float], ...]
    """(patch, expert, gate) of the pairs that were run, the largest gates first."""
    left_out: tuple[tuple[int, str, float], ...]
    """The same of the pairs that did not fit into the budget."""
    ms: dict[str, float]
    """Milliseconds spent, by stage."""
    predicted_ms: dict[str, float]
    """Milliseconds that stages were expected to take; none without a budget."""

    @classmethod
    def of(cls, trace: Trace) -> TraceRecord:
        """Of the trace of one window."""

        def pairs(gates: NDArray[np.float32]) -> tuple[tuple[int, str, float], ...]:
            patches, experts = np.nonzero(gates)
            order = np.argsort(-gates[patches, experts], kind="stable").tolist()
            return tuple(
                (int(patches[i]), trace.experts[experts[i]], _short(gates[patches[i], experts[i]])) for i in order
            )

        return cls(
            attributes=dict(zip(trace.attribute_names, map(_short, trace.attributes[0]), strict=True)),
            saliency=tuple(map(_short, trace.saliency[0])),
            run=pairs(trace.gates[0]),
            left_out=pairs(trace.left_out[0]),
            ms={stage: round(ms, 3) for stage, ms in trace.ms.items()},
            predicted_ms={stage: round(ms, 3) for stage, ms in trace.predicted_ms.items()},
        )


def _short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


class WindowRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="window"):
    """What was heard in one window of a recording or of a stream."""

    path: str | UnsetType = UNSET
    """Of the recording."""
    source: str | UnsetType = UNSET
    """Of the stream."""
    labels: tuple[str, ...]
    scores: dict[str, Share]
    novelty: Share
    """The more, the less what is heard is like anything the model knows."""
    start_s: Seconds
    end_s: Seconds
    degraded: bool
    """Whether pairs were left out."""
    late: bool
    """Whether the answer came after the deadline."""
    ms: Milliseconds
    """Milliseconds from samples at the model's rate to scores; decoding and resampling excluded."""
    pairs: Annotated[int, Meta(ge=0)]
    """(patch, expert) pairs run."""
    left_out: Annotated[int, Meta(ge=0)] = 0
    """Pairs that were chosen but did not fit into the budget."""
    silent: bool = False
    """Whether there was no signal: the scores are then 0, and the labels ``unknown``, or none of several."""
    channel: int | None = None
    time: str | UnsetType = UNSET
    """When the last sample of a live stream's window came, in UTC."""
    latency_ms: Milliseconds | UnsetType = UNSET
    """From then until the answer."""
    lost_s: Seconds | UnsetType = UNSET
    """Seconds of a live stream's window that were lost, and filled with zeros."""
    drift: tuple[str, ...] | UnsetType = UNSET
    """Of a window: signal attributes that are unlike those of the training split."""
    trace: TraceRecord | UnsetType = UNSET
    """If it was asked for."""


class ResultRecord(WindowRecord, frozen=True, kw_only=True, tag_field="kind", tag="result"):
    """What was heard in a whole recording: the scores are pooled over its windows."""

    windows: Count = 1
    complete: bool = True
    """Whether all of the recording was decoded: neither cut short, nor broken, nor followed by a part that cannot be
    joined."""
    missing_s: Seconds | None = 0.0
    """Seconds that the file states or holds and that were not decoded; None if their number is not known."""
    decoded_s: Seconds | UnsetType = UNSET
    """Seconds that were decoded; given if they differ from those stated, or if the recording is not complete."""
    promised_s: Seconds | UnsetType = UNSET
    """Seconds that the file's header states; given under the same condition, where the header states any."""
    note: str | UnsetType = UNSET
    """What is wrong with the file, in words."""
    silent_windows: Annotated[int, Meta(ge=0)] = 0
    """Windows without a signal, which have no say in the scores."""
    max_scores: dict[str, Share] = {}
    """Largest score of each label over the windows."""
    max_at_s: dict[str, Seconds] = {}
    """Start of the first window with that score."""
    skipped_s: Seconds = 0.0
    """Seconds between windows that no window covers, since the hop is longer than a clip."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the channels (one is silent, or a mix cancels) or with the level (too faint)."""


class EventRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="event"):
    """A label that begins to be heard in a stream, or that was."""

    source: str
    label: str
    state: Literal["onset", "offset"]
    start_s: Seconds
    """Start of the first window in which it was heard, from the start of the stream."""
    end_s: Seconds
    """End of the last window so far in which it was."""
    peak: Share
    """Largest score so far, averaged as the settings say."""
    novelty: Share = 0.0
    """Of the window in which the peak was reached."""
    drift: tuple[str, ...] = ()
    """Signal attributes of that window that are unlike those of the training split."""
    channel: int | None = None
    time: str | UnsetType = UNSET
    """When a live stream's event was found to begin or to be over, in UTC."""


class ErrorRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="error"):
    """A recording that could not be classified, or trouble in a stream, which goes on."""

    path: str | UnsetType = UNSET
    """Of the recording."""
    source: str | UnsetType = UNSET
    """Of the stream."""
    error: str
    """Class of the error."""
    message: str
    time: str | UnsetType = UNSET
    """When it was noticed in a live stream, in UTC."""


class SummaryRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="summary"):
    """The last record of a run over files, or of a stream."""

    source: str
    """The bundle or checkpoint that answered."""
    files: int
    errors: int
    windows: int
    audio_s: Seconds
    provider: str
    routing: Routing
    p50_ms: Milliseconds
    """Median time of a window."""
    p95_ms: Milliseconds
    pair_share: Share
    """Share of all (patch, expert) pairs that were run."""
    budget_ms: Milliseconds | None = None
    """Milliseconds that each window was allowed."""
    degraded: Annotated[int, Meta(ge=0)] = 0
    """Windows of which pairs were left out."""
    late: Annotated[int, Meta(ge=0)] = 0
    """Windows whose answer came after the deadline."""
    left_out_share: Share = 0.0
    """Share of the chosen pairs that were left out."""
    drifted: Annotated[int, Meta(ge=0)] = 0
    """Windows that are unlike the training split in a signal attribute."""
    events: Annotated[int, Meta(ge=0)] = 0
    """Events of a stream that began."""
    dropped: Annotated[int, Meta(ge=0)] = 0
    """Windows of a stream that were given up, since those before them took too long."""
    lost_s: Seconds = 0.0
    """Seconds of a stream that never came: lost on the way, for want of room, or during pauses."""
    incomplete: Annotated[int, Meta(ge=0)] = 0
    """Files of which a part could not be decoded."""
    skipped: dict[str, Annotated[int, Meta(ge=1)]] = {}
    """What searched folders hold that is no recording: files by ending, ``._*`` for companion files of macOS, names
    with ``/`` for folders of the system."""
    pool: Pool = "mean"
    """How the scores of recordings were pooled over their windows."""
    silent: Annotated[int, Meta(ge=0)] = 0
    """Recordings, or channels of them, without a signal."""
    silent_windows: Annotated[int, Meta(ge=0)] = 0
    """Windows without a signal."""
    warned: Annotated[int, Meta(ge=0)] = 0
    """Recordings with warnings of their channels."""
    skipped_s: Seconds = 0.0
    """Seconds that no window covers, since the hop is longer than a clip; ``audio_s`` does not count them."""


Record = WindowRecord | ResultRecord | EventRecord | ErrorRecord | SummaryRecord


def is_failure(record: Record) -> bool:
    """Return whether a record says that a file was not, or not completely, processed."""
    return isinstance(record, ErrorRecord) or (isinstance(record, ResultRecord) and not record.complete)
