"""``aprgraph contracts``: what must hold, and whether it did when the tests last ran."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aprgraph.cli.options import Json
from aprgraph.cli.terminal import echo_data

if TYPE_CHECKING:
    from aprgraph.contract_files import Contract
    from aprgraph.contract_results import Record

_EXIT_CODES = {"held": 0, "FALSIFIED": 1}
#: Some rules were not put to the test: neither success nor failure.
_EXIT_UNDECIDED = 3
#: pytest's own exit codes: 0 all passed, 1 some failed; above that it did not get through.
_TESTS_FAILED = 1


def contracts(
    run: Annotated[bool, typer.Option("--run", help="Run the tests that decide them first (needs pytest).")] = False,
    json: Json = False,
) -> None:
    """List the contracts: what must hold, the tests that would falsify it, and what they found.

    The states come from the last real run of the tests, whole or in part. A rule whose tests have not run, or were all
    skipped, is not held. Works inside a checkout of the repository.

    Example: aprgraph contracts --run

    Exit code: 0 every rule held, 1 one is falsified, 2 nothing could be said, 3 some were not run or skipped.
    """
    from aprgraph.contract_files import find_checkout, load_contracts  # noqa: PLC0415
    from aprgraph.contract_results import read_record  # noqa: PLC0415

    checkout = find_checkout(Path())
    found = load_contracts(checkout)
    if run:
        _run_tests(checkout)
    record = read_record(checkout)
    document = _describe(found, record)
    if json:
        import json as json_module  # noqa: PLC0415

        echo_data(json_module.dumps(document, indent=1, ensure_ascii=False) + "\n")
    else:
        _print(document, record, checkout)
    raise typer.Exit(document["exit_code"])


def _run_tests(checkout: Path) -> None:
    """Run the marked tests, their output on stderr. Raises AprgraphError if pytest did not get through."""
    import subprocess  # noqa: PLC0415
    from importlib.util import find_spec  # noqa: PLC0415

    from aprgraph.contract_results import RECORD  # noqa: PLC0415
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    if find_spec("pytest") is None:
        raise AprgraphError("--run needs pytest, which is not installed here; `make test` in the checkout installs and runs it")
    # Without the old record, a run that dies leaves nothing that looks like its result.
    (checkout / RECORD).unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "contract", "tests"]
    code = subprocess.run(command, cwd=checkout, stdout=2, check=False).returncode
    if code not in (0, _TESTS_FAILED):
        raise AprgraphError(f"the tests did not run through (pytest's exit code {code}); what it said is above")


def _describe(contracts: tuple[Contract, ...], record: Record) -> dict[str, Any]:
    """The answer as JSON; the text is made of it as well."""
    from aprgraph.contract_results import results_of, state_of, worst_of  # noqa: PLC0415

    states = {}
    described = []
    for contract in contracts:
        falsifiers = []
        for falsifier in contract.falsifiers:
            results = results_of(falsifier, record)
            states[falsifier.id] = state_of(results)
            falsifiers.append(
                {
                    "id": falsifier.id,
                    "rule": falsifier.rule,
                    "prediction": falsifier.prediction,
                    "state": states[falsifier.id].value,
                    "tests": [{"test": test, "outcome": result.outcome, "commit": result.commit} for test, result in results.items()],
                }
            )
        described.append(
            {
                "id": contract.id,
                "title": contract.title,
                "statement": contract.statement,
                "source": contract.source,
                "state": worst_of(states[falsifier.id] for falsifier in contract.falsifiers).value,
                "falsifiers": falsifiers,
            }
        )
    state = worst_of(states.values()).value
    return {
        "format": "aprgraph-contracts",
        "version": 1,
        "state": state,
        "exit_code": _EXIT_CODES.get(state, _EXIT_UNDECIDED),
        "counts": dict(Counter(one.value for one in states.values())),
        "contracts": described,
    }


def _print(document: dict[str, Any], record: Record, checkout: Path) -> None:
    from aprgraph.contract_results import digest_of_files  # noqa: PLC0415

    commits: set[str | None] = set()
    for contract in document["contracts"]:
        typer.echo(f"{contract['id']}: {contract['title']} ({contract['source']})")
        for falsifier in contract["falsifiers"]:
            typer.echo(f"  {falsifier['state']:9}  {falsifier['id']}: {falsifier['rule']}")
            if falsifier["state"] == "FALSIFIED":
                typer.echo(f"             predicted: {falsifier['prediction']}")
            for test in _tests(falsifier["tests"]):
                typer.echo(f"             {test}")
            commits |= {test["commit"] for test in falsifier["tests"]}
        typer.echo()
    counts = ", ".join(f"{count} {state}" for state, count in document["counts"].items())
    typer.echo(f"{sum(document['counts'].values())} falsifiers: {counts}")
    if not commits:
        typer.echo("no run is recorded; `aprgraph contracts --run` runs the tests")
        return
    names = sorted(commit or "an unknown commit" for commit in commits)
    tested = {result.files for result in record.values()}
    aside = "" if tested == {digest_of_files(checkout)} else "; code, tests or contracts have changed since some of these ran"
    typer.echo(f"recorded at {', '.join(names)}{aside}")


def _tests(results: list[dict[str, Any]]) -> list[str]:
    """One line for each test function, however many parameters it has; those that did not pass are named one by one."""
    lines: dict[str, Counter[str]] = {}
    for result in results:
        function = result["test"].partition("[")[0]
        lines.setdefault(function, Counter())[result["outcome"]] += 1
    shown = [
        f"{function} ({', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())})" for function, outcomes in lines.items()
    ]
    return shown + [f"failed: {result['test']}" for result in results if result["outcome"] == "failed" and "[" in result["test"]]
