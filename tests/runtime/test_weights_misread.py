"""Packed integers that were read, or packed, with one mistake: `weights` names it, though it is within what GPTQ may cost a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.runtime.weights import Status
from tests.support.packed_checkpoint import Integers, in_groups_of, in_words, pair_of

Mistake = Callable[[Integers], Integers]
OUTPUTS = {f"blk.{layer}.attn_output.weight" for layer in range(2)}
_BACK, _AWQ = range(7, -1, -1), (0, 2, 4, 6, 1, 3, 5, 7)
_IN_ORDER = "0 1 2 3 4 5 6 7"


def zeros(change: Callable[[np.ndarray], np.ndarray]) -> Mistake:
    return lambda made: replace(made, zero=change(made.zero))


def scales_transposed(made: Integers) -> Integers:
    return replace(made, scale=made.scale.reshape(made.scale.shape[::-1]).T)


def signed(made: Integers) -> Integers:
    return replace(made, q=np.where(made.q > 7, made.q - 16, made.q))


#: The format, the mistake, and what is said of it.
MISTAKES: dict[str, tuple[str, Mistake, str]] = {
    "zeros as stored": ("gptq", zeros(lambda z: z - 1), "with zero points one less"),
    "zeros as stored, in four bits": ("gptq", zeros(lambda z: (z - 1) & 15), "with zero points one less"),
    "zeros of AWQ plus one": ("awq", zeros(lambda z: z + 1), "with zero points one more"),
    "symmetric": ("gptq", zeros(lambda z: np.full_like(z, 8)), "with zero points of 8"),
    "no zeros": ("compressed", zeros(np.zeros_like), "without zero points"),
    "signed": ("gptq", signed, "with signed codes"),
    "larger groups": ("gptq", in_groups_of(32), "in groups of 32 inputs in place of 16"),
    "smaller groups": ("awq", in_groups_of(8), "in groups of 8 inputs in place of 16"),
    "scales transposed": ("gptq", scales_transposed, "with its scales transposed"),
    "highest first": (
        "gptq",
        lambda made: replace(made, q=in_words(made.q, 0, _BACK), zero=in_words(made.zero, 1, _BACK)),
        f"with the codes and zero points of each word as 7 6 5 4 3 2 1 0 in place of {_IN_ORDER}",
    ),
    "highest first, codes": (
        "compressed",
        lambda made: replace(made, q=in_words(made.q, 0, _BACK)),
        f"with the codes of each word as 7 6 5 4 3 2 1 0 in place of {_IN_ORDER}",
    ),
    "AWQ in order": (
        "awq",
        lambda made: replace(made, q=in_words(made.q, 1, _AWQ), zero=in_words(made.zero, 1, _AWQ)),
        f"with the codes and zero points of each word as {_IN_ORDER} in place of 0 2 4 6 1 3 5 7",
    ),
    "AWQ's zeros in order": (
        "awq",
        lambda made: replace(made, zero=in_words(made.zero, 1, _AWQ)),
        f"with the zero points of each word as {_IN_ORDER} in place of 0 2 4 6 1 3 5 7",
    ),
    "MLX without biases": ("mlx", zeros(np.zeros_like), "without its biases"),
    "MLX's biases subtracted": ("mlx", zeros(np.negative), "with its biases subtracted"),
}


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_reader_made_of_packed_integers_is_named(name: str, tmp_path: Path) -> None:
    kind, mistake, words = MISTAKES[name]
    folder, floats = pair_of(kind, tmp_path, mistake)
    for side, report in (("A", aprgraph.compare_weights(folder, floats)), ("B", aprgraph.compare_weights(floats, folder))):
        assert {one.name: one.kind for one in report.unlike} == dict.fromkeys(OUTPUTS, "misread")
        assert all(f"{side}'s" in one.text and words in one.text for one in report.unlike)


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_groups_out_of_order_without_g_idx(tmp_path: Path) -> None:
    """The order of activations (desc_act) that a reader leaves out, in whichever of the two files."""
    folder, floats = pair_of("gptq", tmp_path, in_groups_of(16), out_of_order=True)
    report = aprgraph.compare_weights(folder, floats)
    assert {one.name: one.kind for one in report.unlike} == dict.fromkeys(OUTPUTS, "misread")
    assert all("without g_idx" in one.text for one in report.unlike)


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_what_was_packed_wrongly_is_named_by_the_floats_that_it_was_made_from(tmp_path: Path) -> None:
    """AWQ whose codes lie in order: read so, it is what it was made from, up to the steps of four bits."""
    folder, floats = pair_of("awq", tmp_path, _packed_in_order, mispacked=True)
    found = aprgraph.compare_weights(folder, floats).unlike
    assert {one.name: one.kind for one in found} == dict.fromkeys(OUTPUTS, "misread")
    assert all(f"with the codes and zero points of each word as {_IN_ORDER} in place of 0 2 4 6 1 3 5 7" in one.text for one in found)


def _packed_in_order(made: Integers) -> Integers:
    """What the writer of AWQ's order has to be given, for the codes to lie in order."""
    back = np.argsort(_AWQ).tolist()
    return replace(made, q=in_words(made.q, 1, back), zero=in_words(made.zero, 1, back))


@pytest.mark.contract("WEIGHTS-SAME-1")
@pytest.mark.parametrize("kind", ["gptq", "awq", "mlx", "compressed"])
@pytest.mark.parametrize("mispacked", [False, True])
def test_what_was_read_rightly_is_the_same(kind: str, mispacked: bool, tmp_path: Path) -> None:
    """Against what it decodes to, and against what it was quantised from."""
    folder, floats = pair_of(kind, tmp_path, lambda made: made, out_of_order=kind == "gptq", mispacked=mispacked)
    for report in (aprgraph.compare_weights(folder, floats), aprgraph.compare_weights(floats, folder)):
        assert (report.exit_code, {one.name for one in report.of(Status.ROUNDED)}) == (0, OUTPUTS)
