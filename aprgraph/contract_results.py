"""What the tests of contracts found when they last ran, and what that makes of each contract.

The pytest plugin beside the tests records the outcomes of real runs in ``build/contracts.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
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
    """The last outcome (passed, failed or skipped) of one test, and the falsifiers it names.

    ``commit`` is what the checkout was at, and ``files`` the digest of its files (``digest_of_files``); None where not known.
    """

    __test__ = False  # to pytest the name says otherwise

    outcome: str
    falsifiers: tuple[str, ...]
    commit: str | None
    files: str | None = None


#: What decides what tests find: contracts, code and tests. Files of other kinds and other folders do not count.
_FOLDERS = ("aprgraph", "codegen", "contracts", "graph", "runtime", "tests")
_SUFFIXES = (".py", ".yaml")

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
        test: TestResult(str(item["outcome"]), tuple(map(str, item["falsifiers"])), item["commit"], item.get("files"))
        for test, item in document["tests"].items()
    }


def write_record(checkout: Path, record: Record) -> None:
    """Replace the record, whole or not at all. Raises AprgraphError."""
    tests = {
        test: {"outcome": result.outcome, "falsifiers": list(result.falsifiers), "commit": result.commit, "files": result.files}
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


def digest_of_files(checkout: Path) -> str:
    """A digest of the code, tests and contracts in ``checkout``, which says whether these are as they were.

    They are only read, and no program is started: git would run what the checkout's own configuration names.
    """
    found = hashlib.sha256()
    for top in _FOLDERS:
        for folder, folders, names in os.walk(checkout / top):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if name.endswith(_SUFFIXES) and stat.S_ISREG(path.lstat().st_mode):
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                    found.update(f"{path.relative_to(checkout).as_posix()}\0{content}\n".encode(errors="surrogateescape"))
    return found.hexdigest()
