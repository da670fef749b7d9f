# shellcheck shell=bash disable=SC2034
# What the scripts of this project share. To be sourced.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=${ONAGUI_SYNC_CACHE:-$HOME/.cache/onagui_sync}
target=$root/target
cargo_pgrx_version=0.18.1

# Under `make` PostgreSQL's makefiles would take themselves for a part of it, and leave out the headers they generate.
unset MAKELEVEL MAKEFLAGS MFLAGS MAKEOVERRIDES

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# "17-cassert" is PostgreSQL 17 in another build.
plain_major() { printf '%s\n' "${1%%-*}"; }

known_major() {
    case $1 in
        15 | 16 | 17 | 18 | 17-cassert) ;;
        *) die "no PostgreSQL '$1' here: one of 15, 16, 17, 18, 17-cassert" ;;
    esac
}

# long LOG WHAT COMMAND...: runs a command that takes minutes. Says so, shows a sign of life, keeps the output in a file
# and shows its end when the command fails. `set -e` does not reach into COMMAND: chain its steps with &&.
long() {
    local log=$1 what=$2 started=$SECONDS status=0 beat
    shift 2
    mkdir -p "$(dirname "$log")"
    say "$what"
    # The sleeper must hold neither our output nor our lock after we are gone.
    (while sleep 30 >/dev/null 2>&1 9>&-; do say "  ... $((SECONDS - started)) s"; done) &
    beat=$!
    ("$@") >"$log" 2>&1 </dev/null || status=$?
    kill "$beat"
    wait "$beat" 2>/dev/null || :
    if ((status != 0)); then
        tail -n 40 "$log" >&2
        die "that failed (status $status); all of its output: $log"
    fi
    say "  done in $((SECONDS - started)) s"
}

# One build of a kind at a time, whoever starts it; the lock goes with the process.
lock() {
    mkdir -p "$1"
    exec 9>"$1/.lock"
    if ! flock --nonblock 9; then
        say "waiting for another run that is preparing the same things"
        flock 9
    fi
}

# Where pgrx looks up the servers. One for each major: "17" and "17-cassert" would share an entry.
pgrx_home() { printf '%s\n' "$target/pgrx-home/$1"; }
