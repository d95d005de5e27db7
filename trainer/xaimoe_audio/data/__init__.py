"""Labelled recordings: the table that names them, the decoded audio, and the clips cut from it."""

from xaimoe_audio.data.cache import AudioCache, Recording
from xaimoe_audio.data.dataset import LabelledDataset, LabelledRecording, load_dataset

__all__ = ["AudioCache", "LabelledDataset", "LabelledRecording", "Recording", "load_dataset"]
