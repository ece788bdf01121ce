"""The table of tolerances as docs/tolerances.md: ``python -m aprgraph.runtime.diff.tolerance_table > docs/tolerances.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType

from aprgraph.graph.stages import STAGES, StageKind
from aprgraph.runtime.diff import grown_noise, inputs, tolerance_rules, tolerances, weight_noise
from aprgraph.runtime.diff.grown_noise import GROWS_IN
from aprgraph.runtime.diff.inputs import GAINS, HELD_TO_INPUTS, gain_of
from aprgraph.runtime.diff.tolerance_rules import CROWDED_FROM
from aprgraph.runtime.diff.tolerances import PROFILE_SUMMARIES, PROFILES, TABLE_VERSION
from aprgraph.runtime.diff.weight_noise import FORMAT_NOISE

#: What was found and what was not of faults in the quantised weights of SmolLM2 (`python bench/quantised.py`).
_POWER = """
How many faults in one matrix of each kind in each of the 30 layers of SmolLM2 are found by what was recorded alone (7 and 60 tokens; its
weights requantised, against what they were; `python bench/quantised.py`):

| weights | tokens | lost block column | block column doubled | lost row | swapped rows |
|---|---|---|---|---|---|
| Q8_0 | 7 | 138 of 150 | 138 of 150 | 146 of 150 | 143 of 150 |
| Q8_0 | 60 | 141 of 150 | 141 of 150 | 147 of 150 | 147 of 150 |
| Q6_K | 7 | 128 of 150 | 111 of 150 | 146 of 150 | 42 of 150 |
| Q6_K | 60 | 145 of 150 | 143 of 150 | 147 of 150 | 81 of 150 |
| Q5_0 | 7 | 3 of 150 | 3 of 150 | 146 of 150 | 2 of 150 |
| Q5_0 | 60 | 2 of 150 | 1 of 150 | 147 of 150 | 13 of 150 |
| Q4_K | 7 | 38 of 150 | 10 of 150 | 146 of 150 | 0 of 150 |
| Q4_K | 60 | 50 of 150 | 9 of 150 | 147 of 150 | 2 of 150 |
| Q4_0 | 7 | 1 of 150 | 0 of 150 | 146 of 150 | 0 of 150 |
| Q4_0 | 60 | 0 of 150 | 0 of 150 | 147 of 150 | 0 of 150 |
| MXFP4 | 7 | 3 of 150 | 3 of 150 | 146 of 150 | 3 of 150 |
| MXFP4 | 60 | 0 of 150 | 0 of 150 | 147 of 150 | 0 of 150 |
| Q3_K | 7 | 5 of 150 | 0 of 150 | 146 of 150 | 0 of 150 |
| Q3_K | 60 | 2 of 150 | 0 of 150 | 147 of 150 | 0 of 150 |
| Q2_K | 7 | 0 of 150 | 0 of 150 | 146 of 150 | 0 of 150 |
| Q2_K | 60 | 0 of 150 | 0 of 150 | 147 of 150 | 0 of 150 |

Not found, then, is what changes a matmul by less than a few times what its inputs carry and its weights cost: in files of 4 bits nearly
all but lost rows and large parts of a matrix. With `--model`, each side is replayed from its own inputs, which takes out what these carry.
""".strip()


def markdown() -> str:
    """The page: the rules, a table for each profile, what weights and inputs explain, and which stage is of which kind."""
    lines = [
        "# How far two tensors may differ",
        "",
        "<!-- Written by `python -m aprgraph.runtime.diff.tolerance_table > docs/tolerances.md` from what runtime/diff declares. -->",
        "",
        f"Version {TABLE_VERSION}. `aprgraph diff` chooses a profile from what the manifests say (`arithmetic` and `weights`, and the",
        "block formats in the graph); `--profile NAME` names one, and `--tol 'REGEX=nmse:VALUE'` sets the limit of some stages.",
        "",
        *_doc(tolerances),
        "",
        *_doc(tolerance_rules),
        "",
        "`tests/runtime/test_diff_noise.py`, `test_diff_noise_models.py` and `test_diff_inputs.py` measure the numbers anew: honest noise",
        "stays within them.",
    ]
    for profile, table in PROFILES.items():
        summary = PROFILE_SUMMARIES[profile]
        lines += ["", f"## {profile}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
        lines += ["| stages | limit | own | crowding | where it comes from |", "|---|---|---|---|---|"]
        for tolerance in dict.fromkeys(table.values()):
            kinds = ", ".join(kind.value for kind in table if table[kind] is tolerance)
            crowding = "" if tolerance.crowding is None else f"{tolerance.crowding:g}"
            lines.append(f"| {kinds} | {tolerance.limit:g} | {tolerance.own:g} | {crowding} | {tolerance.derivation} |")
    lines += ["", f"## Noise that has grown: {', '.join(GROWS_IN)}", "", *_doc(grown_noise)]
    lines += ["", "| profile | largest NMSE |", "|---|---|", *(f"| {profile} | {most:g} |" for profile, most in GROWS_IN.items())]
    lines += ["", *_weights(), "", *_inputs(), "", "## Which stage is of which kind", "", "| kind | stages |", "|---|---|"]
    lines += [f"| {kind.value} | {', '.join(stage.name for stage in STAGES if stage.kind is kind)} |" for kind in StageKind]
    return "\n".join(lines) + "\n"


def _weights() -> Iterator[str]:
    yield from ("## quant-vs-float, by block format and depth", "")
    yield from _doc(weight_noise)
    yield from ("", "| weights | NMSE of one matmul |", "|---|---|")
    costs = sorted(set(FORMAT_NOISE.values()))
    for cost in costs:
        yield f"| {', '.join(name for name in FORMAT_NOISE if FORMAT_NOISE[name] == cost)} | {cost:g} |"


def _inputs() -> Iterator[str]:
    yield from (f"## A stage against its inputs: {', '.join(HELD_TO_INPUTS)}", "")
    yield from _doc(inputs)
    yield from ("", f"| stages | gain | with fewer than {CROWDED_FROM} positions | where it comes from |", "|---|---|---|---|")
    for gain in GAINS:
        stages = ", ".join(stage.name for stage in STAGES if gain_of(stage.name) is gain)
        yield f"| {stages} | {gain.many:g} | {gain.few:g} | {gain.derivation} |"
    yield ""
    yield from _POWER.splitlines()


def _doc(module: ModuleType) -> Iterator[str]:
    """What a module says of itself, but for its first paragraph, with the numbers that it names."""
    text = re.sub(r"``([A-Z_]+)``", lambda name: f"{getattr(module, name[1]):g}", module.__doc__ or "")
    yield from text.replace("``", "`").strip().splitlines()[2:]


if __name__ == "__main__":
    print(markdown(), end="")
