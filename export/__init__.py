"""Deployment formats: one file per format, every export checked in its own runtime."""

from .errors import ExportError, Mismatch
from .export import export_projector
from .report import Check, Report

__all__ = ["Check", "ExportError", "Mismatch", "Report", "export_projector"]
