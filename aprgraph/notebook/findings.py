"""The cells of what was found out: the verdict, what makes it less certain, the tables, and a map of stages by layers."""

from __future__ import annotations

from aprgraph.bisection import Bisection
from aprgraph.graph.words import bytes_text, listed, small_number
from aprgraph.notebook.cell import LARGEST, LEVELS, cell, facts, line, notes, says, summary, table
from aprgraph.notebook.stage_map import Mark, map_rules, stage_map
from aprgraph.runtime.blame import Audit, LocalState
from aprgraph.runtime.blame.wrong_rows import audit_rows, axis_lines, wrong_rows
from aprgraph.runtime.check import CheckReport
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.comparison.pointed import matter
from aprgraph.runtime.diff.classify import DIVERGED
from aprgraph.runtime.diff.report import outcomes
from aprgraph.runtime.diff.side_facts import side_facts
from aprgraph.runtime.report.marks import finding, glyph
from aprgraph.runtime.weights import WeightsReport

_NAMES = 8
#: State of an audit -> its look, its glyph, and what it means.
_STATES = {
    LocalState.RIGHT: ("RIGHT", "·", "RIGHT: what the model computes from what was recorded before it"),
    LocalState.WRONG: ("B WRONG", "✗", "WRONG: not what the model computes from that"),
    LocalState.SHAPE: ("SHAPE", "S", "SHAPE: of another size than the model's"),
    LocalState.UNKNOWN: ("UNKNOWN", "?", "UNKNOWN: could not be replayed"),
}
#: What the map points at.
_OFF = (LocalState.WRONG, LocalState.SHAPE)


def comparison_cell(report: Comparison) -> str:
    """Both sides, who is wrong where, and the map."""
    blame = report.blame
    wrong = [] if blame is None else wrong_rows(blame)
    columns = ["verdict", "tensor", "local error of A", "of B", "limit", "largest at", "why"]
    rows = [[row.verdict, row.group.label, row.a, row.b, row.limit, row.worst, row.why] for row in wrong]
    near = [
        [report.word(row), row.label, small_number(row.error), small_number(row.limit), row.reason or ""]
        for row in matter(report)
        if not wrong
    ]
    sides = [("A", report.a), ("B", report.b)] if report.traces is None else list(side_facts(report, *report.traces))
    marks, meanings = {}, {}
    for row in report.rows:
        found, (mark, meaning) = finding(report, row), glyph(report, row)
        is_off = found in DIVERGED or bool(getattr(found, "is_wrong", False))
        title = f"{row.label}: {report.word(row)} {small_number(report.error_of(row))}"
        marks[row.key] = Mark(found.value, mark, title, is_off)
        meanings[found.value] = meaning
    return cell(
        summary(report.summary, LEVELS.get(report.exit_code, "")),
        facts(
            [
                *sides,
                ("prompt", report.prompt),
                ("tensors", ", ".join(f"{count:,} {word}" for word, count in report.tally.items()) or "none"),
                ("common to all", listed(report.suspects, _NAMES) if report.suspects else ""),
            ]
        ),
        table(columns, rows, ".frame() has all"),
        *map(line, [] if blame is None else axis_lines(map(blame.local_of, blame.wrong))),
        table(["class", "tensor", "error", "limit", "why"], near, ".frame() has all"),
        *(line(f"{row.outcome_sentence}.") for row in outcomes(report.rows)[:1]),
        stage_map(marks, meanings),
        rules=map_rules(),
    )


def bisection_cell(found: Bisection) -> str:
    """The rounds, and the last comparison where it goes beside them."""
    layers = [one.plan.layers for one in found.rounds]
    every = ["" if one.step == 1 else f", one in {one.step}" for one in layers]
    rows = [
        [", ".join(one.plan.stages), f"{span.start}..{span.stop}{step}", bytes_text(one.nbytes), one.report.verdict]
        for one, span, step in zip(found.rounds, layers, every, strict=True)
    ]
    rounds = cell(
        says(found.sentence, LEVELS.get(found.exit_code, "")), table(["taps", "layers", "both traces", "said"], rows, ".rounds has all")
    )
    last = comparison_cell(found.report)
    return rounds + last if len(rounds) + len(last) <= LARGEST else rounds


def audit_cell(found: Audit) -> str:
    """What is wrong, and the map."""
    off = [local for local in found.locals if local.state in _OFF]
    rows = [[row.state, row.group.label, row.error, row.limit, row.worst, row.sources, row.why] for row in audit_rows(found, off)]
    marks = {}
    for local in found.locals:
        look, mark, _ = _STATES[local.state]
        marks[local.key] = Mark(look, mark, f"{local.label}: {local.state.value} {small_number(local.error)}", local.state in _OFF)
    return cell(
        summary(found.summary, LEVELS.get(found.exit_code, "")),
        facts(
            [
                ("trace", found.trace),
                ("model", found.model),
                ("prompt", found.prompt),
                ("tensors", ", ".join(f"{count:,} {state.value}" for state, count in found.counts.items()) or "none"),
                ("common to all", listed(found.common, _NAMES) if found.common else ""),
            ]
        ),
        table(["", "tensor", "local error", "limit", "largest at", "replayed from", "why"], rows, ".frame() has all"),
        *map(line, axis_lines(found.wrong)),
        stage_map(marks, {look: meaning for look, _, meaning in _STATES.values()}),
        rules=map_rules(),
    )


def weights_cell(report: WeightsReport) -> str:
    """Whether two files hold the same model, and what is not the same."""
    return cell(
        says(report.sentence, LEVELS.get(report.exit_code, "")),
        notes(report.notes),
        facts([("A", f"{report.paths[0]} ({report.kinds[0]})"), ("B", f"{report.paths[1]} ({report.kinds[1]})")]),
        table(["", "weight", "what"], [[group.first.status.value, group.names, group.text] for group in report.groups], ".groups has all"),
        table(["key", "in A", "in B"], [[one.key, one.a, one.b] for one in (*report.hyperparameters, *report.tokenizer)]),
    )


def check_cell(report: CheckReport) -> str:
    """Whether a file is sound, and what is wrong with it."""
    rows = []
    for group in report.by_rule.values():
        names = listed(dict.fromkeys(one.name for one in group if one.name), _NAMES)
        rows.append([group[0].rule.level.value, group[0].rule.title, names, group[0].text])
    return cell(
        says(report.sentence, LEVELS.get(report.exit_code, "")),
        facts([("file", f"{report.path} ({report.kind})"), ("read", report.extent)]),
        *(line(f"not looked at: {one}") for one in report.not_looked_at),
        table(["", "what", "where", "why"], rows, ".findings has all"),
    )
