"""``aprgraph completion``: the script by which a shell completes commands, options, stages, layers and files.

The script is made from the commands' own declarations, and holds all names: no key press starts a process.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import typer

#: What options that take a file or a folder are said to take.
_PLACES = re.compile("FILE|DIR|MODEL")
#: Layers that are often asked for.
_LAYERS = ("all", "0..1", "0..2", "1..")


class Shell(str, Enum):
    """The shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@dataclass(frozen=True)
class _Option:
    """One option: its names, what it takes (``flag``, ``file``, ``text``, or ``words``, of which ``several`` may follow each other)."""

    names: tuple[str, ...]
    help: str
    takes: str
    words: tuple[str, ...] = ()
    several: bool = False


@dataclass(frozen=True)
class _Command:
    """One command: its name, behind that of its group if it is in one, its first sentence, its options, and what is in it."""

    path: str
    help: str
    options: tuple[_Option, ...]
    inside: tuple[str, ...]
    files: bool


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")], context: typer.Context) -> None:
    """Print the script by which a shell completes commands, options, stages, layers and files.

    \b
    Example:
      aprgraph completion bash > ~/.local/share/bash-completion/completions/aprgraph
      aprgraph completion zsh > ~/.zfunc/_aprgraph      with fpath+=~/.zfunc before compinit
      aprgraph completion fish > ~/.config/fish/completions/aprgraph.fish
    """
    root = context.find_root().command
    commands = list(_commands(root, ""))
    typer.echo({Shell.BASH: _bash, Shell.ZSH: _zsh, Shell.FISH: _fish}[shell](commands), nl=False)


def _words_of(option: str) -> tuple[tuple[str, ...], bool]:
    """What an option takes by name, and whether several, apart by commas."""
    from aprgraph.codegen.artifact_form import TARGETS  # noqa: PLC0415
    from aprgraph.graph.arithmetics import ARITHMETICS  # noqa: PLC0415
    from aprgraph.graph.export.formats import EXPORTERS  # noqa: PLC0415
    from aprgraph.graph.passes import PASSES  # noqa: PLC0415
    from aprgraph.graph.stages import STAGES  # noqa: PLC0415
    from aprgraph.runs.plan import FINGERPRINTS, POSITIONS  # noqa: PLC0415
    from aprgraph.runtime.diff.tolerances import PROFILES  # noqa: PLC0415

    many = {"--taps": ("all", "apr", *(stage.name for stage in STAGES)), "--passes": tuple(PASSES)}
    if option in many:
        return many[option], True
    one: dict[str, Sequence[str]] = {
        "--layers": _LAYERS, "--steps": _LAYERS, "--target": TARGETS, "--a": TARGETS, "--b": TARGETS, "--arithmetic": tuple(ARITHMETICS),
        "--format": tuple(EXPORTERS), "--positions": POSITIONS, "--fingerprint": FINGERPRINTS, "--profile": tuple(PROFILES),
        "--print-ir-after": ("all", *PASSES),
    }  # fmt: skip
    return tuple(one.get(option, ())), False


def _commands(command: Any, path: str) -> Iterator[_Command]:
    below = {name: one for name, one in getattr(command, "commands", {}).items() if not one.hidden}
    options = tuple(_option(one) for one in command.params if one.opts[0].startswith("-"))
    help_ = _Option(("--help", "-h"), "Show the help.", "flag")
    arguments = any(not one.opts[0].startswith("-") for one in command.params)
    yield _Command(path, _sentence(command.help or ""), (*options, help_), tuple(below), files=arguments)
    for name, one in below.items():
        yield from _commands(one, f"{path} {name}".strip())


def _option(declared: Any) -> _Option:
    names = tuple(sorted(declared.opts, key=len, reverse=True))
    words, several = _words_of(names[0])
    takes = "flag" if declared.is_flag else "words" if words else "file" if _PLACES.search(declared.metavar or "") else "text"
    return _Option(names, _sentence(declared.help or ""), takes, words, several)


def _sentence(text: str) -> str:
    """The first sentence, in one line, without what a shell's own form of it would take for its own."""
    first = re.split(r"(?<=[.?]) |\n\n", " ".join(text.strip().split("\n\n")[0].split()))[0]
    return re.sub(r"\s*\[[^\]]*\]", "", first)


def _bash(commands: Sequence[_Command]) -> str:
    lines = [
        "# bash completion of aprgraph, printed by `aprgraph completion bash`",
        "_aprgraph() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" command="" i before="" words=""',
        "  COMPREPLY=()",
        '  if [[ $cur == "=" ]]; then cur=""; elif [[ $prev == "=" ]]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi',
        "  for ((i = 1; i < COMP_CWORD; i++)); do",
        '    case "${command:+$command }${COMP_WORDS[i]}" in',
        f'      {"|".join(shlex.quote(one.path) for one in commands if one.path)}) command="${{command:+$command }}${{COMP_WORDS[i]}}" ;;',
        "    esac",
        "  done",
        '  case "$command:$prev" in',
    ]
    for one in commands:
        for option in one.options:
            if option.takes != "flag":
                pattern = "|".join(shlex.quote(f"{one.path}:{name}") for name in option.names)
                lines.append(f"    {pattern}) {_bash_value(option)} return ;;")
    lines += ["  esac", '  case "$command" in']
    for one in commands:
        names = " ".join((*one.inside, *(name for option in one.options for name in option.names)))
        words = f'[[ $cur == -* ]] && COMPREPLY=($(compgen -W {shlex.quote(names)} -- "$cur"))'
        if one.inside:
            words = f'COMPREPLY=($(compgen -W {shlex.quote(names)} -- "$cur"))'
        lines.append(f"    {shlex.quote(one.path)}) {words} ;;")
    lines += ["  esac", "}", "complete -o default -F _aprgraph aprgraph"]
    return "\n".join(lines) + "\n"


def _bash_value(option: _Option) -> str:
    """What completes the value; nothing leaves it to the shell's own completion of files."""
    if option.takes != "words":
        return ""
    words = shlex.quote(" ".join(option.words))
    if not option.several:
        return f'COMPREPLY=($(compgen -W {words} -- "$cur"));'
    return (
        f'compopt -o nospace; [[ $cur == *,* ]] && before="${{cur%,*}},"; COMPREPLY=($(compgen -P "$before" -W {words} -- "${{cur##*,}}"));'
    )


def _zsh(commands: Sequence[_Command]) -> str:
    lines = ["#compdef aprgraph", "# zsh completion of aprgraph, printed by `aprgraph completion zsh`", ""]
    for one in commands:
        lines += [f"_aprgraph{one.path.replace(' ', '_') and '_' + one.path.replace(' ', '_')}() {{", "  local -a commands"]
        if one.inside:
            inside = {other.path: other.help for other in commands}
            described = " ".join(shlex.quote(f"{name}:{inside[f'{one.path} {name}'.strip()]}") for name in one.inside)
            lines.append(f"  commands=({described})")
        lines.append("  _arguments -s \\")
        lines += [f"    {spec} \\" for option in one.options for spec in _zsh_option(option)]
        if one.inside:
            prefix = "_aprgraph_" + (one.path.replace(" ", "_") + "_" if one.path else "")
            lines += ["    '1: :->command' '*:: :->rest'", '  case "$state" in', "    command) _describe -t commands command commands ;;"]
            lines += [f"    rest) (( $+functions[{prefix}$words[1]] )) && {prefix}$words[1] ;;", "  esac"]
        else:
            lines.append("    '*:file:_files'" if one.files else "    && return 0")
        lines += ["}", ""]
    lines += ['if [[ $funcstack[1] == _aprgraph ]]; then _aprgraph "$@"; else compdef _aprgraph aprgraph; fi']
    return "\n".join(lines) + "\n"


def _zsh_option(option: _Option) -> Iterator[str]:
    text = re.sub(r"([\\:\[\]])", r"\\\1", option.help)
    action = {"flag": "", "file": ":file:_files", "text": ":value:"}.get(option.takes)
    if action is None:
        listed = " ".join(option.words)
        action = f":value:_sequence compadd - {listed}" if option.several else f":value:({listed})"
    for name in option.names:
        equals = "=" if option.takes != "flag" and name.startswith("--") else ""
        yield shlex.quote(f"*{name}{equals}[{text}]{action}")


def _fish(commands: Sequence[_Command]) -> str:
    lines = ["# fish completion of aprgraph, printed by `aprgraph completion fish`"]
    top = commands[0].inside
    for one in commands:
        parts = one.path.split()
        condition = " ".join((
            f"not __fish_seen_subcommand_from {' '.join(top)}" if not parts else f"__fish_seen_subcommand_from {parts[0]}",
            *(f"; and __fish_seen_subcommand_from {part}" for part in parts[1:]),
        ))  # fmt: skip
        start = f"complete -c aprgraph -n {_fish_quote(condition)}"
        inside = {other.path: other.help for other in commands}
        lines += [f"{start} -f -a {name} -d {_fish_quote(inside[f'{one.path} {name}'.strip()])}" for name in one.inside]
        for option in one.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            value = {"flag": "", "file": " -r -F", "text": " -x"}.get(option.takes)
            if value is None:
                listed = "\\n".join(option.words)
                several = f"(__fish_complete_list , 'printf \"{listed}\\n\"')"
                value = f" -x -a {_fish_quote(several if option.several else ' '.join(option.words))}"
            lines.append(f"{start} {names}{value} -d {_fish_quote(option.help)}")
    return "\n".join(lines) + "\n"


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
