#!/usr/bin/env bash
# Installs the real clients, in the versions of package.json, into target/clients. Nothing global, no install scripts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=tools/lib.sh
source "$here/../../tools/lib.sh"

into=$target/clients
lock "$into"
if cmp --silent "$here/package-lock.json" "$into/.installed"; then exit; fi
command -v npm >/dev/null || die "the tests with real clients need npm, for example: apt-get install npm"
cp "$here/package.json" "$here/package-lock.json" "$into"
# npm's own Node may be older than what the clients want: they bring theirs.
fetch() { cd "$into" && npm install --ignore-scripts --omit=optional --no-audit --no-fund; }
long "$target/logs/clients.log" "installing PostgREST, supabase-js, an Auth server and the Supabase CLI (usually 20 s)" fetch
cp "$here/package-lock.json" "$into/.installed"
