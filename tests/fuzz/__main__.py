"""``python -m tests.fuzz [--minutes M] [--cases N] [--seed S] [--case I] [KIND ...]``: runs each kind, and reports what it found."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.fuzz.kinds import KINDS
from tests.fuzz.run import Finding, check, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for all kinds together")
    parser.add_argument("--cases", type=int, default=1 << 40, help="at most so many of each kind")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--case", type=int, help="run one case of one kind here, every command too, and keep its files in this folder")
    given = parser.parse_args()
    chosen = given.kinds or list(KINDS)
    if given.case is not None:
        return _one(chosen[0], given.seed, given.case)
    found: list[Finding] = []
    print(f"seed {given.seed}")
    for kind in chosen:
        until = time.monotonic() + 60 * given.minutes / len(chosen)
        begin = time.monotonic()
        count, findings = run(KINDS[kind], given.seed, given.first, given.cases, until)
        found += findings
        print(f"{kind}: {count} cases in {time.monotonic() - begin:.0f} s, {len(findings)} findings", flush=True)
        for cause in dict.fromkeys(one.kind for one in findings):
            those = [one for one in findings if one.kind == cause]
            print(f"  {len(those)} x {cause}: python -m tests.fuzz {kind} --seed {given.seed} --case {those[0].case}", flush=True)
    return 1 if found else 0


def _one(kind: str, seed: int, case: int) -> int:
    place = Path(tempfile.mkdtemp(prefix="aprgraph-fuzz-"))
    print(place)
    target = KINDS[kind](place)
    os.chdir(place)
    target.mutate(Random(f"{seed}/{kind}/{case}"))
    print(check(target, case, always=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
