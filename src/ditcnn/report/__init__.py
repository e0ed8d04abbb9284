"""Runs side by side in one self-contained page."""

from ditcnn.report.page import write_report

__all__ = ["write_report"]
