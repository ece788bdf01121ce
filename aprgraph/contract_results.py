"""What the tests of contracts found when they last ran, and what that makes of each contract.

The pytest plugin beside the tests records the outcomes of real runs in ``build/contracts.json``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from aprgraph.contract_files import Falsifier
from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.whole_file import write_whole

RECORD = Path("build", "contracts.json")
FORMAT = "aprgraph-contract-record"
VERSION = 1


class State(str, Enum):
    """What is known of a falsifier or a contract."""

    HELD = "held"
    FALSIFIED = "FALSIFIED"
    SKIPPED = "skipped"
    NOT_RUN = "not run"


#: What a contract is, from what its falsifiers are: the first of these that one of them is.
_WORST_FIRST = (State.FALSIFIED, State.NOT_RUN, State.SKIPPED, State.HELD)


@dataclass(frozen=True)
class TestResult:
    """The last outcome (passed, failed or skipped) of one test, the falsifiers it names, and the commit it ran at, if known."""

    __test__ = False  # to pytest the name says otherwise

    outcome: str
    falsifiers: tuple[str, ...]
    commit: str | None


#: Results by pytest's node id.
Record = dict[str, TestResult]


def read_record(checkout: Path) -> Record:
    """What real runs found, empty where there was none. Raises AprgraphError for a damaged record."""
    path = checkout / RECORD
    try:
        return _parse_record(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise AprgraphError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AprgraphError(f"{path}: not a record of test runs ({type(error).__name__}: {error}); remove it and run the tests") from None


def _parse_record(document: dict[str, Any]) -> Record:
    if (document["format"], document["version"]) != (FORMAT, VERSION):
        raise ValueError(f"format {document['format']!r} version {document['version']!r}")
    return {
        test: TestResult(str(item["outcome"]), tuple(map(str, item["falsifiers"])), item["commit"])
        for test, item in document["tests"].items()
    }


def write_record(checkout: Path, record: Record) -> None:
    """Replace the record, whole or not at all. Raises AprgraphError."""
    tests = {
        test: {"outcome": result.outcome, "falsifiers": list(result.falsifiers), "commit": result.commit}
        for test, result in sorted(record.items())
    }
    path = checkout / RECORD
    text = json.dumps({"format": FORMAT, "version": VERSION, "tests": tests}, indent=1) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise AprgraphError(f"{path}: cannot be written: {error.strerror}") from None


def results_of(falsifier: Falsifier, record: Record) -> Record:
    """The results of the tests that name ``falsifier``."""
    return {test: result for test, result in record.items() if falsifier.id in result.falsifiers}


def state_of(results: Record) -> State:
    """FALSIFIED by any failure; held where something passed; a test that was skipped decides nothing."""
    outcomes = {result.outcome for result in results.values()}
    if "failed" in outcomes:
        return State.FALSIFIED
    if "passed" in outcomes:
        return State.HELD
    return State.SKIPPED if outcomes else State.NOT_RUN


def worst_of(states: Iterable[State]) -> State:
    """What several states come to: held only where each is."""
    return min(states, key=_WORST_FIRST.index, default=State.NOT_RUN)


def describe_commit(checkout: Path) -> str | None:
    """The commit that ``checkout`` is at, with ``-dirty`` where files differ from it; None outside git."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
