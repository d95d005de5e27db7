"""Figures of a stream for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xaimoe_runtime.errors import ConfigError, ProviderError

if TYPE_CHECKING:
    from xaimoe_runtime.streams.listener import Listener


def serve(listener: Listener, address: str) -> Any:
    """Serves the figures of a listener at ``http://ADDRESS/metrics``; gives the server.

    Args:
        listener: is asked at each scrape.
        address: ``HOST:PORT``, or ``PORT`` for this machine alone.

    Raises:
        ConfigError: it cannot be listened there.
        ProviderError: the package ``prometheus-client`` is missing.
    """
    try:
        import prometheus_client
    except ImportError as error:
        raise ProviderError('--prometheus needs prometheus-client; run: pip install "xai-moe-audio[live]"') from error
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"--prometheus: found {address!r}, expected HOST:PORT or PORT")
    registry = prometheus_client.CollectorRegistry()
    registry.register(Figures(listener))
    try:
        server, _thread = prometheus_client.start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    except OSError as error:
        raise ConfigError(f"--prometheus: cannot listen at {address} ({error}); choose another port") from error
    return server


class Figures:
    """A collector of Prometheus, for one listener."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._lost_s = 0.0  # a counter never falls, but the listener may learn that less was lost

    def collect(self) -> Iterator[Any]:
        """What Prometheus asks for."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        figures, tally = self.listener.summary(), self.listener.tally
        self._lost_s = max(self._lost_s, figures.lost_s)
        counters = {
            "windows": (figures.windows, "Windows answered."),
            "windows_degraded": (figures.degraded, "Windows of which pairs were left out for want of time."),
            "windows_late": (figures.late, "Windows whose answer came after the deadline."),
            "windows_dropped": (figures.dropped, "Windows given up, since those before them took too long."),
            "windows_drifted": (figures.drifted, "Windows unlike the training split in a signal attribute."),
            "windows_silent": (figures.silent_windows, "Windows without a signal."),
            "events": (figures.events, "Events that began."),
            "errors": (figures.errors, "Error records."),
            "audio_seconds": (figures.audio_s, "Seconds of audio taken in, without those skipped."),
            "skipped_seconds": (
                figures.skipped_s,
                "Seconds that no window covers, since the hop is longer than a clip.",
            ),
            "lost_seconds": (self._lost_s, "Seconds of audio that never came: lost, or paused."),
            "pairs": (tally.pairs, "Pairs of patch and expert run."),
            "pairs_left_out": (tally.left_out, "Pairs left out for want of time."),
        }
        for name, (value, what) in counters.items():
            yield CounterMetricFamily(f"xaimoe_{name}", what, value=value)
        gauges = {
            "p50": (figures.p50_ms, "Median time of the last windows."),
            "p95": (figures.p95_ms, "95th percentile of the time of the last windows."),
        }
        for name, (value, what) in gauges.items():
            yield GaugeMetricFamily(f"xaimoe_window_{name}_seconds", what, value=value / 1e3)
        yield SummaryMetricFamily(
            "xaimoe_window_seconds",
            "Time spent on windows.",
            count_value=figures.windows,
            sum_value=tally.total_ms / 1e3,
        )
        yield GaugeMetricFamily("xaimoe_source_up", "0 for a dead source.", value=0.0 if self.listener.dead else 1.0)
