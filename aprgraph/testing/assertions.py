"""``assert_right`` and ``assert_alike``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aprgraph.testing.judgement import LISTENERS, Judgement

if TYPE_CHECKING:
    from aprgraph.comparison import ModelSource
    from aprgraph.runtime.blame import Audit
    from aprgraph.runtime.comparison import Comparison
    from aprgraph.runtime.diff.sources import Source


def assert_right(trace: Source, model: ModelSource, *, tokens: Sequence[int] | None = None, **options: Any) -> Audit:
    """Fail unless each tensor of ``trace`` is what ``model`` computes from the tensors that the trace itself recorded before it.

    ``trace`` is a directory, an open Trace, or a dict of arrays under names such as ``"layer0.attn_norm"`` (see ``Trace.write``).
    ``tokens`` are the prompt's ids, where the trace does not name them; ``options`` are those of ``aprgraph.audit``. The message of the
    AssertionError is the verdict: which stage is wrong, and the mistake that explains it. It fails too where so little could be replayed
    that nothing is shown. Returns the audit, whose ``reservations`` and ``counts`` say how far "right" goes.

    Raises AprgraphError for what cannot be read or replayed.
    """
    __tracebackhide__ = True
    from aprgraph.comparison import audit  # noqa: PLC0415 -- what a test that never gets here need not wait for
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    try:
        found = audit(trace, model, tokens=tokens, **{"progress": False, **options})
    except AprgraphError as error:
        raise error.with_traceback(None) from None
    _judge(Judgement(found))
    return found


def assert_alike(a: Source, b: Source, *, model: ModelSource | None = None, **options: Any) -> Comparison:
    """Fail unless the two traces agree as far as their arithmetic lets them (docs/tolerances.md).

    ``a`` and ``b`` are as ``trace`` of ``assert_right``. With ``model``, the message says which side is wrong, and where; and it fails too
    where both agree and are wrong. ``options`` are those of ``aprgraph.diff``. Returns the report.

    Raises AprgraphError for what cannot be read or compared.
    """
    __tracebackhide__ = True
    from aprgraph.comparison import diff  # noqa: PLC0415
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    try:
        report = diff(a, b, model=model, **{"progress": False, **options})
    except AprgraphError as error:
        raise error.with_traceback(None) from None
    _judge(Judgement(report))
    return report


def _judge(judgement: Judgement) -> None:
    """Tell the listeners, and raise AssertionError unless it holds."""
    __tracebackhide__ = True
    for listener in list(LISTENERS):
        listener(judgement)
    if judgement.exit_code != 0:
        raise AssertionError(judgement.message)
