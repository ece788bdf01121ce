"""Orders of rows that conversions make, and mistake: heads for RoPE, gate and up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprgraph.graph.words import counted
from aprgraph.runtime.weights.fit import Fit
from aprgraph.runtime.weights.head_halves import to_halves, to_neighbours
from aprgraph.runtime.weights.model_numbers import head_counts, head_size, turned_sizes
from aprgraph.runtime.weights.rows import Index, Rows, rows_of
from aprgraph.runtime.weights.tensor_pair import TensorPair

_ROTATED = ("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias", "attn_q_norm.weight", "attn_k_norm.weight")
_FUSED = ("attn_qkv.weight", "attn_qkv.bias")
#: Of latent attention, RoPE turns the last rows of each head of q, and of k those that all heads share.
_LATENT_QUERIES, _LATENT_KEYS = ("attn_q.weight", "attn_q_b.weight"), "attn_kv_a_mqa.weight"


def head_orders(pair: TensorPair) -> Iterator[Fit]:
    """The rows of each head of q and k: RoPE turns neighbours (0, 1), (2, 3) … on one side and halves (0, D/2) … on the other."""
    files = (pair.file_a, pair.file_b)
    heads = [*head_counts(files), 1] if pair.slot in _ROTATED + _FUSED else []
    rows = pair.rows_a.count
    for count in dict.fromkeys(heads):
        for rotated, all_heads in _rotated_heads(pair.slot, count, heads):
            size = rows // all_heads
            if rows % all_heads or size < 4:
                continue
            for turned in dict.fromkeys([size, *turned_sizes(files)]):
                if turned % 2 or not 4 <= turned <= size:
                    continue
                for a_order, order in (("neighbours", to_halves(turned)), ("halves", to_neighbours(turned))):
                    within = np.arange(size)
                    within[:turned] = order
                    whole = np.arange(rows)
                    whole[: rotated * size] = (np.arange(rotated)[:, None] * size + within).reshape(-1)
                    b_order = "halves" if a_order == "neighbours" else "neighbours"
                    text = (
                        f"the rows of each of {counted(rotated, 'head')} are permuted as for RoPE: A pairs {a_order}, B {b_order}"
                        f"{'' if turned == size else f' in the first {turned} of {size}'}"
                    )
                    short = f"the rows of each head are permuted as for RoPE (A pairs {a_order}, B {b_order})"
                    yield _permuted("head-rows", text, pair, whole, short if count in _own_heads(pair, size) else text)


def wrong_head_counts(pair: TensorPair) -> Iterator[Fit]:
    """Rows of q or k that one side has permuted for RoPE as if there were another number of heads, beside a side that has not erred.

    Both are in one order but for that: of two files of one kind, or of two kinds when the one has been brought to the other's order.
    """
    files, rows = (pair.file_a, pair.file_b), pair.rows_a.count
    size = head_size(files, pair.slot, rows) if pair.slot in _ROTATED else 0
    if not size or size % 2:
        return
    counts = head_counts(files)
    own, one = rows // size, np.arange(rows)
    # One converter divided the query heads by the KV heads (ggml-org/llama.cpp#3364).
    for wrong in dict.fromkeys([*counts, max(counts) // min(counts), 1]):
        if wrong == own or rows % (2 * wrong):
            continue
        # By the row in neighbours, the one in halves.
        right, other = (one.reshape(count, 2, -1).swapaxes(1, 2).reshape(-1) for count in (own, wrong))
        sides: dict[tuple[int, ...], list[str]] = {}
        for order in (np.argsort(other)[right], right[np.argsort(other)]):
            sides.setdefault(tuple(order.tolist()), []).append("B")
            sides.setdefault(tuple(np.argsort(order).tolist()), []).append("A")
        for found, erred in sides.items():
            side = erred[0] if len(set(erred)) == 1 else "one side"  # two exchanges undo each other
            text = (
                f"{side} has its rows permuted for RoPE as if of {counted(wrong, 'head')}, where there {'is' if own == 1 else 'are'} {own}"
            )
            yield _permuted("head-rows", text, pair, np.array(found))


def latent_orders(pair: TensorPair) -> Iterator[Fit]:
    """The same of latent attention, where what RoPE turns is the end of each head of q, and of the one of k."""
    files, rows = (pair.file_a, pair.file_b), pair.rows_a.count
    is_key = pair.slot == _LATENT_KEYS
    if not is_key and pair.slot not in _LATENT_QUERIES:
        return
    size = rows if is_key else head_size(files, pair.slot, rows)
    for turned in turned_sizes(files):
        if turned % 2 or not 4 <= turned < size:
            continue
        for a_order, b_order, order in (("neighbours", "halves", to_halves(turned)), ("halves", "neighbours", to_neighbours(turned))):
            within = np.arange(size)
            within[size - turned :] = size - turned + order
            whole = (np.arange(rows // size)[:, None] * size + within).reshape(-1)
            which = f"the last {turned} rows{'' if is_key else f' of each of {rows // size} heads'}"
            text = f"{which} are permuted as for RoPE: A pairs {a_order}, B {b_order}"
            yield _permuted("head-rows", text, pair, whole)


def _own_heads(pair: TensorPair, size: int) -> set[int]:
    """The count of heads that a tensor has by its rows, where all files agree on it: then it need not be said."""
    return {pair.rows_a.count // size} if pair.slot in _ROTATED else set()


def _rotated_heads(slot: str, count: int, heads: list[int]) -> Iterator[tuple[int, int]]:
    """How many heads come first that are turned, and of how many."""
    if slot in _FUSED:
        yield from ((count + keys, count + 2 * keys) for keys in dict.fromkeys(heads) if keys <= count)
    else:
        yield count, count


def _permuted(kind: str, text: str, pair: TensorPair, order: Index, slot_text: str = "") -> Fit:
    return Fit(kind, text, pair.rows_b, order.__getitem__, slot_text=slot_text)


def gate_and_up_orders(pair: TensorPair) -> Iterator[Fit]:
    """Gate and up swapped, or interleaved row by row on one side: as two tensors, or as one."""
    pair_of = {"ffn_gate": "ffn_up", "ffn_up": "ffn_gate", "ffn_gate_exps": "ffn_up_exps", "ffn_up_exps": "ffn_gate_exps",
               "ffn_gate_shexp": "ffn_up_shexp", "ffn_up_shexp": "ffn_gate_shexp"}  # fmt: skip
    stem, _, what = pair.slot.partition(".")
    partner = pair.other(f"{pair_of[stem]}.{what}") if stem in pair_of else None
    rows = pair.matrix_rows
    if partner is not None:
        yield Fit("gate-and-up-swapped", "gate and up are swapped", rows_of(pair.file_b, partner))
        is_gate = "gate" in stem
        both = rows_of(pair.file_b, *((pair.b, partner) if is_gate else (partner, pair.b)))
        yield from _interleaved(pair, both, rows, is_gate=is_gate)
    elif stem in ("ffn_up", "ffn_gate_up_exps") and rows % 2 == 0:
        half = rows // 2
        one = np.arange(rows)
        for kind, text, order in (
            ("gate-and-up-swapped", "the halves, gate and up, are swapped", np.roll(one, half)),
            ("gate-and-up-interleaved", "gate and up are interleaved row by row in A, one after the other in B", to_halves(rows)),
            ("gate-and-up-interleaved", "gate and up are interleaved row by row in B, one after the other in A", to_neighbours(rows)),
        ):
            yield Fit(kind, text, pair.rows_b, _in_each_matrix(order))


def _in_each_matrix(order: Index) -> _Mapped:
    return _Mapped(order, len(order))


class _Mapped:
    """Applies an order within each matrix of experts."""

    def __init__(self, order: Index, size: int) -> None:
        self._order, self._size = order, size

    def __call__(self, rows: Index) -> Index:
        return rows // self._size * self._size + self._order[rows % self._size]


def _interleaved(pair: TensorPair, both: Rows, rows: int, *, is_gate: bool) -> Iterator[Fit]:
    """``both``: all of gate, then all of up. A cut one matrix into two: by halves where B took every other row, or the reverse."""
    all_rows = pair.rows_a.count
    first = 0 if is_gate else rows

    def halves_of_interleaved(numbers: Index) -> Index:
        matrix, row = numbers // rows, numbers % rows + first
        return row % 2 * all_rows + matrix * rows + row // 2

    def every_other_of_halves(numbers: Index) -> Index:
        matrix, row = numbers // rows, numbers % rows * 2 + (0 if is_gate else 1)
        return row // rows * all_rows + matrix * rows + row % rows

    text = "gate and up are mixed: {} took the halves of a matrix from which {} took every other row"
    yield Fit("gate-and-up-interleaved", text.format("A", "B"), both, halves_of_interleaved)
    yield Fit("gate-and-up-interleaved", text.format("B", "A"), both, every_other_of_halves)
