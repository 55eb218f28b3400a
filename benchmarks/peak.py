"""How much memory something takes at its peak."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def _status_bytes(name: str) -> int:
    """A size that Linux keeps of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status does not tell {name}")


class PeakMemory:
    """Resident memory of this process, in bytes: at the ``start``, at the ``peak``, and how much ``more`` that is.

    The kernel keeps the peak, so that no allocation is too short to be seen (Linux only).
    """

    def __enter__(self) -> PeakMemory:
        # What was freed before goes back to the system: it would hide as much of what is allocated from now on.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        # The peak begins anew: see proc_pid_clear_refs(5).
        Path("/proc/self/clear_refs").write_text("5")
        self.start = _status_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = _status_bytes("VmHWM")
        self.more = self.peak - self.start
