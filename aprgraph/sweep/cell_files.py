"""The files of cells.

A cell of a run has trace.json (each tensor's statistics), the kept tensors, audit.json, and audit.html where something is wrong; one of
a pair has diff.json, and diff.html where the two part. Both have cell.json: what it was computed from, and what came of it.
"""

from __future__ import annotations

import fnmatch
import html
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ComparisonError, NonFiniteError
from aprgraph.graph.tap_plan import parse_plan, parse_steps
from aprgraph.option_words import document_in_option_words, in_option_words, option_words
from aprgraph.runs.plan import RunOptions
from aprgraph.runtime.blame import audit
from aprgraph.runtime.blame.local_errors import Audit
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.diff import diff
from aprgraph.runtime.diff.classify import Class
from aprgraph.runtime.diff.side_names import SideNames
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.manifest import MANIFEST, TraceEntry, manifest_text
from aprgraph.runtime.trace.reader import Trace
from aprgraph.sweep.cells import PAIR, RUN, Cell, PairCell, RunCell
from aprgraph.sweep.models_here import compiled_here, model_here, replayed_here
from aprgraph.sweep.store import CELL

#: The classes that name where two runs part; what follows from them would fill the room.
_KEPT_CLASSES = (Class.INTRODUCED, Class.NAN, Class.SHAPE)
#: How many stages a cell's document names; its own page has all.
_NAMED = 24

Files = dict[str, bytes]


class CellFiles:
    """The cells of one group, whose traces lie in ``scratch`` until all are compared."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._audits: dict[str, Audit | None] = {}
        self._traces: dict[str, Trace] = {}
        self._failures: dict[str, str] = {}
        #: Processor seconds that runs took, what is compiled for them once, audits and comparisons.
        self.useful = 0.0

    def run(self, cell: RunCell) -> None:
        """Trace and audit into the scratch folder, as `aprgraph run` and `audit` do. Raises AprgraphError and NotOnThisMachineError."""
        began = time.process_time()
        try:
            self._run(cell)
        finally:
            self.useful += time.process_time() - began

    def _run(self, cell: RunCell) -> None:
        compiled = compiled_here(cell.model, cell.target, cell.cpu, cell.arithmetic)
        asked = cell.recording
        options = RunOptions(asked.positions, asked.max_tokens, parse_steps(asked.steps), asked.prefill_chunk, cell.arithmetic)
        plan = compiled.plan(parse_plan(asked.taps, asked.layers), cell.tokens, options)
        place = self._scratch / f"cell-{cell.key[:8]}"
        try:
            trace = compiled.record(plan, place)
        except NonFiniteError as error:
            self._failures[cell.key] = in_option_words(error.message)
            trace = Trace.open(place)
        self._traces[cell.key] = trace
        self._audits[cell.key] = audit(trace, replayed_here(cell.model)) if asked.audit else None

    def of(self, cell: Cell) -> Files:
        """The files of a cell; of a run, of what ``run`` left. Raises AprgraphError."""
        return self._run_files(cell) if isinstance(cell, RunCell) else self._pair_files(cell)

    def _run_files(self, cell: RunCell) -> Files:
        trace, found = self._traces[cell.key], self._audits[cell.key]
        neutral = self._neutral(cell)
        wrong = [] if found is None else [one for one in found.locals if one.key in {w.key for w in (*found.wrong, *found.misshapen)}]
        wanted = [place for one in wrong for place in (one.key, *one.sources)]
        kept, left_out = _choose(trace, wanted, cell.recording.keep, cell.recording.room)
        files = {entry.file: (trace.directory / entry.file).read_bytes() for entry in kept if entry.file is not None}
        names = {entry.key for entry in kept}
        assert trace.info is not None
        entries = [entry if entry.key in names else replace(entry, file=None) for entry in trace.entries]
        files[MANIFEST] = manifest_text(entries, trace.info).encode()
        failure = self._failures.get(cell.key)
        outcome: dict[str, Any] = {"exit_code": 1 if failure else 0, "sentence": failure or "recorded, and not audited"}
        if found is not None:
            files["audit.json"] = neutral(_json(document_in_option_words(found.to_json())))
            code = 1 if failure else found.exit_code
            outcome = {"exit_code": code, "sentence": failure or in_option_words(found.sentence)}
            if wrong:
                from aprgraph.runtime.report.audit_page import render_audit  # noqa: PLC0415

                files["audit.html"] = neutral(render_audit(found, option_words).encode())
        outcome["counts"] = {} if found is None else {state.value: count for state, count in found.counts.items()}
        outcome["stages"] = [[one.key.layer, one.key.stage, one.key.step] for one in wrong[:_NAMED]]
        document = {"kind": RUN, "slot": cell.slot, "of": cell.document, "label": cell.label, "tensors": len(entries), **outcome}
        files[CELL] = neutral(_json({**document, "kept": len(kept), "left_out": left_out}))
        return files

    def _pair_files(self, pair: PairCell) -> Files:
        for run in (pair.a, pair.b):
            if run.key not in self._traces:
                raise ComparisonError(f"there is no run of {run.label} to compare with")
        a, b = self._traces[pair.a.key], self._traces[pair.b.key]
        neutral = self._neutral(pair.a, pair.b)
        document: dict[str, Any] = {"kind": PAIR, "slot": pair.slot, "of": pair.document, "label": pair.label}
        began = time.process_time()
        try:
            report = Comparison.of(diff(a, b))
        except ComparisonError as error:
            self.useful += time.process_time() - began
            message = in_option_words(error.message)
            outcome = {"exit_code": 2, "sentence": message, "counts": {}, "stages": [], "kept": 0, "left_out": 0, "tensors": 0}
            return {CELL: neutral(_json({**document, **outcome}))}
        report = replace(report, called=SideNames(pair.a.label, pair.b.label))
        self.useful += time.process_time() - began
        files: Files = {"diff.json": neutral(_json(document_in_option_words(report.to_json())))}
        parted = [one.key for one in report.first]
        parted += [row.key for row in report.rows if row.classification in _KEPT_CLASSES and row.key not in parted]
        left_out = 0
        kept: list[TraceEntry] = []
        for side, trace in (("a", a), ("b", b)):
            chosen, left = _choose(trace, parted, (), pair.a.recording.room // 2)
            kept += chosen
            left_out += left
            files |= {f"{side}/{entry.file}": (trace.directory / entry.file).read_bytes() for entry in chosen if entry.file is not None}
        if report.diverged:
            from aprgraph.runtime.report.page import render_page  # noqa: PLC0415

            files["diff.html"] = neutral(render_page(report, *(report.traces or (a, b)), option_words).encode())
        outcome = {
            "exit_code": report.exit_code,
            "sentence": in_option_words(report.headline),
            "counts": report.tally,
            "stages": [[key.layer, key.stage, key.step] for key in parted[:_NAMED]],
            "tensors": len(report.rows),
            "kept": len(kept),
            "left_out": left_out,
        }
        files[CELL] = neutral(_json({**document, **outcome}))
        return files

    def _neutral(self, *cells: RunCell) -> Callable[[bytes], bytes]:
        """What takes this machine's paths out of a text: the same cell has the same bytes wherever it was computed."""
        changes: list[tuple[bytes, bytes]] = []
        for path, name in ((f"{self._scratch}/", ""), *(pair for cell in cells for pair in _paths_of(cell))):
            changes += [(form.encode(), name.encode()) for form in (path, json.dumps(path)[1:-1], html.escape(path))]

        def neutral(text: bytes) -> bytes:
            for old, new in changes:
                text = text.replace(old, new)
            return text

        return neutral


def _paths_of(cell: RunCell) -> list[tuple[str, str]]:
    path = model_here(cell.model).model.path
    return [(str(path), cell.model.name), (str(path.resolve()), cell.model.name)]


def _choose(trace: Trace, wanted: Collection[Place], patterns: Collection[str], room: int) -> tuple[list[TraceEntry], int]:
    """(the entries whose tensors are kept, how many more were to be): ``wanted`` in their order, then those that ``patterns`` name."""
    by_key = {entry.key: entry for entry in trace.entries}
    keys = list(dict.fromkeys(key for key in wanted if key in by_key))
    keys += [entry.key for entry in trace.entries if entry.key not in keys and any(fnmatch.fnmatch(entry.stage, one) for one in patterns)]
    kept: list[TraceEntry] = []
    left = room
    for key in keys:
        entry = by_key[key]
        if entry.file is None:
            continue
        size = (trace.directory / entry.file).stat().st_size
        if size <= left:
            left -= size
            kept.append(entry)
    return kept, len(keys) - len(kept)


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
