"""Two tensors of one name: identical, the same up to rounding, or different, and by what."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aprgraph.graph.words import shape_text
from aprgraph.runtime.weights.candidates import candidates, same_rows
from aprgraph.runtime.weights.cut_off import is_all_cut_off, is_cut_off
from aprgraph.runtime.weights.damage import damage_in_words, is_damage, not_finite_in_words
from aprgraph.runtime.weights.finding import Status, TensorFinding
from aprgraph.runtime.weights.fit import Fit, Sampled, fits, measure
from aprgraph.runtime.weights.low_rank import find_rank
from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.misread import find_misreading
from aprgraph.runtime.weights.rows import Index
from aprgraph.runtime.weights.scaled_low_rank import find_scaled_rank
from aprgraph.runtime.weights.tensor_pair import TensorPair

#: Called with the number of bytes of both files that were read since the last call.
Progress = Callable[[int], None]
#: Of so large a share of blocks one says that they were changed in places.
_DAMAGED = 0.1
#: The least cosine of a matrix and the same with an adapter, and of two of which it is said how far they are apart.
_ALIKE, _MUCH_ALIKE = 0.3, 0.9
_MOST_TIMES = 100
_BYTES_AT_ONCE = 1 << 20


def compare_tensor(pair: TensorPair, progress: Progress | None = None) -> TensorFinding:
    """Compare one tensor of two files. Raises ModelFileError for a file that can no longer be read."""
    report = (lambda _: None) if progress is None else progress
    left = pair.a.nbytes + pair.b.nbytes

    def read(count: int) -> None:
        nonlocal left
        left -= count
        report(count)

    alike = pair.a.format == pair.b.format and pair.a.has_dims(pair.b.dims)
    if alike and pair.is_as_stored and _same_bytes(pair, read):
        return _found(pair, Status.IDENTICAL)
    report(left)
    direct = measure(pair.rows_a, same_rows(pair)) if pair.a.has_dims(pair.b.dims) else None
    if direct is not None:
        if direct.is_exact:
            return _found(pair, Status.IDENTICAL, measures=direct)
        misread = find_misreading(pair, direct)  # first: what GPTQ may cost a weight is more than a step
        if misread is not None:
            fit, measures = misread
            return _found(pair, Status.TRANSFORMED, kind=fit.kind, text=fit.text, measures=measures)
        damaged = _changed_in_places(pair, direct)
        if damaged is not None:
            return damaged
        if direct.is_rounding:
            if not direct.tells:
                return _found(pair, Status.UNTOLD, measures=direct)
            return _found(pair, Status.ROUNDED, measures=direct, text=is_cut_off(pair))
        cut_off = is_all_cut_off(pair)
        if cut_off:
            return _found(pair, Status.ROUNDED, measures=direct, text=cut_off)
    return _explained(pair, direct) or _unexplained(pair, direct)


def _same_bytes(pair: TensorPair, report: Progress) -> bool:
    buffers = [np.empty(min(_BYTES_AT_ONCE, pair.a.nbytes), np.uint8) for _ in range(2)]
    for start in range(0, pair.a.nbytes, _BYTES_AT_ONCE):
        parts = [buffer[: min(_BYTES_AT_ONCE, pair.a.nbytes - start)] for buffer in buffers]
        pair.file_a.read(pair.a, start, parts[0])
        pair.file_b.read(pair.b, start, parts[1])
        if not np.array_equal(parts[0], parts[1]):
            return False
        report(2 * parts[0].size)
    return True


def _changed_in_places(pair: TensorPair, direct: Measures) -> TensorFinding | None:
    """The finding where blocks of one format differ in some places and nowhere else: no other quantiser does that."""
    if pair.a.format != pair.b.format or pair.a.format.is_plain or direct.unequal_units > _DAMAGED * direct.units:
        return None
    sampled = Sampled(pair.rows_a, tuple(direct.bad_rows))
    if any(fits(sampled, fit) for fit, _ in candidates(pair) if fit.kind != "same"):
        return None
    return _damaged(pair, measure(pair.rows_a, same_rows(pair), exact=True))


def _explained(pair: TensorPair, direct: Measures | None) -> TensorFinding | None:
    """The first explanation that holds; of a vector, which has few elements, also what holds beside it."""
    held: list[tuple[Fit, Measures]] = []
    sampled = Sampled(pair.rows_a, () if direct is None else tuple(direct.bad_rows))
    for fit, may_have_factor in candidates(pair):
        found = fits(sampled, fit, with_factor=may_have_factor)
        if found is not None and not (held and found[0].factor != 1 and found[0].kind != "same"):
            held.append(found)
            if not pair.is_vector:
                break
    if not held:
        return None
    fit, measures = held[0]
    kind, text, summary = _in_words(fit)
    also = tuple(_in_words(other)[1] for other, _ in held[1:] if other.kind in ("same", "norm-plus-one"))
    return _found(pair, Status.TRANSFORMED, kind=kind, text=text, summary=summary, measures=measures, also=also, order=fit.moved)


def _in_words(fit: Fit) -> tuple[str, str, str]:
    factor = f"A is {fit.factor:.6g} times B"
    if fit.kind == "same":
        return "factor", factor, factor
    text, summary = fit.in_words()
    if fit.factor != 1:
        return fit.kind, f"{text}, and {factor}", f"{summary}, and {factor}"
    return fit.kind, text, summary


def _unexplained(pair: TensorPair, direct: Measures | None) -> TensorFinding:
    if direct is None:
        return _of_other_dims(pair)
    if is_damage(pair, direct):
        return _damaged(pair, direct)
    # An adapter adds to what is there: of two matrices that have nothing in common one need not look for it.
    may_be_ranked = not pair.is_vector and not any(direct.not_finite) and abs(direct.cosine) >= _ALIKE
    ranked = find_rank(pair.rows_a, pair.rows_b) if may_be_ranked else None
    if ranked is not None:
        text = f"the difference has rank {ranked[0]}, as an adapter (LoRA) that was merged"
        return _found(pair, Status.TRANSFORMED, kind="low-rank", text=text, summary=text, measures=ranked[1])
    scaled = find_scaled_rank(pair.rows_a, pair.rows_b) if may_be_ranked else None
    if scaled is not None:
        text = (
            f"each row has a factor of its own, and beside that the difference has rank {scaled[0]}, as an adapter of DoRA that was merged"
        )
        return _found(pair, Status.TRANSFORMED, kind="scaled-low-rank", text=text, summary=text, measures=scaled[1])
    text = "different, by no transform that is known here"
    return _found(
        pair, Status.DIFFERENT, text=text + _how_far(direct) + _constant(pair) + not_finite_in_words(direct), summary=text, measures=direct
    )


def _how_far(direct: Measures) -> str:
    """Where two tensors are much alike and block formats round: how many times what that costs they are apart."""
    if not direct.in_blocks or direct.cosine < _MUCH_ALIKE or not direct.expected:
        return ""
    times = direct.error / direct.expected
    return f" ({times:.2g} times as far apart as rounding once is expected to take them)" if times < _MOST_TIMES else ""


def _constant(pair: TensorPair) -> str:
    """Of a vector, whether one side is one number: a norm that was multiplied into what follows is 1."""
    if pair.is_vector:
        for side, rows in (("A", pair.rows_a), ("B", pair.rows_b)):
            values = rows.fetch(np.arange(min(rows.count, _BYTES_AT_ONCE))).values
            if values.size and (values == values.flat[0]).all():
                return f"; {side} is {values.flat[0]:.6g} everywhere"
    return ""


def _of_other_dims(pair: TensorPair) -> TensorFinding:
    """Rows that one side has more of, as a padded vocabulary has; or shapes that have nothing to do with each other."""
    a, b = pair.rows_a, pair.rows_b
    shapes = f"{shape_text(pair.a.dims)} in A, {shape_text(pair.b.dims)} in B"
    if a.columns == b.columns and len(pair.a.dims) == len(pair.b.dims):
        common = min(a.count, b.count)
        found = measure(a, same_rows(pair), count=common)
        if found.is_rounding and found.tells:
            more, side = abs(a.count - b.count), "A" if a.count > b.count else "B"
            text = f"{side} has {more:,} rows more at the end; the first {common:,} are the same"
            return _found(pair, Status.TRANSFORMED, kind="more-rows", text=text, summary=text, measures=found)
    return _found(pair, Status.DIFFERENT, kind="shape", text=f"of other dimensions: {shapes}", summary="of other dimensions")


def _damaged(pair: TensorPair, direct: Measures) -> TensorFinding:
    return _found(
        pair, Status.DAMAGED, kind="damaged", text=damage_in_words(pair, direct), summary="some of it is damaged", measures=direct
    )


def _found(
    pair: TensorPair,
    status: Status,
    *,
    kind: str = "",
    text: str = "",
    summary: str = "",
    measures: Measures | None = None,
    also: tuple[str, ...] = (),
    order: Index | None = None,
) -> TensorFinding:
    formats, dims = (pair.a.stored or pair.a.format.name, pair.b.stored or pair.b.format.name), (pair.a.dims, pair.b.dims)
    return TensorFinding(pair.name, status, formats, dims, kind, text, summary or text, measures, also, order)
