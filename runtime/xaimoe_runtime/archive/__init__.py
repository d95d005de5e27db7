"""Classifying archives: many files, several processes, output that survives a crash."""
