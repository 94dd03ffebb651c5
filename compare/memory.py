"""The most memory that a call holds at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd.profiler_util import MEMORY_EVENT_NAME
from torch.profiler import ProfilerActivity, profile

from ..blocks.core.quiet import quiet
from .timing import wait

__all__ = ["measured_peak"]


def measured_peak(call: Callable[[], object], device: torch.device) -> int | None:
    """Return the most bytes that a call holds at once, over what was there before it.

    Counted is what torch's allocator hands out: features and the buffers of its operators, but not
    what a library such as MKL or oneDNN takes from the system by itself. On the CPU the profiler
    says it, which sees every allocation and every release; elsewhere, the allocator's own record.
    Weights and input are there before. The call is made twice: the first time warms it up.

    Args:
        call: The call; it waits for the device by itself.
        device: Where it runs.

    Returns:
        The bytes, or None if the device keeps no record.
    """
    call()
    if device.type == "cpu":
        return _peak_on_cpu(call)
    records = torch.get_device_module(device)
    if not hasattr(records, "reset_peak_memory_stats"):
        return None
    wait(device)
    records.reset_peak_memory_stats(device)
    before: int = records.memory_allocated(device)
    call()
    return int(records.max_memory_allocated(device)) - before


def _peak_on_cpu(call: Callable[[], object]) -> int:
    # The profiler announces its start and its end on the terminal.
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == MEMORY_EVENT_NAME:
            held += event.nbytes()
            most = max(most, held)
    return most
