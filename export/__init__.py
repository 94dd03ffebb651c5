"""Deployment formats: one verb, one file per format, every file proved in its own runtime."""

from .errors import ExportError, Mismatch
from .export import export_projector
from .report import Check, Report

__all__ = ["Check", "ExportError", "Mismatch", "Report", "export_projector"]
