"""This user's key: 32 random bytes, by which this user's programs know the machine code that they made.

A file that others can write is loaded only with a message authentication code (HMAC-SHA256, RFC 2104) that only who has the
key can have made. The key lies in the folder of folder.py, for this user alone to read, and is made when first needed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from functools import cached_property

from aprgraph.codegen.trust.folder import NoFolderError, open_folder, read_private, trust_folder, write_new

_NAME = "key"
_BYTES = 32


@dataclass(frozen=True)
class Key:
    """A key. ``why`` is there for one that ends with this process: why none can be kept, as part of a sentence."""

    secret: bytes = field(repr=False)
    why: str | None = None

    def code(self, purpose: str, *parts: bytes) -> str:
        """The message authentication code of ``parts`` for ``purpose``, as 64 hex digits."""
        found = hmac.new(self.secret, digestmod=hashlib.sha256)
        for part in (purpose.encode(), *parts):
            found.update(len(part).to_bytes(8, "big"))
            found.update(part)
        return found.hexdigest()

    def made(self, code: str, purpose: str, *parts: bytes) -> bool:
        """Whether ``code`` was made with this key."""
        return hmac.compare_digest(self.code(purpose, *parts).encode(), code.encode(errors="replace"))

    @cached_property
    def name(self) -> str:
        """What names the key, and does not tell it."""
        return self.code("name")[:16]


_process_key = Key(os.urandom(_BYTES), "")
#: The keys that this process has read, by the folder that they lie in.
_read: dict[str, Key] = {}


def user_key() -> Key:
    """This user's key, made if there is none; where none can be kept, one that ends with this process, and says why."""
    try:
        place = str(trust_folder())
        if place not in _read:
            with open_folder(make=True) as folder:
                try:
                    _read[place] = _read_key(folder)
                except FileNotFoundError:
                    write_new(folder, _NAME, os.urandom(_BYTES).hex().encode() + b"\n")
                    _read[place] = _read_key(folder)
        return _read[place]
    except NoFolderError as error:
        return Key(_process_key.secret, str(error))
    except OSError as error:
        return Key(_process_key.secret, f"{trust_folder()} cannot be written: {error.strerror}")


def _read_key(folder: int) -> Key:
    text = read_private(folder, _NAME, "this user's key")
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != _BYTES:
        raise NoFolderError(f"{trust_folder() / _NAME} is damaged, expected {2 * _BYTES} hex digits (remove it; a new key is made)")
    return Key(secret)
