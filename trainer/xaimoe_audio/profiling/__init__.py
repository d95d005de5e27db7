"""What a dataset is like, before a model is chosen for it."""

from xaimoe_audio.profiling.profile import DatasetProfile, Profiled, most_important, profile_dataset

__all__ = ["DatasetProfile", "Profiled", "most_important", "profile_dataset"]
