#!/bin/sh
# Prints the commands by which docs/getting-started.md installs from a wheel or from the sources' archive; .ci/install.sh runs them.
awk '/^From a wheel/ { found = 1 } found && /^    / { sub(/ +#.*/, ""); print substr($0, 5); begun = 1 } begun && /^$/ { exit }' "$(dirname "$0")/../docs/getting-started.md"
