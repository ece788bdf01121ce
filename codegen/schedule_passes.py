"""Passes of TVM's package for schedules, by name: importing it reads schedulers and tuners for a tenth of a second."""

from __future__ import annotations

from typing import Any

import tvm_ffi


def schedule_pass(name: str) -> Any:
    """The pass ``name`` of `tvm.s_tir.transform`, with its defaults."""
    return tvm_ffi.get_global_func(f"s_tir.transform.{name}")()
