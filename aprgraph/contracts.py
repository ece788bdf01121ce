"""Contracts: what must hold, the tests that would falsify it, and what those tests found when they last ran.

``contracts/*.yaml`` state the rules (``contracts/schema.json`` is their form). A test names the falsifiers that it decides
by the pytest marker ``contract``; the plugin beside the tests records the outcomes of real runs in ``build/contracts.json``.
Contracts belong to a checkout: an installed package has none.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import AprgraphError

FOLDER = "contracts"
SCHEMA = "schema.json"
RECORD = Path("build", "contracts.json")
FORMAT = "aprgraph-contract-record"
VERSION = 1


@dataclass(frozen=True)
class Falsifier:
    """One rule of a contract, and what a test observes if it holds; anything else falsifies it."""

    id: str
    rule: str
    prediction: str


@dataclass(frozen=True)
class Contract:
    """One subject. ``source`` is the one place of truth in the code, as ``module:attribute``."""

    id: str
    title: str
    statement: str
    source: str
    falsifiers: tuple[Falsifier, ...]


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


def find_checkout(start: Path) -> Path:
    """The folder at ``start`` or above that has contracts. Raises AprgraphError."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / FOLDER / SCHEMA).is_file():
            return folder
    raise AprgraphError(
        f"no {FOLDER}/{SCHEMA} in {start} or above it; contracts come with aprgraph's source, not with the installed package: "
        "run this inside a checkout of the repository"
    )


def load_contracts(checkout: Path) -> tuple[Contract, ...]:
    """Every contract, by file name. Raises AprgraphError that names the file which is not one, or the id that is there twice."""
    import yaml  # noqa: PLC0415 -- slow, and needed by one command

    contracts: list[Contract] = []
    for path in sorted((checkout / FOLDER).glob("*.yaml")):
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            falsifiers = tuple(Falsifier(**{key: _line(value) for key, value in item.items()}) for item in document.pop("falsifiers"))
            contract = Contract(**{key: _line(value) for key, value in document.items()}, falsifiers=falsifiers)
        except OSError as error:
            raise AprgraphError(f"{path}: cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise AprgraphError(f"{path}: not a contract ({type(error).__name__}: {reason}); its form is {FOLDER}/{SCHEMA}") from None
        strange = [falsifier.id for falsifier in falsifiers if not falsifier.id.startswith(f"{contract.id}-")]
        if strange:
            raise AprgraphError(
                f"{path}: falsifier {strange[0]!r} of contract {contract.id}, expected an id that begins with {contract.id}-"
            )
        contracts.append(contract)
    if not contracts:
        raise AprgraphError(f"{checkout / FOLDER}: holds no contract; expected one .yaml file a subject")
    for ids in ([contract.id for contract in contracts], [falsifier.id for falsifier in falsifiers_of(contracts)]):
        twice = next((one for one in ids if ids.count(one) > 1), None)
        if twice is not None:
            raise AprgraphError(f"{checkout / FOLDER}: the id {twice} is there twice; expected it once")
    return tuple(contracts)


def _line(value: object) -> str:
    """Text as one line; YAML folds it as the file happens to be wrapped."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r}")
    return " ".join(value.split())


def falsifiers_of(contracts: Iterable[Contract]) -> list[Falsifier]:
    """The falsifiers of all ``contracts``, in order."""
    return [falsifier for contract in contracts for falsifier in contract.falsifiers]


def find_gaps(contracts: Iterable[Contract], marks: Mapping[str, Sequence[str]]) -> list[str]:
    """Where contracts and tests do not fit each other, in sentences; ``marks`` are the ids that each collected test names."""
    known = [falsifier.id for falsifier in falsifiers_of(contracts)]
    tested = {one for ids in marks.values() for one in ids}
    gaps = [f"falsifier {one} has no test" for one in known if one not in tested]
    for test, ids in marks.items():
        if not ids:
            gaps.append(f"{test} is marked and names no falsifier")
        gaps += [f"{test} names {one}, which no contract has" for one in ids if one not in known]
    return gaps


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps({"format": FORMAT, "version": VERSION, "tests": tests}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
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
