"""The table of tolerances as docs/tolerances.md: ``python -m aprgraph.runtime.diff.tolerance_table > docs/tolerances.md``."""

from __future__ import annotations

from aprgraph.graph.stages import STAGES, StageKind
from aprgraph.runtime.diff import tolerances
from aprgraph.runtime.diff.tolerances import CROWDED_FROM, LOCAL_FACTOR, PROFILE_SUMMARIES, PROFILES, ROPE_GROWTH, TABLE_VERSION


def markdown() -> str:
    """The page: the rules, a table for each profile, and which stage is of which kind."""
    rules = tolerances.__doc__ or ""
    for name, value in (("LOCAL_FACTOR", LOCAL_FACTOR), ("CROWDED_FROM", CROWDED_FROM), ("ROPE_GROWTH", ROPE_GROWTH)):
        rules = rules.replace(f"``{name}``", f"{value:g}")
    lines = [
        "# How far two tensors may differ",
        "",
        "<!-- Written by `python -m aprgraph.runtime.diff.tolerance_table > docs/tolerances.md` from runtime/diff/tolerances.py. -->",
        "",
        f"Version {TABLE_VERSION}. `aprgraph diff` chooses a profile from what the manifests say (`arithmetic` and `weights`, and the",
        "block formats in the graph); `--profile NAME` names one, and `--tol 'REGEX=nmse:VALUE'` sets the limit of some stages.",
        "",
        *rules.replace("``", "`").strip().splitlines()[2:],
        "",
        "`tests/runtime/test_diff_noise.py` and `test_diff_noise_models.py` measure the numbers anew: honest noise stays within them.",
    ]
    for profile, table in PROFILES.items():
        summary = PROFILE_SUMMARIES[profile]
        lines += ["", f"## {profile}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
        lines += ["| stages | limit | own | crowding | where it comes from |", "|---|---|---|---|---|"]
        for tolerance in dict.fromkeys(table.values()):
            kinds = ", ".join(kind.value for kind in table if table[kind] is tolerance)
            crowding = "" if tolerance.crowding is None else f"{tolerance.crowding:g}"
            lines.append(f"| {kinds} | {tolerance.limit:g} | {tolerance.own:g} | {crowding} | {tolerance.derivation} |")
    lines += ["", "## Which stage is of which kind", "", "| kind | stages |", "|---|---|"]
    lines += [f"| {kind.value} | {', '.join(stage.name for stage in STAGES if stage.kind is kind)} |" for kind in StageKind]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
