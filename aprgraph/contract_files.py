"""The contracts of a checkout: what must hold, and what a test would observe if it did not.

``contracts/*.yaml`` state the rules (``contracts/schema.json`` is their form). A test names the falsifiers that it decides
by the pytest marker ``contract``. An installed package has no contracts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aprgraph.graph.errors import AprgraphError

FOLDER = "contracts"
SCHEMA = "schema.json"


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
