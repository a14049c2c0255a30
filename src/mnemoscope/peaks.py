"""The most memory that was in use since a moment: of the process on a CPU, allocated on the device elsewhere."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def start_peak(device: torch.device) -> None:
    """Forget the peak so far, where the system can; elsewhere it is that of the whole process."""
    if device.type == "cuda":
        import torch

        torch.cuda.init()  # without it there are no statistics yet, which is an error
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not on macOS, and not in every container
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Bytes at the peak."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
