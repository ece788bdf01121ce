"""What two model files do to a tensor beside rounding, for the tensors whose weights make two traces differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aprgraph.graph.sources.source import Source
from aprgraph.runtime.blame.weight_share import WeightShare
from aprgraph.runtime.weights.compare_tensor import compare_tensor
from aprgraph.runtime.weights.finding import SAME, Status
from aprgraph.runtime.weights.tensor_pair import whole_pair
from aprgraph.runtime.weights.two_files import TwoFiles

#: The largest number of tensors that are compared: those that make most of a stage.
_MOST = 32


def with_file_differences(shares: Sequence[WeightShare], a: Source, b: Source) -> tuple[WeightShare, ...]:
    """The shares, their tensors with what the two files hold otherwise than by rounding, as `aprgraph weights` says it.

    Raises ModelFileError for a file that can no longer be read.
    """
    files = TwoFiles(a, b)
    by_size = sorted(shares, key=lambda share: -share.by_weights)
    names = list(dict.fromkeys(weight.name for share in by_size for weight in share.weights))[:_MOST]
    said = {name: _said(files, name) for name in names}
    return tuple(
        replace(share, weights=tuple(replace(weight, by_file=said.get(weight.name, "")) for weight in share.weights)) for share in shares
    )


def _said(files: TwoFiles, name: str) -> str:
    """What is done to a tensor, in words; empty where it is the same up to rounding, or where nothing has a name."""
    ours, theirs = files.a.tensors.get(name), files.b.tensors.get(name)
    if ours is None or theirs is None:
        return ""
    found = compare_tensor(whole_pair(files, ours, theirs))
    for file in (files.a, files.b):
        file.release()
    return "" if found.status in (*SAME, Status.UNTOLD) or not found.kind else found.text
