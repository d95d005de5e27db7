"""Knowledge distillation: what another classifier, given as an ONNX file, hears in the training recordings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray

from xaimoe_audio.data.dataset import LabelledRecording
from xaimoe_audio.data.pieces import overlapping_pieces
from xaimoe_runtime.console import progress
from xaimoe_runtime.errors import BundleError, ConfigError

Floats = NDArray[np.float32]
Count = Annotated[int, msgspec.Meta(ge=1)]
LEAST_PROBABILITY = 1e-4
PATCHES = 64
"""Patches whose log-mel bands are computed at once."""
MAX_INPUT_S = 60.0
"""Seconds of a recording that a teacher of waveforms without a fixed length is given at once."""


class TeacherInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a teacher wants its input; the defaults are YAMNet's (M. Plakal and D. Ellis, 2019).

    Read from ``NAME.teacher.json`` beside ``NAME.onnx`` if that is there.
    """

    kind: Literal["logmel", "waveform"] = "logmel"
    """``logmel`` [1, patch_frames, mels], or ``waveform`` [n] or [1, n]: if the model fixes n, one after the other,
    else the whole recording, or equal parts of a minute at most."""
    sample_rate: Count = 16_000
    win_length: Count = 400
    """Samples of the periodic Hann window."""
    hop: Count = 160
    n_fft: Count = 512
    mels: Count = 64
    """Bands that are triangles on the HTK mel scale, over the magnitude spectrum."""
    fmin: float = 125.0
    fmax: float = 7_500.0
    log_offset: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    """Added to the bands before the logarithm."""
    patch_frames: Count = 96
    patch_hop: Count = 48
    """Frames from patch to patch."""

    def __post_init__(self) -> None:
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(f"fmin and fmax must lie between 0 and half the sample_rate, {self.sample_rate / 2:g}")
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length must not exceed n_fft, {self.n_fft}")


class OnnxTeacher:
    """A classifier as an ONNX file; its answer for a recording is the mean of its first output over the patches.

    Raises:
        BundleError: the file is missing or ONNX Runtime refuses it.
        ConfigError: its input is of another shape than the adapter makes.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise BundleError(f"{path}: no such file; expected a teacher as an ONNX model")
        raw = path.read_bytes()
        self.path, self.sha256 = path, hashlib.sha256(raw).hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # so that its sums do not depend on the machine
        try:
            self.session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base but this
            raise BundleError(f"{path}: ONNX Runtime refuses it ({str(error).splitlines()[0]})") from error
        self.input = _read_input(path.with_suffix(".teacher.json"), self._shape)
        self._check_input()

    @property
    def _shape(self) -> list[Any]:
        return list(self.session.get_inputs()[0].shape)

    def _check_input(self) -> None:
        spec, shape = self.input, self._shape
        wanted = [1, spec.patch_frames, spec.mels] if spec.kind == "logmel" else [1, "n"][-min(len(shape), 2) :]
        fits = len(shape) == len(wanted) and all(
            not isinstance(found, int) or want in (found, "n") for found, want in zip(shape, wanted, strict=True)
        )
        inputs = self.session.get_inputs()
        if not fits or len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{i.type} {list(i.shape)}" for i in inputs)
            raise ConfigError(
                f"{self.path}: found input {found}; the adapter makes one {spec.kind}, tensor(float) {wanted}; "
                f"describe the input in {self.path.with_suffix('.teacher.json').name}"
            )

    def __call__(self, samples: Floats) -> Floats:
        """Return the teacher's answer [C] for samples [n] at its rate.

        Raises:
            BundleError: it fails, or its answer is not one of finite numbers.
        """
        return self.answer_blocks([samples], len(samples))

    def answer_blocks(self, blocks: Iterable[Floats], length: int) -> Floats:
        """Return the teacher's answer [C] for a recording in blocks, whose length memory does not grow with.

        Args:
            blocks: consecutive samples at its rate, [n] each.
            length: samples of them all.

        Raises:
            BundleError: it fails, or its answer is not one of finite numbers.
        """
        name, total, count = self.session.get_inputs()[0].name, np.zeros(1), 0
        for patch in self._patches(blocks, length):
            try:
                (answer, *_) = self.session.run(None, {name: patch})
                total = total + np.asarray(answer, np.float32).reshape(-1, np.shape(answer)[-1]).mean(0)
            except Exception as error:  # onnxruntime's own exceptions have no common base but this
                reason = str(error).splitlines()[0]
                raise BundleError(f"{self.path}: fails on an input of shape {list(patch.shape)} ({reason})") from error
            count += 1
        found = np.asarray(total / count, np.float32)
        if not np.isfinite(found).all():
            raise BundleError(f"{self.path}: its answers are not all finite numbers; expected scores or features")
        return found

    def _patches(self, blocks: Iterable[Floats], length: int) -> Iterator[Floats]:
        """Yield the teacher's inputs, as ``TeacherInput.kind`` describes them; a shorter recording is repeated.

        Args:
            blocks: consecutive samples at the teacher's rate, [n] each.
            length: samples of them all.
        """
        spec = self.input
        if spec.kind == "waveform":
            fixed = self._shape[-1]
            # Without a length of its own the teacher hears the whole recording, or a long one in equal parts.
            parts = -(-length // round(MAX_INPUT_S * spec.sample_rate))
            size = fixed if isinstance(fixed, int) else max(length // max(parts, 1), 1)
            least = size
        else:
            frame = max(spec.n_fft, spec.win_length)
            least = frame + (spec.patch_frames - 1) * spec.hop
            size = least + (PATCHES - 1) * spec.patch_hop * spec.hop
        if length < least:
            blocks = [np.resize(np.concatenate(list(blocks)), least)]
        if spec.kind == "waveform":
            for piece in overlapping_pieces(blocks, size, size):
                if len(piece) == size:
                    yield piece if len(self._shape) == 1 else piece[None]
            return
        for piece in overlapping_pieces(blocks, size, PATCHES * spec.patch_hop * spec.hop):
            bands = _log_mel(piece, spec) if len(piece) >= least else np.zeros((0, spec.mels), np.float32)
            for start in range(0, len(bands) - spec.patch_frames + 1, spec.patch_hop):
                yield bands[None, start : start + spec.patch_frames]


def _read_input(path: Path, shape: list[Any]) -> TeacherInput:
    if not path.is_file():
        return TeacherInput(kind="logmel" if len(shape) > 2 else "waveform")
    try:
        return msgspec.json.decode(path.read_bytes(), type=TeacherInput)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}; expected {', '.join(TeacherInput.__struct_fields__)}") from error


def _log_mel(samples: Floats, spec: TeacherInput) -> Floats:
    """Log-mel spectrogram [T, mels] of samples [n]."""
    transform = torchaudio.transforms.Spectrogram(
        n_fft=spec.n_fft, win_length=spec.win_length, hop_length=spec.hop, power=1.0, center=False
    )
    magnitude = transform(torch.from_numpy(np.ascontiguousarray(samples, np.float32)))
    bands = magnitude.T @ torch.from_numpy(mel_triangles(spec))
    return np.asarray(torch.log(bands + spec.log_offset).numpy())


def mel_triangles(spec: TeacherInput) -> Floats:
    """Return the weight of each DFT bin in each band, [n_fft // 2 + 1, mels].

    The triangles are straight on the mel scale, as YAMNet was trained with; those of torchaudio and librosa are
    straight in Hz. The bin at 0 Hz has no weight.
    """

    def mel(hz: Any) -> NDArray[np.float64]:
        return np.asarray(1127 * np.log1p(np.asarray(hz, np.float64) / 700))

    edges = np.linspace(mel(spec.fmin), mel(spec.fmax), spec.mels + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.linspace(0, spec.sample_rate / 2, spec.n_fft // 2 + 1))[:, None]
    weights = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    weights[0] = 0
    return np.asarray(weights, np.float32)


def teacher_answers(teacher: OnnxTeacher, items: list[LabelledRecording]) -> Floats:
    """Return a teacher's answers, with a progress bar on stderr.

    Args:
        teacher: the classifier.
        items: N recordings, decoded at the teacher's rate.

    Returns:
        [N, C], the mean over a recording's patches of what the teacher's first output holds.

    Raises:
        BundleError: it fails on one of them, which is named.
    """
    answers = []
    with progress("asking the teacher", len(items)) as advance:
        for item in items:
            try:
                blocks = (block.samples[:, 0] for block in item.recording.blocks())
                answers.append(teacher.answer_blocks(blocks, item.recording.length))
            except BundleError as error:
                raise BundleError(f"{item.row.filepath}: {error}") from error
            advance()
    return np.stack(answers)


def as_targets(answers: Floats) -> Floats:
    """A teacher's answers [N, C] as what a student is to say: each with mean 0 and deviation 1 over the recordings.

    Probabilities are taken as log-odds first, in which small ones count, too.
    """
    if answers.min() >= 0 and answers.max() <= 1:
        within = np.clip(answers, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        answers = np.log(within / (1 - within))
    spread = answers.std(0)
    scaled = (answers - answers.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.asarray(scaled, np.float32)
