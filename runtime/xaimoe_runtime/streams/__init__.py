"""Endless audio: samples pushed in, windows and events out."""
