"""Model files, as ``aprgraph inspect`` describes them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from aprgraph.option_words import in_option_words


def describe_model(path: Path) -> dict[str, Any]:
    """A model file or checkpoint, without its weights: what is wrong with it, its metadata, its tensors. Raises ModelError."""
    from aprgraph.graph.metadata import ArrayValue  # noqa: PLC0415
    from aprgraph.graph.sources.open import open_source  # noqa: PLC0415
    from aprgraph.graph.sources.whole_digest import sampled_share  # noqa: PLC0415
    from aprgraph.runtime.check import check  # noqa: PLC0415

    file = open_source(path)
    report = check(path, weights=False)
    return {
        "kind": file.kind,
        "findings": {
            f"{group[0].rule.level.value}: {group[0].rule.title}": [f"{one.name} {in_option_words(one.text)}".strip() for one in group]
            for group in report.by_rule.values()
        },
        "weights": f"not read; `aprgraph check {path}` reads them",
        **file.details,
        "bytes": file.size,
        "fingerprint": file.fingerprint(),
        "fingerprint covers": f"the header and {sampled_share(file):.2%} of the weights",
        "metadata": {
            key: f"array of {len(value)}" if isinstance(value, ArrayValue) else _finite(value) for key, value in file.metadata.items()
        },
        "tensors": {info.name: f"{info.format.name} {' x '.join(map(str, info.dims))}" for info in file.tensors.values()},
    }


def _finite(value: object) -> object:
    """``value`` as JSON can hold it: NaN and Inf as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
