#!/usr/bin/env bash
# The source distribution has all that the repository has, and the wheel runs in a clean environment of each Python that is here, where
# it records the same bytes. It is installed as docs/getting-started.md has it; so is the source distribution, by the last of them.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
rm -rf build/lib  # a wheel would take modules of an earlier build from there
.venv/bin/python - "$place" > "$place/build.log" 2>&1 <<'PYTHON' || { cat "$place/build.log"; exit 1; }
import sys
from setuptools import build_meta
place = sys.argv[1]  # which setuptools changes
build_meta.build_sdist(place)
build_meta.build_wheel(place)
PYTHON
tar tzf "$place"/aprgraph-*.tar.gz | sed 's,^[^/]*/,,' | sort > "$place/packed"
git ls-files | sort > "$place/tracked"
missing=$(comm -13 "$place/packed" "$place/tracked")
[ -z "$missing" ] || { echo "the source distribution lacks: $missing" >&2; exit 1; }

steps=$(.ci/install_lines.sh)
.venv/bin/python -c "from pathlib import Path; from tests.support.tiny import write_tiny_model; write_tiny_model(Path('$place/tiny.gguf'))"
cd "$place"
# Runs commands in a new folder with the distributions, where python3 is the Python that is given.
follow() {
  mkdir -p "$3/bin"
  cp aprgraph-* "$3"
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$1" > "$3/bin/python3"
  chmod +x "$3/bin/python3"
  (cd "$3" && PATH="$PWD/bin:$PATH" PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 bash -euo pipefail -c "$2")
}
first=""
for version in 3.10 3.11 3.12 3.13; do
  python=""
  for candidate in "$HOME"/.pyenv/versions/"$version".*/bin/python "$(command -v "python$version" || true)"; do
    if [ -x "$candidate" ] && "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then python=$candidate; fi
  done
  if [ -z "$python" ]; then echo "Python $version is not here: not tried"; continue; fi
  follow "$python" "$steps" "clean-$version"
  "clean-$version/env/bin/python" -m aprgraph run tiny.gguf --tokens 3,1,4 --taps all --layers all -o "trace-$version" --quiet
  if [ -z "$first" ]; then first="trace-$version"; else "clean-$version/env/bin/aprgraph" diff "$first" "trace-$version" --quiet; fi
  "clean-$version/env/bin/aprgraph" graph "trace-$version" --html "page-$version.html"
  rm -rf "clean-$version"
  last=$python
  echo "Python $version: installed, and the trace is that of the others"
done
[ -n "$first" ] || { echo "no Python of 3.10 to 3.13 is here" >&2; exit 1; }
follow "$last" "${steps//.whl/.tar.gz}" sources
sources/env/bin/aprgraph run tiny.gguf --tokens 3,1,4 --taps all --layers all -o trace-sources --quiet
sources/env/bin/aprgraph diff "$first" trace-sources --quiet
echo "the archive of the sources: installed, and the trace is that of the others"
