"""Imported first by the scripts here: puts the repository, whose packages `bench` and `tests` they use, behind what is installed.

The repository's folder `aprgraph` is the front door alone; and of a script that runs, Python puts the folder in front, where cuda.py
would pass for NVIDIA's package `cuda`. That folder stays, at the end: processes that multiprocessing starts import this file from it.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:] = [*(entry for entry in sys.path if Path(entry or ".").resolve() not in (HERE, ROOT)), str(ROOT), str(HERE)]
