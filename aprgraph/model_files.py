"""Looking at model files: is one sound, and do two hold the same model?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aprgraph.graph.sources.open import open_source
from aprgraph.progress import progress_bytes
from aprgraph.runtime.check import CheckReport
from aprgraph.runtime.check import check as check_file
from aprgraph.runtime.weights import WeightsReport, compare_files


def check(path: str | Path, *, weights: bool = True, progress: Callable[[int], None] | bool | None = None) -> CheckReport:
    """Is a model file sound? Its metadata and tokenizer are looked at, and all of its weights if ``weights``.

    ``progress`` False shows none; a function is called with the bytes that were read since the last call. The report's ``sentence``
    is the one to read first. Raises ModelFileError for what is not there, cannot be read, or is nothing that anybody knows.
    """
    with progress_bytes(progress, f"checking {Path(path).name}") as read:
        return check_file(path, weights=weights, progress=read)


def weights(a: str | Path, b: str | Path, *, progress: Callable[[int], None] | bool | None = None) -> WeightsReport:
    """Whether two model files hold the same model: tensor by tensor, with hyperparameters and tokenizers.

    ``progress`` is as of ``check``, of both files. The report's ``sentence`` is the one
    to read first. Raises ModelFileError or UnsupportedModelError for a file that cannot be read.
    """
    with progress_bytes(progress, f"comparing {Path(a).name} and {Path(b).name}") as read:
        return compare_files(open_source(a), open_source(b), read)


#: Its earlier name.
compare_weights = weights
