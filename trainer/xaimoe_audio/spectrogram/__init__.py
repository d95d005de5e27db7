"""Spectrograms and signal attributes: what the model sees of a recording. A new backend is a class with one method::

    from xaimoe_audio.spectrogram import FrameBackend, register

    @register("octaves")
    class Octaves(FrameBackend):
        def centres(self): ...   # Hz, [F]
        def filters(self): ...   # weights on the power spectrum, [n_fft // 2 + 1, F]
"""

from xaimoe_audio.spectrogram import cqt, fcwt, logmel, pcen, stft
from xaimoe_audio.spectrogram.backend import BACKENDS, Backend, ClipBackend, FrameBackend, backend_class, register

__all__ = ["BACKENDS", "Backend", "ClipBackend", "FrameBackend", "backend_class", "register"]
