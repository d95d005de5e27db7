"""Models that an engineer would take instead, each from samples in memory to scores."""
