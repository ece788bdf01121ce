"""``python -m tests.zoo [FAMILY ...]``: runs the whole zoo and prints docs/bug-zoo.md, or the sections of some families alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests import conftest  # noqa: F401 -- finds the installed package before the folder of its name
from tests.zoo.subjects import FAMILIES
from tests.zoo.table import page, section_of


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page, or what ``arguments`` (default: those of the process) ask for."""
    what = "Runs every fault at every place, and prints the page of the results (some minutes)."
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=what)
    known = ", ".join(FAMILIES)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"its section alone, without the head: {known}")
    families = parser.parse_args(arguments).families
    for family in families:
        if family not in FAMILIES:
            parser.error(f"no family {family!r}; expected some of {known}")
    print("\n".join(map(section_of, families)) if families else page(), end="")


if __name__ == "__main__":
    main()
