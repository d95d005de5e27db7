"""Spectrograms and signal attributes: what the model sees of a recording. A new backend is a class with two methods::

from xaimoe_audio.spectrogram import FrameBackend, register

@register("octaves")
class Octaves(FrameBackend):
    def centres(self): ...   # Hz, [F]
    def filters(self): ...   # weights on the power spectrum, [n_fft // 2 + 1, F]
"""

from xaimoe_audio.spectrogram.backend import BACKENDS, Backend, ClipBackend, FrameBackend, backend_class, register
from xaimoe_audio.spectrogram.cqt import CQT
from xaimoe_audio.spectrogram.fcwt import FCWT
from xaimoe_audio.spectrogram.logmel import LogMel
from xaimoe_audio.spectrogram.pcen import LogMelPCEN
from xaimoe_audio.spectrogram.stft import STFT

__all__ = [
    "BACKENDS",
    "CQT",
    "FCWT",
    "STFT",
    "Backend",
    "ClipBackend",
    "FrameBackend",
    "LogMel",
    "LogMelPCEN",
    "backend_class",
    "register",
]
