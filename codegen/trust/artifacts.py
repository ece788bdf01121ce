"""Which artifacts are trusted: those whose manifest this user's key vouches for. The manifest has the digests of all code.

    <artifact>/trusted/<name of the key>        the code, written when this user compiled the artifact
    <trust folder>/<identity of the artifact>   the same, for one that this user trusts and cannot write

An artifact that is moved or copied stays trusted, and one whose manifest is changed is not. Several users may trust one artifact.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from aprgraph.codegen.trust.folder import REMEDY, NoFolderError, open_folder, read_private, write_new
from aprgraph.codegen.trust.key import user_key
from aprgraph.graph.arguments import TRUST, Argument
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.whole_file import write_whole

TRUSTED = "trusted"
_PURPOSE = "artifact"
_MOST = 256  # bytes; a code has 64


def vouch(directory: Path, identity: str) -> None:
    """Write into ``directory`` that this user trusts the artifact ``identity``. Raises OSError."""
    key = user_key()
    write_whole(directory / TRUSTED / key.name, _code(identity))


def trust_artifact(directory: Path, identity: str) -> Path | None:
    """Trust the artifact ``identity`` from now on: in its directory, or in the trust folder where that cannot be written.

    The place of what says so. Raises ArtifactError where no key can be kept, or nothing be written.
    """
    key = user_key()
    if key.why is not None:
        raise ArtifactError(f"{directory}: cannot be trusted for longer than this process lives, as {key.why}; {REMEDY}")
    with contextlib.suppress(OSError):
        vouch(directory, identity)
        return directory / TRUSTED / key.name
    try:
        with open_folder(make=True) as folder:
            write_new(folder, identity, _code(identity))
    except (OSError, NoFolderError) as error:
        raise ArtifactError(f"{directory}: neither it nor the trust folder can be written ({error}); {REMEDY}") from None
    return None


def is_trusted(directory: Path, identity: str) -> bool:
    """Whether this user compiled the artifact ``identity``, or trusts it."""
    key = user_key()
    return any(key.made(code, _PURPOSE, identity.encode()) for code in _codes(directory, identity, key.name))


def require_trust(directory: Path, identity: str) -> None:
    """Raise ArtifactError, with what to do, for an artifact that is not trusted."""
    if is_trusted(directory, identity):
        return
    key = user_key()
    if key.why is not None:
        why = f"nothing tells whether you compiled it, as {key.why} ({REMEDY})"
    elif (directory / TRUSTED / key.name).is_file():
        why = "it was changed since you compiled it"
    elif (directory / TRUSTED).is_dir():
        why = "another user compiled it, or you did, with a key that is lost"
    else:
        why = "nothing says that you compiled it"
    raise ArtifactError(
        f"{directory}: holds machine code, and {why}; compile it from the model, or, if you trust where it comes from, `",
        trusting(directory),
        "`",
    )


def trusting(directory: Path) -> Argument:
    """The command that trusts the artifact there, for messages."""
    return TRUST.given(directory, f"aprgraph.trust({str(directory)!r})")


def _code(identity: str) -> bytes:
    return user_key().code(_PURPOSE, identity.encode()).encode()


def _codes(directory: Path, identity: str, key: str) -> list[str]:
    """What is written of this artifact and this key, in either place."""
    found = []
    with contextlib.suppress(OSError):
        descriptor = os.open(directory / TRUSTED / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found.append(file.read(_MOST))
    with contextlib.suppress(OSError, NoFolderError), open_folder() as folder:
        found.append(read_private(folder, identity, "what this user trusts"))
    return [code.decode(errors="replace") for code in found]
