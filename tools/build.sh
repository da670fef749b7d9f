#!/usr/bin/env bash
# Builds the extension for one PostgreSQL major and installs it into the project's own copy of that server:
#
#   tools/build.sh MAJOR [dev|release]
#
# To install into a server of the system: make install.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

major=${1:-}
profile=${2:-dev}
[[ -n $major ]] || die "which PostgreSQL? For example: tools/build.sh 15 release"
known_major "$major"
case $profile in
    dev) options=() results=debug ;;
    release) options=(--release) results=release ;;
    *) die "no profile '$profile': dev or release" ;;
esac

"$root/tools/toolchain.sh" pg "$major"
cargo_pgrx=$("$root/tools/toolchain.sh" cargo-pgrx)

PGRX_HOME=$(pgrx_home "$major")
# A folder for each: pgrx-pg-sys keeps one server's bindings in it.
export PGRX_HOME CARGO_TARGET_DIR=$target/build-$major
# cargo-pgrx would add a linker flag, so that nothing could be shared with `cargo clippy` and `cargo test`: a third of a cold
# build. Only elsewhere than on x86-64 the linker has been seen to need it.
if [[ $(uname -m) == x86_64 ]]; then export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1; fi

# Two thirds of a first build are the same for every major: start from what another one has left. Cargo's own lock keeps
# a build that is under way from being copied half-done.
seed() {
    local other
    for other in "$target"/build-*/"$results"; do
        [[ -f $other/.cargo-lock ]] || continue
        mkdir -p "$CARGO_TARGET_DIR"
        rm -rf "$CARGO_TARGET_DIR/.new"
        flock "$other/.cargo-lock" cp -a "$other" "$CARGO_TARGET_DIR/.new"
        mv -T "$CARGO_TARGET_DIR/.new" "$CARGO_TARGET_DIR/$results"
        return
    done
}
[[ -e $CARGO_TARGET_DIR/$results ]] || seed

cd "$root"
say "building onagui_sync for PostgreSQL $major ($profile; the first time usually 90 s, for each further major 30 s)"
# cargo-pgrx tells of its every step, in colour wherever it writes to; what cargo and the compiler say is enough.
chatter='/^(\x1b\[[0-9;]*m)* *(Using|Building|Running|Installing|Copying|Discovered|Writing)\x1b/d'
if [[ -t 2 ]]; then
    export CARGO_TERM_COLOR=always
else
    chatter+='; s/\x1b\[[0-9;]*m//g'
fi
"$cargo_pgrx" pgrx install --no-default-features --features "pg$(plain_major "$major")" \
    --pg-config "$target/pg/$major/bin/pg_config" "${options[@]}" </dev/null 2>&1 | sed --unbuffered --regexp-extended "$chatter" >&2
