"""Memory for tensors that are made: what does not fit is an error before the system ends the process."""

from __future__ import annotations

from pathlib import Path

from aprgraph.graph.errors import ModelError

#: A tensor of fewer bytes is made without a look at the memory.
_SMALL = 1 << 26
#: What else the process, and the system, may need.
_SPARE = 1 << 30
_MEMINFO = Path("/proc/meminfo")


def require_room(path: Path, name: str, nbytes: int, meminfo: Path = _MEMINFO) -> None:
    """Raise ModelError if the tensor ``name``, made in memory, would not fit. ``meminfo`` is Linux's."""
    if nbytes < _SMALL:
        return
    available = available_memory(meminfo)
    if available is not None and nbytes + _SPARE > available:
        raise ModelError(
            f"{path}: {name} of {nbytes / 1e9:.1f} GB is put together in memory, of which {available / 1e9:.1f} GB are left; tap fewer "
            "layers and no stage behind them, or convert the checkpoint to GGUF, in which weights stay in the file"
        )


def available_memory(meminfo: Path = _MEMINFO) -> int | None:
    """Bytes that can be had without swapping; None where the system does not say. ``meminfo`` is Linux's."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    found = next((line.split() for line in lines if line.startswith("MemAvailable:")), [])
    return int(found[1]) * 1024 if len(found) > 1 and found[1].isdigit() else None
