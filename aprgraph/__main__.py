"""``python -m aprgraph``: the command line, by the Python that runs it."""

from __future__ import annotations

from aprgraph.cli import main

if __name__ == "__main__":
    main()
