"""Where endless audio comes from: a file, a pipe, the network, a sound card."""

from xaimoe_runtime.streams.sources.base import Source, Trouble
from xaimoe_runtime.streams.sources.file import FileSource
from xaimoe_runtime.streams.sources.pipe import PipeSource
from xaimoe_runtime.streams.sources.soundcard import SoundCard
from xaimoe_runtime.streams.sources.spec import open_source
from xaimoe_runtime.streams.sources.udp import UdpSource

__all__ = ["FileSource", "PipeSource", "SoundCard", "Source", "Trouble", "UdpSource", "open_source"]
