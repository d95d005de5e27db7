"""Where endless audio comes from: a file, a pipe, the network, a sound card."""

from xaimoe_runtime.streams.sources.base import Item, Missing, Source, Trouble
from xaimoe_runtime.streams.sources.file import FileSource
from xaimoe_runtime.streams.sources.pipe import PipeSource
from xaimoe_runtime.streams.sources.soundcard import SoundCard
from xaimoe_runtime.streams.sources.spec import open_source
from xaimoe_runtime.streams.sources.tcp import TcpSource
from xaimoe_runtime.streams.sources.udp import UdpSource

__all__ = [
    "FileSource",
    "Item",
    "Missing",
    "PipeSource",
    "SoundCard",
    "Source",
    "TcpSource",
    "Trouble",
    "UdpSource",
    "open_source",
]
