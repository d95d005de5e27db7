"""Which graph runs in which precision, and why: chosen graph by graph, written down, and obeyed when given back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from xaimoe_export import half, quantise
from xaimoe_export.cost import cost
from xaimoe_export.draft import Draft
from xaimoe_export.recordings import Recordings
from xaimoe_runtime import BundleError, ConfigError
from xaimoe_runtime.schema import EXCHANGE, Precision

Floats = NDArray[np.float32]
PLAN = "precision_plan.json"
MOST_MOVED = 0.02
"""Mean absolute change of a score up to which a graph, and all that are chosen together, may leave FP32."""
MOST_BYTES = 0.35
"""Of a graph's initialisers in INT8, over those in FP32; it stays FP32 if they are more."""
LEAST_ROWS, MOST_ROWS = 32, 256
"""Patches that an expert's ranges are taken from."""


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one graph and precision."""

    used: bool
    """Whether the graph runs in it; otherwise in FP32."""
    why: str


class PrecisionPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``precision_plan.json``."""

    precisions: dict[Precision, dict[str, Choice]]
    """By precision and name of the graph."""

    @staticmethod
    def read(path: Path) -> PrecisionPlan:
        """A plan that an export wrote, or that was altered since.

        Raises:
            ConfigError: it cannot be read, or is none.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=PrecisionPlan)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected the {PLAN} of an export") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a precision plan ({error}); expected the {PLAN} of an export") from error

    def encoded(self) -> bytes:
        """As it is written."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


Choices = dict[str, Choice]


@dataclass(frozen=True)
class Chooser:
    """Adds to a draft the graphs that leave FP32 for another precision."""

    draft: Draft
    """With all graphs in FP32."""
    precision: Precision
    calibration: Recordings | None
    """What the ranges of INT8 are taken from."""
    judges: Recordings
    """What choices are tried on."""
    most_lost: float
    """Accuracy that may be lost on ``judges``, as far as they are labelled."""
    advance: Callable[[], None]
    """Called after each graph."""

    def obey(self, given: Choices) -> Choices:
        """Makes the graphs that a plan of them uses.

        Raises:
            ConfigError: one of them cannot run in the precision.
            BundleError: on recordings that nobody labelled, the scores move too far for this to be right.
        """
        made: dict[str, onnx.ModelProto] = {}
        for name, choice in given.items():
            if choice.used:
                model, why_not = self._made(name)
                if model is None:
                    raise ConfigError(
                        f"precision plan: {name} cannot run in {self.precision}: {why_not}; set its used to false"
                    )
                made[name] = model
            self.advance()
        if made and not len(self.judges.targets) and (moved := self._moved(made)) > MOST_MOVED:
            raise BundleError(
                f"precision plan: in {self.precision}, scores move by {moved:.3f} on average, expected {MOST_MOVED} at "
                "most without labelled recordings; let fewer graphs use it, or give the dataset (--dataset)"
            )
        self._add(made)
        return given

    def choose(self) -> Choices:
        """Makes the graphs that gain by it and move the scores little; says of each graph why, or why not."""
        choices: Choices = {}
        made: dict[str, onnx.ModelProto] = {}
        moved: dict[str, float] = {}
        for name in self._names:
            model, why_not = self._tried(name)
            if model is not None:
                moved[name] = self._moved({name: model})
                why_not = _too_far(moved[name])
                if why_not is None:
                    made[name] = model
            choices[name] = Choice(why_not is None, why_not or f"scores move by {moved[name]:.4f} on average")
            self.advance()
        # Those that move scores most go back to FP32 first, until together they neither move them nor lose too much.
        while made and (why_not := self._too_much(made)) is not None:
            worst = max(made, key=moved.__getitem__)
            choices[worst] = Choice(False, f"with it and the others, {why_not}")
            del made[worst]
        self._add(made)
        return choices

    @property
    def _names(self) -> list[str]:
        graphs = self.draft.graphs.values()
        return [spec.name for spec in graphs if spec.precision == "fp32" and spec.role not in EXCHANGE]

    def _tried(self, name: str) -> tuple[onnx.ModelProto | None, str | None]:
        """The graph in the precision if it gains by it, or why not."""
        model = self.draft.model(name)
        why_not = quantise.why_not(model) if self.precision == "int8" else half.why_not(model)
        if why_not is not None:
            return None, why_not
        made, why_not = self._made(name)
        if made is not None and self.precision == "int8":
            share = cost(made).initialiser_bytes / cost(model).initialiser_bytes
            if share > MOST_BYTES:
                return None, f"its initialisers would still have {share:.2f} of their bytes, {MOST_BYTES} is allowed"
        return made, why_not

    def _made(self, name: str) -> tuple[onnx.ModelProto | None, str | None]:
        """The graph in the precision, or why it cannot be."""
        model = self.draft.model(name)
        if self.precision == "int8":
            if name not in self._rows_of:
                return None, "its ranges are not measured; those of the saliency and of the experts are"
            if not quantise.quantised_products(cost(model)):
                return None, quantise.why_not(model)
            return quantise.to_int8(model, self._rows_of[name]()), None
        why_not = half.why_not(model)
        if why_not is not None:
            return None, why_not
        found = half.to_fp16(model)
        try:
            onnx.checker.check_model(found, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            return None, f"it has operators that are not in half precision ({str(error).splitlines()[0]})"
        return found, None

    def _add(self, models: dict[str, onnx.ModelProto]) -> None:
        for name, model in models.items():
            spec = self.draft.graphs[name, "fp32"]
            self.draft.add(spec.role, spec.expert, self.precision, model)

    @cached_property
    def _usual(self) -> Floats:
        return self._scores({})

    def _moved(self, models: dict[str, onnx.ModelProto]) -> float:
        """Mean absolute change of a score with these graphs in the precision."""
        return float(np.abs(self._scores(models) - self._usual).mean())

    def _too_much(self, models: dict[str, onnx.ModelProto]) -> str | None:
        """Why these graphs may not be in the precision together."""
        scores = self._scores(models)
        accuracy, wanted = self._accuracy(scores), self._accuracy(self._usual) - self.most_lost
        if accuracy < wanted:
            return f"accuracy is {accuracy:.4f}, {wanted:.4f} is wanted"
        return _too_far(float(np.abs(scores - self._usual).mean()))

    def _scores(self, models: dict[str, onnx.ModelProto]) -> Floats:
        """Scores of the judges' windows with these graphs and no other in the precision."""
        runtime = self.draft.with_only(self.precision, models).runtime(self.precision)
        return self.judges.scores(lambda waveform, source: runtime.run(waveform, source, "routed").scores)

    def _accuracy(self, scores: Floats) -> float:
        return self.judges.accuracy(scores, self.draft.description.task)

    @cached_property
    def _rows_of(self) -> dict[str, Callable[[], dict[str, Floats]]]:
        """What a graph is given of real clips, by name: an expert, the patches that are routed to it."""
        if self.calibration is None:
            return {}
        runtime = self.draft.runtime()
        line, grid = runtime.dispatcher, runtime.manifest.patches.grid
        heard = line.frontend(waveform=self.calibration.waveform, source=self.calibration.source)
        glance = line.saliency(spectrogram=heard["spectrogram"])
        gates = line.router(saliency=glance["saliency"], context=glance["context"], attributes=heard["attributes"])
        source = glance["feature_map"] if runtime.manifest.patches.source == "feature_map" else heard["spectrogram"]

        def patches_of(e: int) -> dict[str, Floats]:
            clips, patches = np.nonzero(gates["gates"][:, :, e])
            if len(clips) < LEAST_ROWS:  # an expert that is hardly ever asked
                clips, patches = np.nonzero(np.ones(gates["gates"].shape[:2]))
            few = np.linspace(0, len(clips) - 1, min(len(clips), MOST_ROWS)).astype(np.intp)
            clips, patches = clips[few], patches[few]
            return {"patches": grid.gather(source, clips, patches), "position": line.positions[patches]}

        experts = {f"expert {name}": partial(patches_of, e) for e, name in enumerate(runtime.experts)}
        return {"saliency": lambda: {"spectrogram": heard["spectrogram"]}, **experts}


def _too_far(moved: float) -> str | None:
    """Why scores may not move so far, if they may not; what is no number is too far."""
    return None if moved <= MOST_MOVED else f"scores move by {moved:.3f} on average, {MOST_MOVED} is allowed"
