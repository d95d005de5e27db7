"""The device's front door."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xaimoe_runtime.audio import Window, parse_channel
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.dispatch import Dispatcher
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.inference import (
    check_min_score,
    check_routing,
    file_windows,
    hop_samples,
    infer,
    make_trace,
    run_stream,
)
from xaimoe_runtime.providers import SessionFactory
from xaimoe_runtime.result import Outputs, Result, decide
from xaimoe_runtime.schema import Manifest, Precision, ProviderName, Routing

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WindowResult:
    """The answer for one window of a file."""

    start_s: float
    end_s: float
    channel: int | None
    """Channel number, or None for the mixture of all."""
    result: Result


class Runtime:
    """A bundle, loaded and ready to answer. Make one with :meth:`load`."""

    def __init__(self, bundle: Bundle, factory: SessionFactory, precision: str = "auto") -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.factory = factory
        self.precision = _precision(manifest, precision, factory.provider)
        self.dispatcher = Dispatcher(bundle, factory, self.precision)
        if self.precision != _precision(manifest, precision, factory.provider):  # it fell back to another provider
            self.precision = _precision(manifest, precision, factory.provider)
            self.dispatcher = Dispatcher(bundle, factory, self.precision)
        self.provider: str = factory.provider
        self.name = str(bundle.path)
        self.task = manifest.task
        self.audio = manifest.audio
        self.experts = tuple(expert.name for expert in manifest.experts)
        self.pairs_possible = manifest.patches.grid.count * len(self.experts)
        self.attribute_names = tuple(attribute.name for attribute in manifest.attributes)

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        provider: str = "auto",
        threads: int = 1,
        precision: str = "auto",
        public_key: str | Path | None = None,
    ) -> Runtime:
        """Opens a bundle, checks it and makes its sessions.

        Args:
            bundle: the folder that the exporter wrote.
            provider: ``auto`` (CUDA where there is one, else CPU), ``cuda`` or ``cpu``.
            threads: threads that one graph may use; experts always use one.
            precision: ``fp32``, ``int8`` or ``fp16``, of those that the bundle holds; ``auto`` takes what is meant for
                the provider.
            public_key: file with an Ed25519 public key in PEM; a bundle that its owner has not signed is refused.

        Raises:
            BundleError: the bundle is missing, incomplete, altered, unsigned or of a newer schema.
            ConfigError: the bundle has no such precision, or the key cannot be used.
            ProviderError: the provider, or ONNX Runtime itself, is missing.
        """
        return cls(Bundle.open(bundle, public_key), SessionFactory(provider, threads), precision)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.task.labels

    def run(self, waveform: Floats, source: Floats, routing: Routing) -> Outputs:
        """``waveform`` [N, S] at the model's rate, ``source`` [N, 2] (native rate in Hz, clipping rate) -> outputs."""
        return self.dispatcher.run(waveform, source, routing)

    def infer(
        self,
        samples: ArrayLike,
        sample_rate: float | None = None,
        routing: str | None = None,
        min_score: float = 0.0,
    ) -> Result:
        """Answers for one recording [n] or a batch [B, n], floating point with full scale at 1.

        A recording shorter than the model's clip is repeated to fill it; a longer one is cut into windows and their
        scores are averaged. The trace has one row a window.

        Args:
            samples: the recording or recordings.
            sample_rate: in Hz; the model's own if None.
            routing: ``routed``, ``dense`` or ``glance``; the bundle's default if None.
            min_score: below it, ``unknown`` is answered.

        Raises:
            AudioError: samples that are empty, not finite, or of the wrong shape or type.
            ConfigError: no such routing.
        """
        return infer(self, samples, sample_rate, routing or self.manifest.routing, min_score)

    def infer_file(
        self,
        path: str | Path,
        hop_s: float | None = None,
        routing: str | None = None,
        channel: str = "mix",
        min_score: float = 0.0,
    ) -> Iterator[WindowResult]:
        """Answers window by window over a file of any length, in bounded memory.

        Args:
            path: any file that libsndfile reads.
            hop_s: seconds from window to window, rounded to whole frames; the bundle's default if None.
            routing: as for :meth:`infer`.
            channel: ``mix``, ``each`` or the number of a channel.
            min_score: as for :meth:`infer`.

        Raises:
            ConfigError: at once, for no such routing or channel, or a hop that is not positive.
            AudioError: on the way, when the file turns out to be unusable.
        """
        chosen = check_routing(routing or self.manifest.routing)
        check_min_score(min_score)
        windows = file_windows(Path(path), self.audio, parse_channel(channel), hop_samples(hop_s, self.audio))
        return self._answers(windows, chosen, min_score)

    def _answers(
        self, windows: Iterator[tuple[int | None, Window]], routing: Routing, min_score: float
    ) -> Iterator[WindowResult]:
        for number, window in windows:
            ((_, outputs),) = run_stream(self, [window], routing)
            labels = decide(outputs.scores[0], self.task, min_score)
            result = Result(labels, outputs.scores[0], make_trace(self, outputs, routing))
            yield WindowResult(window.start_s, window.end_s, number, result)


def _precision(manifest: Manifest, wanted: str, provider: ProviderName) -> Precision:
    """The precision to run a bundle in."""
    if wanted == "auto":
        return manifest.precisions_for(provider)[0]
    for precision in manifest.precisions:
        if precision == wanted:
            return precision
    raise ConfigError(
        f"precision: found {wanted!r}, the bundle has {', '.join(manifest.precisions)}; choose one of them or auto, or "
        "export the checkpoint with --precision"
    )
