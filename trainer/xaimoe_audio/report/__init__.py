"""One HTML file about a training run: data, choices, results, and clips to look into."""

from xaimoe_audio.report.page import write_report

__all__ = ["write_report"]
