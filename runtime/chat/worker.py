"""Renders one chat template: a JSON task on standard input, a JSON reply on standard output. `process.py` runs it by its path.

The environment is the one that Hugging Face transformers gives chat templates (utils/chat_template_utils.py), since model
makers test theirs with it.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


class TooLongError(Exception):
    """The text has more characters than it may."""


def main() -> None:
    """Read the task, reply with ``text``, or with ``reason`` and ``line``."""
    task = json.loads(sys.stdin.buffer.read())
    sys.path[:] = task["path"]
    import jinja2  # noqa: PLC0415 -- found through the task's path

    environment = _environment()
    limits = task["limits"]
    memory = _limit(limits)
    reply: dict[str, object]
    try:
        reply = {"text": _render(environment, task["template"], task["variables"], limits["characters"])}
    except MemoryError:
        reply = {"reason": f"it needs more than {limits['memory'] >> 20} MiB of memory"}
    except TooLongError:
        reply = {"reason": f"it makes a text of more than {limits['characters']} characters"}
    except jinja2.TemplateSyntaxError as error:
        reply = {"reason": f"syntax error: {error.message}", "line": error.lineno}
    except jinja2.TemplateError as error:
        reply = {"reason": str(error), "line": _template_line(error.__traceback__)}
    except Exception as error:  # noqa: BLE001 -- whatever the template does to Python's objects
        reply = {"reason": f"{type(error).__name__}: {error}", "line": _template_line(error.__traceback__)}
    resource.setrlimit(resource.RLIMIT_AS, memory)  # room for the reply
    sys.stdout.write(json.dumps(reply))


def _limit(limits: dict[str, int]) -> tuple[int, int]:
    """Bound what this process may take from here on; returns the bounds of its memory as they were."""
    seconds = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    memory = resource.getrlimit(resource.RLIMIT_AS)
    for kind, value in (
        (resource.RLIMIT_CPU, seconds + limits["cpu_seconds"]),
        (resource.RLIMIT_AS, mapped + limits["memory"]),
        (resource.RLIMIT_CORE, 0),  # the end of the processor time would leave one
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    return memory


def _render(environment: Environment, template: str, variables: dict[str, object], characters: int) -> str:
    parts: list[str] = []
    for part in environment.from_string(template).generate(variables):
        characters -= len(part)
        if characters < 0:
            raise TooLongError
        parts.append(part)
    return "".join(parts)


def _environment() -> Environment:
    from jinja2 import TemplateError, nodes  # noqa: PLC0415
    from jinja2.ext import Extension, loopcontrols  # noqa: PLC0415
    from jinja2.parser import Parser  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    class Generation(Extension):
        """``{% generation %}``, which marks what the model writes when it is trained, leaves its content as it is."""

        tags = {"generation"}  # noqa: RUF012 -- Jinja's own convention

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    # Jinja's own filter writes < > & ' as escapes, for HTML.
    def tojson(
        value: object, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)  # noqa: DTZ005 -- the user's own date is meant

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    return environment


def _template_line(traceback: TracebackType | None) -> int | None:
    """Where in the template an error was raised: Jinja gives the frames of its compiled code the template's own lines."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename in {"<template>", "<unknown>"}:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


if __name__ == "__main__":
    main()
