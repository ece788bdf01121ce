"""A model in several files, as `llama-gguf-split` makes them: which part one is, and which lie beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from aprgraph.graph.words import listed

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_NAMED = 4


def describe_split(path: Path, metadata: Mapping[str, object]) -> tuple[str, str] | None:
    """What part of a split the file is, and what to do; None if it is a whole file."""
    count, number = metadata.get("split.count"), metadata.get("split.no")
    if not isinstance(count, int) or isinstance(count, bool) or count < 2:
        return None
    which = f"part {number + 1}" if isinstance(number, int) and 0 <= number < count else "a part"
    what = f"{which} of {count} of a model in several files (split.count)"
    matched = _NAME.fullmatch(path.name)
    if matched is None or int(matched["count"]) != count:
        return what, "aprgraph does not read splits yet: join the parts with `llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf`"
    names = [f"{matched['stem']}-{part:05}-of-{count:05}.gguf" for part in range(1, min(count, 99999) + 1)]
    missing = [name for name in names if not path.with_name(name).is_file()]
    join = f"aprgraph does not read splits yet: join the parts with `llama-gguf-split --merge {names[0]} {matched['stem']}.gguf`"
    if missing:
        named = listed(missing, _NAMED)
        return what, f"{named} {'is' if len(missing) == 1 else 'are'} not beside it: get the missing parts; {join}"
    return what, join
