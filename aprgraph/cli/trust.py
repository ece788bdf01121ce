"""``aprgraph trust``: what an artifact from elsewhere holds, and that its machine code may run here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aprgraph.cli.options import Json
from aprgraph.cli.tables import format_table
from aprgraph.cli.terminal import printable

if TYPE_CHECKING:
    from aprgraph.codegen.artifact import Artifact


def trust(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of an artifact that you did not compile.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="SHA256", help="Trust it only if this is its identity, and do not ask.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what an artifact holds, and let its machine code run here from now on.

    An artifact that you compiled is trusted, wherever it is moved. One that somebody else compiled can do whatever you can
    do, from the moment it is loaded: nobody can tell by looking at it. Its identity is the SHA-256 digest of artifact.json,
    which has the digests of the code; whoever compiled it can tell you what it has to be. Others' trust is not yours.

    \b
    Example:
      aprgraph trust model.llvm.aprg
      aprgraph trust model.llvm.aprg --identity 3b7f…    in a script: nothing else is trusted
    """
    from aprgraph.codegen.artifact import check_identity, read_artifact  # noqa: PLC0415
    from aprgraph.codegen.trust.artifacts import is_trusted, trust_artifact  # noqa: PLC0415
    from aprgraph.graph.errors import ArtifactError  # noqa: PLC0415

    artifact = read_artifact(directory)
    if identity is not None:
        check_identity(artifact, identity)
    document = _describe(artifact)
    document["already_trusted"] = artifact.library_digest is None or is_trusted(artifact.directory, artifact.identity)
    if not json:
        _print(document)
    if not document["already_trusted"]:
        if not yes and identity is None:
            if json or not sys.stdin.isatty():
                raise ArtifactError(f"{directory}: not trusted, as nobody can be asked here; give --yes, or --identity {artifact.identity}")
            if not typer.confirm("let its code run here?"):
                raise ArtifactError(f"{directory}: not trusted; nothing was changed")
        place = trust_artifact(artifact.directory, artifact.identity)
        document["vouched_in"] = None if place is None else str(place)
        if not json:
            typer.echo("trusted from now on" + (", in your trust folder, as the artifact cannot be written" if place is None else ""))
    if json:
        import json as json_module  # noqa: PLC0415

        typer.echo(json_module.dumps(document, indent=1))


def _describe(artifact: Artifact) -> dict[str, Any]:
    from aprgraph.codegen.artifact import MANIFEST, versions  # noqa: PLC0415

    owner = artifact.directory.stat()
    return {
        "artifact": str(artifact.directory),
        "identity": artifact.identity,
        "owner": {"user": owner.st_uid, "name": _name_of(owner.st_uid), "mode": f"{owner.st_mode & 0o7777:o}"},
        "target": artifact.target_name,
        "kernels": len(artifact.kernels),
        "compiled_with": versions(),  # an artifact of other versions cannot be opened
        "model": str(artifact.model_path),
        "fingerprint": artifact.fingerprint,
        "files": [
            {"name": MANIFEST, "nbytes": (artifact.directory / MANIFEST).stat().st_size, "sha256": artifact.identity},
            *({"name": code.place.name, "nbytes": len(code.data), "sha256": digest} for digest, code in artifact.code.items()),
        ],
    }


def _name_of(user: int) -> str | None:
    import pwd  # noqa: PLC0415

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return None


def _print(document: dict[str, Any]) -> None:
    owner, compiled_with = document["owner"], document["compiled_with"]
    name = "" if owner["name"] is None else f" ({owner['name']})"
    typer.echo(printable(f"{document['artifact']}/ of user {owner['user']}{name}, mode {owner['mode']}"))
    typer.echo(printable(f"{document['target']}, {document['kernels']} kernels, of {document['model']} ({document['fingerprint']})"))
    typer.echo(f"compiled with {', '.join(f'{package} {version}' for package, version in compiled_with.items())}")
    rows = [(item["name"], f"{item['nbytes']:,}", item["sha256"]) for item in document["files"]]
    typer.echo("\n" + format_table(("file", "bytes", "SHA-256"), rows, right=(1,)) + "\n")
    typer.echo(f"identity {document['identity']}")
    if not any(item["name"].endswith((".so", ".fatbin")) for item in document["files"]):
        typer.echo("it has no machine code, and needs no trust")
    elif document["already_trusted"]:
        typer.echo("you compiled it, or trust it already")
