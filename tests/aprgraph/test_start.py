"""What a command loads before it works: nothing that it does not need, for whoever waits for it."""

from __future__ import annotations

from pathlib import Path

from aprgraph import CompiledModel
from tests.support.cli import run_python

_RUN = """
import sys
from aprgraph.cli import main
sys.argv = ["aprgraph", "run", sys.argv[1], "--taps", "all", "--tokens", "1,2,3", "-o", "t", "--force"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted(name for name in ("tvm", "networkx", "gguf", "rich", "multiprocessing", "torch", "tvm_ffi") if name in sys.modules))
"""


def test_a_run_that_was_compiled_before_loads_tvms_library_and_no_package_of_it(tiny: CompiledModel, tmp_path: Path) -> None:
    tiny.run("all", tokens=(1, 2, 3), directory=tmp_path / "first")  # the program of this plan is compiled, and kept
    result = run_python(_RUN, tiny.artifact.directory, cwd=tmp_path)
    assert result.out.splitlines()[-1] == "loaded: tvm_ffi"
