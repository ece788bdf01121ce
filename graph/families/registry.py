"""The table of families: those of the package, and those that others bring in a file or a package of their own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar, get_args

from aprgraph.graph.arguments import FAMILY, MODELS
from aprgraph.graph.errors import AprgraphError, UnsupportedModelError, shown
from aprgraph.graph.families.base import Family, Order
from aprgraph.graph.families.misspelt import check_attributes
from aprgraph.graph.families.own_code import line_in, own_code, where_is
from aprgraph.graph.input_file import read_input
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.near_names import near_name
from aprgraph.graph.stages import HIDDEN, STAGE_BY_NAME, Stage, add_stage

_F = TypeVar("_F", bound=type[Family])
#: More than any Python file has.
_MOST_BYTES = 16 << 20
#: What the names of modules begin with that are such files.
_MODULE = "aprgraph_family_"
#: Where such a module has the text that was run, for the file may have changed since.
_SOURCE = "__aprgraph_source__"
#: Packages whose classes are the same wherever this version of the program is.
_OF_THE_PROGRAM = ("aprgraph", "builtins")

#: The entry points by which an installed package says which families it brings.
ENTRY_POINTS = "aprgraph.families"
#: By ``general.architecture``.
FAMILIES: dict[str, type[Family]] = {}


def register(family: _F) -> _F:
    """Make a family known, so that files of its architecture can be opened; it may stand as a decorator of the class.

    Raises AprgraphError if another family has the architecture or a class of transformers, if the class names no
    architecture, if a stage of its own is another's, and for a declaration that is misspelt.
    """
    architecture = getattr(family, "architecture", None)
    if not isinstance(architecture, str) or not architecture:
        raise AprgraphError(
            f"{where_is(family)}: the family {family.__name__} names no architecture; expected such as architecture = 'llama', the "
            "general.architecture of its files"
        )
    there = FAMILIES.get(architecture, family)
    if there is not family:
        raise AprgraphError(
            f"two families have the architecture {architecture!r}: {there.__name__} ({where_is(there)}) and {family.__name__} "
            f"({where_is(family)}); expected one, so rename or drop one of them"
        )
    _check_declarations(family)
    check_attributes(family)
    _check_hf_classes(family)
    for stage, before in family.stages:
        add_stage(stage, before)
    FAMILIES[architecture] = family
    return family


def _check_declarations(family: type[Family]) -> None:
    """Raise AprgraphError for an attribute of another type than Family declares, or that names what is not there."""

    def require(condition: bool, attribute: str, expected: str) -> None:
        if not condition:
            found = shown(getattr(family, attribute))
            raise AprgraphError(f"{where_is(family)}: in the family {family.__name__}, {attribute} is {found}, expected {expected}")

    require(isinstance(family.hf_classes, str), "hf_classes", "text: the names of classes, with blanks between")
    require(isinstance(family.hf_kind, str), "hf_kind", "text: a model_type")
    for attribute in ("gguf_names", "hf_names"):
        require(isinstance(getattr(family, attribute), Mapping), attribute, "a dict, from slots to names of weights")
    for attribute in ("pairing", "hf_pairing"):
        require(getattr(family, attribute) in get_args(Order), attribute, f"one of {', '.join(get_args(Order))}")
    pairs = list(family.stages) if isinstance(family.stages, Sequence) else []
    are_pairs = all(isinstance(pair, tuple) and list(map(type, pair)) == [Stage, str] for pair in pairs)
    require(isinstance(family.stages, Sequence) and are_pairs, "stages", "pairs of a Stage and the name of the stage that it comes before")
    known = {HIDDEN, *STAGE_BY_NAME, *(stage.name for stage, _ in pairs)}
    for stage, _ in pairs:
        unknown = [name for name in (*stage.reads, *stage.recalls) if name not in known]
        if unknown:
            raise AprgraphError(f"{where_is(family)}: the stage {stage.name!r} reads {shown(unknown[0])}, which is no stage")


def _check_hf_classes(family: type[Family]) -> None:
    """Raise AprgraphError if another family computes the same class of transformers, for captures go by the class."""
    for other in FAMILIES.values():
        both = sorted({*family.own_hf_classes()} & {*other.own_hf_classes()})
        if both and other is not family:
            raise AprgraphError(
                f"two families compute the class {both[0]!r} of transformers: {other.__name__} ({where_is(other)}) and {family.__name__} "
                f"({where_is(family)}); expected one, so take the class out of the hf_classes of one of them"
            )


def load_family_file(path: str | Path) -> list[type[Family]]:
    """Run a Python file and register the families that are declared in it. The same file may be loaded again.

    The file is code, and runs with all that the user may do: it is the user who names it. Raises AprgraphError if the
    file is not there, raises an error itself, or declares no family with an architecture of its own.
    """
    file = Path(path)
    try:
        source = read_input(file, _MOST_BYTES)
    except OSError as error:
        raise AprgraphError(f"{file}: {error.strerror}; expected a Python file that declares a family") from None
    return _declared_in(file, source)


def _declared_in(file: Path, source: bytes) -> list[type[Family]]:
    module = _run(file, source)
    # A family that the file only derives from is another's, or has no architecture itself.
    declared = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Family)]
    declared = [value for value in declared if value.__module__ == module.__name__]
    for kind in declared:
        check_attributes(kind)  # before those are left out whose architecture is misspelt
    found = [kind for kind in declared if "architecture" in vars(kind)]
    if not found:
        raise AprgraphError(
            f"{file}: declares no family; expected a class that derives from aprgraph.families.Family and names its architecture"
        )
    for family in found:
        register(family)
    return found


@dataclass(frozen=True)
class FamilyFile:
    """A family's file as another process gets it: its ``path`` here, and its ``text``, which is all that is run."""

    path: str
    text: bytes = field(repr=False)

    def load(self) -> None:
        """Make its families known, whether the file is there or not. Raises AprgraphError as ``load_family_file``."""
        _declared_in(Path(self.path), self.text)


def loaded_family_files() -> tuple[FamilyFile, ...]:
    """The files that were run, in that order, for another process that is to know the same families and ops."""
    modules = [module for name, module in sys.modules.items() if name.startswith(_MODULE)]
    return tuple(FamilyFile(str(module.__file__), vars(module)[_SOURCE]) for module in modules)


def own_sources(family: type[Family]) -> tuple[tuple[FamilyFile, ...], tuple[str, ...]]:
    """(the files, the SHA-256 of the sources) that a family of none of this package's modules comes from; else nothing.

    Of one that a file brings they are all files that were run, for another one may declare its ops.
    """
    modules = [kind.__module__ for kind in family.__mro__ if kind.__module__.partition(".")[0] not in _OF_THE_PROGRAM]
    files = loaded_family_files() if any(name.startswith(_MODULE) for name in modules) else ()
    texts = [file.text for file in files]
    for name in dict.fromkeys(modules):
        place = getattr(sys.modules.get(name), "__file__", None)
        if not name.startswith(_MODULE) and place is not None and Path(place).is_file():
            texts.append(Path(place).read_bytes())
    return files, tuple(hashlib.sha256(text).hexdigest() for text in texts)


def _run(file: Path, source: bytes) -> ModuleType:
    # By content, so that loading a file twice declares one class, and the file beside it another. Python's own
    # importing goes by the file's suffix, keeps compiled code beside it, and takes a file of the same size and second
    # to be the same.
    name = f"{_MODULE}{hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(file.absolute())
    vars(module)[_SOURCE] = source
    try:
        exec(compile(source, module.__file__, "exec"), vars(module))  # noqa: S102  what the user named, and asked to run
    except AprgraphError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        line = line_in(module.__file__, error)
        raise AprgraphError(f"{file}{line}: {type(error).__name__}: {error}; the family's file could not be run") from error
    return module


def load_installed_families() -> None:
    """Register the families that installed packages bring, once.

    Raises AprgraphError that names the package of one that fails.
    """
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.value in _INSTALLED:
            continue
        package = entry.dist.name if entry.dist is not None else "?"
        try:
            family = entry.load()
        except Exception as error:
            raise AprgraphError(
                f"the package {package} brings the family {entry.name} ({entry.value}), which cannot be loaded: {type(error).__name__}: "
                f"{error}; mend or uninstall it"
            ) from error
        if not (isinstance(family, type) and issubclass(family, Family)):
            raise AprgraphError(
                f"the package {package} brings the family {entry.name}, but {entry.value} is no class that derives from "
                "aprgraph.families.Family; mend or uninstall it"
            )
        register(family)
        _INSTALLED.add(entry.value)


_INSTALLED: set[str] = set()


def is_known(architecture: str) -> bool:
    """Whether there is a family of an architecture. Those of installed packages are loaded if no other is it."""
    if architecture not in FAMILIES:
        load_installed_families()
    return architecture in FAMILIES


def find_family_of_class(name: str) -> type[Family] | None:
    """The family that computes the class ``name`` of transformers. Those of installed packages are loaded if no other does."""

    def find() -> type[Family] | None:
        return next((family for family in FAMILIES.values() if name in family.own_hf_classes()), None)

    found = find()
    if found is None:
        load_installed_families()
        found = find()
    return found


def find_family_of_kind(kind: object) -> type[Family] | None:
    """The family of the ``model_type`` of a configuration, where that and not the class tells it: ``Family.hf_kind``."""
    return next((family for family in FAMILIES.values() if kind and vars(family).get("hf_kind") == kind), None)


def _nearest(architecture: str) -> str | None:
    """The architecture that one which is not known is named after, or nearly called; None for none."""
    begun = [name for name in FAMILIES if architecture.startswith(name)]
    return max(begun, key=len) if begun else near_name(architecture, FAMILIES)


def find_family(metadata: Metadata) -> type[Family]:
    """The family of a model. Raises UnsupportedModelError that names the nearest."""
    architecture = metadata.text("general.architecture")
    if not is_known(architecture):
        near = _nearest(architecture)
        relative = f"by its name nearest is {near}, which may compute otherwise; " if near else ""
        raise UnsupportedModelError(
            f"{metadata.path}: general.architecture is {shown(architecture)}, a family that aprgraph does not have; {relative}`",
            MODELS,
            "` lists the families that it has; another can be brought as a family of your own, derived from one of them "
            "(docs/families.md): ",
            FAMILY,
        )
    return FAMILIES[architecture]


def open_family(metadata: Metadata) -> Family:
    """The family of a model, with the model's numbers.

    Raises ModelError, or UnsupportedModelError for what is not there yet.
    """
    kind = find_family(metadata)
    with own_code(kind):
        return kind(metadata)
