#!/usr/bin/env bash
# Shows the extension at work on a private PostgreSQL 15. What it shows stands in demo/*.sql.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=tools/lib.sh
source "$here/../tools/lib.sh"

dir=$target/demo
server() { "$here/private_server.sh" "$1" "$dir" "${@:2}"; }

"$root/tools/build.sh" 15 release

if [[ -f $dir/server.env ]]; then server remove; fi
server start 15
trap 'server stop' EXIT
quietly=(--quiet --output /dev/null --set ON_ERROR_STOP=1)
server psql "${quietly[@]}" --command 'CREATE DATABASE demo'
server psql "${quietly[@]}" --dbname demo --file "$here/fixtures/supabase.sql"
# Where in the files a message comes from is of no interest here.
show() { server psql --quiet --set ON_ERROR_STOP=1 --pset pager=off --dbname demo --username postgres --file "$1" 2>&1 | sed --unbuffered 's/^psql:[^ ]*: //'; }
show "$here/demo/signups.sql"
show "$here/demo/repair.sql"
server stop
trap - EXIT

cat <<EOT

The server is stopped; its data is kept until the next demo. To look around and go on:
  pgrx-tests/private_server.sh start target/demo 15
  pgrx-tests/private_server.sh psql target/demo -d demo -U postgres
  demo=> SELECT onagui.sync_report();
  demo=> SELECT * FROM onagui.sync_audit_log;
  demo=> \\df+ onagui.*
  pgrx-tests/private_server.sh stop target/demo
README.md: how to install it into a server of your own.
EOT
