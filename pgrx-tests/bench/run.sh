#!/usr/bin/env bash
# The figures of `make bench`. Arguments: run.py --help.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=tools/lib.sh
source "$here/../../tools/lib.sh"

"$root/tools/toolchain.sh" tests
exec /usr/bin/python3 -B "$here/run.py" "$@"
