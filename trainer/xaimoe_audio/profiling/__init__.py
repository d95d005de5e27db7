"""What a dataset is like, before a model is chosen for it."""

from xaimoe_audio.profiling.profile import DatasetProfile, profile_dataset

__all__ = ["DatasetProfile", "profile_dataset"]
