"""config.json in GGUF's keys: what families declare, and what they leave to GGUF.

Every field is translated, or neutral, or on the list of those that bear on no number; what is left stands in the
metadata under its own name, where graph/unread_keys.py judges it like a key that nothing reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprgraph.graph.arguments import OVERRIDES
from aprgraph.graph.errors import ModelError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.metadata import ListValue, Metadata, Scalar
from aprgraph.graph.sources.checkpoint.config_class import find_class, has_head, text_config
from aprgraph.graph.sources.checkpoint.config_overrides import where_it_lies, with_fields
from aprgraph.graph.sources.checkpoint.config_translation import Translator, declared_fields
from aprgraph.graph.sources.checkpoint.names import own_name


class ConfigMetadata(Metadata):
    """The metadata of a checkpoint. Keys are GGUF's; a field of config.json may be overridden by its own name too."""

    dialect = "hf"
    remedy = "download the file again"

    def __init__(
        self, where: Path, config: Mapping[str, Any], more: Mapping[str, object], overrides: Mapping[str, Any] | None = None
    ) -> None:
        self.config, self._more = config, more
        self.family = find_class(config, where)
        translated = Translator(self.family, config, where).translate()
        super().__init__(where, {**more, **translated.values, **(overrides or {})})
        self.factors, self._fields, self.notices = translated.factors, translated.fields, translated.notices
        self._in_vain: frozenset[str] = frozenset()

    @property
    def has_head(self) -> bool:
        """See ``Metadata.has_head``: not of the classes of transformers that are called a model, such as Qwen3Model."""
        return has_head(self.config)

    @property
    def no_tokenizer(self) -> str:
        """See ``Metadata.no_tokenizer``."""
        return f"{self.path.parent}: has no tokenizer.json that can be read; download it, or "

    def own_name(self, key: str) -> str:
        """The field of config.json that says ``key``, perhaps with those that it lies in."""
        return self._fields.get(key) or declared_fields(self.family).get(key, key)

    def own_tensor(self, name: str) -> str:
        """The usual name in a checkpoint."""
        return own_name(self.family, name) or name

    def described(self, key: str) -> str:
        """``field 'hidden_size'``."""
        name = self.own_name(key)
        return super().described(key) if name == key else f"field {name!r}"

    def with_overrides(self, overrides: Mapping[str, Scalar | str]) -> Metadata:
        """The same with fields, or keys of GGUF, replaced. Raises ModelError."""
        architectures = {*FAMILIES, "general", "tokenizer"}
        keys = {name: value for name, value in overrides.items() if name in self or name.partition(".")[0] in architectures}
        fields = {name: value for name, value in overrides.items() if name not in keys}
        super().with_overrides(keys)  # raises for an array
        if not fields:
            return ConfigMetadata(self.path, self.config, self._more, keys)
        found = ConfigMetadata(self.path, with_fields(text_config(self.config), fields), self._more, keys)
        found._in_vain = frozenset(name for name in fields if self._is_in_vain(name, fields, keys, found))
        if _plain(self)[1] != _plain(found)[1]:
            raise ModelError(
                OVERRIDES.given(", ".join(overrides)),
                f": changes RoPE's factors, which {self.path.name} gives one by one; change them in a copy of that file",
            )
        return found

    def _is_in_vain(self, name: str, fields: Mapping[str, Scalar | str], keys: Mapping[str, Scalar | str], found: ConfigMetadata) -> bool:
        """Whether another value of a field changes nothing of ``found``, as others of the file decide what it would."""
        config = text_config(self.config)
        if name not in config or config[name] == fields[name]:
            return False
        others = with_fields(config, {other: value for other, value in fields.items() if other != name})
        return _plain(ConfigMetadata(self.path, others, self._more, keys)) == _plain(found)

    def is_read(self, key: str) -> bool:
        """Whether a getter has been asked for a key, or for one that the field ``key`` says, and that decides it."""
        if key in self._in_vain:
            return False
        field = where_it_lies(text_config(self.config), key)
        return super().is_read(key) or any(
            self.own_name(read) == field or self.own_name(read).startswith(f"{field}.") for read in self.keys_read
        )


def _plain(metadata: ConfigMetadata) -> tuple[dict[str, object], dict[str, list[float]]]:
    """All values, and RoPE's factors, in types that compare by what they hold."""
    values = {key: value.values() if isinstance(value, ListValue) else value for key, value in metadata.items()}
    return values, {name: factors.tolist() for name, factors in metadata.factors.items()}
