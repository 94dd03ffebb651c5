"""The conformance kit: one call checks what every block and every projector must satisfy.

For example::

    from mobilevlm.testing import check_block, check_projector

    def test_gate():
        check_block(Gate)
"""

from __future__ import annotations

from .host_reads import HostReadError, refuse_host_reads
from .kit import check_block, check_projector
from .report import ConformanceError

__all__ = [
    "ConformanceError",
    "HostReadError",
    "check_block",
    "check_projector",
    "refuse_host_reads",
]
