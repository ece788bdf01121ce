"""Where a worker writes its dumps. Imports nothing but the standard library, for llama.cpp's worker has another Python."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

#: Bytes of dumps that are kept at once: with more, what is still to be written to the disk slows the next.
_MOST = 256 << 20
#: ext4 gives no inode away that was freed within the last five seconds, and looks past all of them for each file that it makes: after
#: hundreds of files were removed, making one takes ten times as long.
_FORGOTTEN_SECONDS = 6


class DumpFolders:
    """New folders below ``scratch``, one a dump; earlier ones are removed a few at a time, and what that costs is waited for."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._made, self._bytes = scratch, 0, 0

    def new(self, nbytes: int) -> Path:
        """A folder, which is not made yet, for about so many bytes."""
        if self._bytes + nbytes > _MOST and self._bytes:
            for number in range(self._made):
                shutil.rmtree(self._scratch / f"dump-{number}", ignore_errors=True)
            self._bytes = 0
            time.sleep(_FORGOTTEN_SECONDS)
        self._made, self._bytes = self._made + 1, self._bytes + nbytes
        return self._scratch / f"dump-{self._made - 1}"
