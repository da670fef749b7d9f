#!/usr/bin/env bash
# Runs the tests and closes with a line "N passed, N failed":
#
#   tools/test.sh              the unit tests and, on PostgreSQL 15, 16, 17 and 18, the server tests
#   tools/test.sh 15 [17...]   the same for these majors
#   tools/test.sh unit         what needs no server: unit tests, format, lints
#
# Every one runs every server test; what a build of PostgreSQL comes without (16 and 18: contrib, ICU) is skipped by name.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

passed=0 failed=0 skipped=0
results=$target/test
jobs=${ONAGUI_SYNC_TEST_JOBS:-$(nproc)}

# check NAME COMMAND...: counts as one test.
check() {
    local name=$1
    shift
    say "-- $name"
    if "$@" >&2; then
        passed=$((passed + 1))
    else
        say "FAILED: $name"
        failed=$((failed + 1))
    fi
}

# Cargo prints a line of totals for each test binary.
rust_unit_tests() {
    local log=$results/unit.log status=0 line
    say "-- unit tests"
    cargo test --package onagui_decide >"$log" 2>&1 || status=$?
    cat "$log" >&2
    while read -r line; do
        [[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed\;\ ([0-9]+)\ ignored ]] || continue
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
    done < <(grep '^test result:' "$log")
    # It did not compile, or died on the way.
    if ((status != 0)) && ! grep --quiet '^test result: FAILED' "$log"; then
        say "FAILED: the unit tests did not run"
        failed=$((failed + 1))
    fi
}

unsafe_only_in_its_room() {
    ! grep --recursive --line-number --word-regexp unsafe --include='*.rs' --exclude-dir=pg "$root/src" "$root/decide" |
        grep --invert-match --extended-regexp '^[^:]*:[0-9]+: *//'
}

# CREATE EXTENSION reads it as text in the database's encoding.
install_script_is_ascii() {
    ! LC_ALL=C grep --recursive --line-number --exclude-dir=released --perl-regexp '[^\x00-\x7F]' "$root/sql" "$root/onagui_sync.control"
}

# In the folder of the build for 15, whose bindings it shares.
clippy() {
    PGRX_HOME=$(pgrx_home 15) CARGO_TARGET_DIR=$target/build-15 cargo clippy --quiet --workspace --all-targets \
        --no-default-features --features pg15 -- --deny warnings
}

unit() {
    check "cargo fmt" cargo fmt --all --check
    check "unsafe stands in src/pg only" unsafe_only_in_its_room
    check "the SQL is ASCII" install_script_is_ascii
    rust_unit_tests
    "$root/tools/toolchain.sh" pg 15
    check "cargo clippy" clippy
}

server_tests() {
    local major=$1 report=$results/pg$1.xml status=0 totals
    say "-- PostgreSQL $major"
    if ! "$root/tools/build.sh" "$major" dev; then
        say "FAILED: the build for PostgreSQL $major"
        failed=$((failed + 1))
        return
    fi
    rm -f "$report"
    (cd "$root/pgrx-tests" && PG=$major /usr/bin/python3 -B -m pytest --quiet --numprocesses "$jobs" --junit-xml "$report" >&2 </dev/null) || status=$?
    totals=$(/usr/bin/python3 "$root/tools/junit_totals.py" "$report" "$status")
    read -r p f s <<<"$totals"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

mkdir -p "$results"
cd "$root"
majors=("$@")
if [[ ${1:-} == unit ]]; then
    majors=()
elif (($# == 0)); then
    majors=(15 17 16 18)
fi
for major in "${majors[@]}"; do known_major "$major"; done

if ((${#majors[@]})); then
    "$root/tools/toolchain.sh" tests
    "$root/tools/toolchain.sh" pg "${majors[@]}"
    "$root/tools/toolchain.sh" cargo-pgrx >/dev/null
fi
unit
for major in "${majors[@]}"; do server_tests "$major"; done

if ((skipped)); then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
((failed == 0 && passed > 0))
