"""``audit``: compare one trace with the model, as it stands, or as it is to be read where that explains it better."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from aprgraph.graph.model import Model
from aprgraph.runtime.blame.auditor import AuditOptions, Auditor, Progress
from aprgraph.runtime.blame.beginnings import where_it_begins
from aprgraph.runtime.blame.chosen_arithmetic import ChosenArithmetic
from aprgraph.runtime.blame.local_errors import Audit
from aprgraph.runtime.blame.model_row_order import in_order_of_model
from aprgraph.runtime.blame.other_places import Hopeless, in_other_places
from aprgraph.runtime.blame.recorded import PromptTokens
from aprgraph.runtime.blame.repeated import with_repeats
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.texts_apart import texts_apart
from aprgraph.runtime.diff.side_facts import trace_fact
from aprgraph.runtime.executors.workers import WorkersExecutor
from aprgraph.runtime.readings.repeats import without_repeats
from aprgraph.runtime.trace.reader import Trace


def audit(
    trace: Trace,
    model: Model | ReplayedModel,
    *,
    tokens: PromptTokens = None,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    stages: Collection[str] | None = None,
    progress: Progress | None = None,
    arithmetic: str | None = None,
    executor: WorkersExecutor | None = None,
) -> Audit:
    """Replay every tensor of ``trace`` whose inputs are known. See ``AuditOptions`` for the arguments, ``Auditor`` for the errors.

    ``arithmetic`` is a name with its options, or ``find`` (chosen_arithmetic.py). ``progress`` is called with the label of each tensor.

    Tensors may have been recorded under the name of another stage or layer. If the model explains the trace better
    that way, the audit reads it that way (other_places.py).
    """
    replayed = ReplayedModel.of(model)
    once, repeated = without_repeats(trace, replayed.graph)
    once, notes = in_order_of_model(once, replayed)
    options = AuditOptions(tokens, profile, tolerances, stages, ChosenArithmetic(arithmetic), executor)
    found, options = _in_best_arithmetic(once, replayed, options, progress)

    def audited(one: Trace, by: AuditOptions) -> Audit:
        return Auditor(one, replayed, by).audit(progress)

    def audited_unless(one: Trace, hopeless: Hopeless) -> Audit | None:
        return Auditor(one, replayed, options).audit_unless(hopeless, progress)

    found = where_it_begins(found, once, lambda beginning: audited(once, replace(options, beginning=beginning)))
    found = texts_apart(found, once, tokens, lambda text, of_text: audited(text, replace(options, tokens=of_text)))
    found = in_other_places(found, once, replayed.model.family.layers, audited_unless)
    found = with_repeats(found, repeated)
    return replace(found, notes=(*found.notes, *notes), about=trace_fact(found.name, found.trace, trace))


def _in_best_arithmetic(trace: Trace, model: ReplayedModel, options: AuditOptions, progress: Progress | None) -> tuple[Audit, AuditOptions]:
    """The audit with the arithmetic by which least is wrong, and the options with that one.

    The first layers may not tell arithmetics apart, and what is wrong may. One that explains none of what is wrong leaves no less: it is
    not tried on the whole, unless something was recorded otherwise, which is known of a whole audit alone.
    """
    first = Auditor(trace, model, options).audit(progress)
    best = first, options
    for other in options.arithmetic.others() if options.arithmetic is not None and first.wrong else ():
        others = replace(options, arithmetic=other)
        if not first.is_read_otherwise and not Auditor(trace, model, others).explains_some({local.key for local in first.wrong}):
            continue
        found = Auditor(trace, model, others).audit(progress)
        if len(found.wrong) < len(best[0].wrong):
            best = found, others
    return best
