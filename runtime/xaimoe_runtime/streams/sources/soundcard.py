"""Microphones and other inputs of sound cards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from xaimoe_runtime.errors import ConfigError, ProviderError
from xaimoe_runtime.streams.sources.base import BLOCK_S, POLL_S, Item, Trouble, check_raw

RETRY_S = 5.0
"""Seconds after which a sound card that went away is tried again."""
MICROPHONE = "mic"


class SoundCard:
    """A microphone or another input of the sound card; one that goes away is waited for.

    Args:
        device: part of its name, its number, or nothing for the usual one.
        rate: Hz; the device's own if None.
        channels: recorded.

    Raises:
        ProviderError: the package ``sounddevice`` or the library PortAudio is missing.
        ConfigError: there is no such device.
    """

    encoding, live = "", True

    def __init__(self, device: str = "", rate: int | None = None, channels: int = 1) -> None:
        self.name = MICROPHONE + (f":{device}" if device else "")
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # OSError: PortAudio itself
            raise ProviderError(
                f'{self.name}: sound cards need sounddevice ({error}); run: pip install "xai-moe-audio[live]" and, on '
                "Linux, install PortAudio (libportaudio2)"
            ) from error
        self._sounddevice: Any = sounddevice
        self._device: int | str | None = int(device) if device.isdecimal() else device or None
        try:
            found = sounddevice.query_devices(self._device, "input")
        except (ValueError, sounddevice.PortAudioError) as error:
            raise ConfigError(f"{self.name}: no such input ({error}); python -m sounddevice lists them") from error
        self.rate, self.channels, self._closed = rate or int(found["default_samplerate"]), channels, False
        check_raw(self.rate, channels, self.name)

    def read(self) -> Iterator[Item]:
        """What is recorded."""
        frames, gone = max(round(BLOCK_S * self.rate), 1), False
        while not self._closed:
            try:
                if gone:  # PortAudio looks for cards only when it begins
                    self._sounddevice._terminate()
                    self._sounddevice._initialize()
                with self._sounddevice.InputStream(self.rate, frames, self._device, self.channels, "float32") as input:
                    while not self._closed:
                        block, overflowed = input.read(frames)
                        if overflowed:
                            yield Trouble("samples were lost before they could be read", gap=True)
                        gone = False
                        yield np.array(block)
            except (self._sounddevice.PortAudioError, ValueError) as error:  # ValueError: no card of that name
                if not gone:
                    yield Trouble(f"{error}; it is tried again every {RETRY_S:g} s", gap=True)
                gone = True
                self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + RETRY_S
        while not self._closed and time.monotonic() < until:
            time.sleep(POLL_S)

    def close(self) -> None:
        """Ends after the block being recorded."""
        self._closed = True
