#!/usr/bin/env bash
# Builds the extension in release for a PostgreSQL of this system and installs it there (with sudo where that is needed):
#
#   tools/install.sh [PG_CONFIG]      default: the pg_config in PATH
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

pg_config=$(command -v "${1:-pg_config}") || die "no pg_config: install the server's development package, or make install PG_CONFIG=/path/to/pg_config"
[[ $pg_config == /* ]] || pg_config=$PWD/$pg_config
version=$("$pg_config" --version)
major=$(sed -E 's/^PostgreSQL ([0-9]+).*/\1/' <<<"$version")
known_major "$major"
[[ -f $("$pg_config" --includedir-server)/postgres.h ]] || die "the server headers for $version are missing (Debian: postgresql-server-dev-$major)"

cargo_pgrx=$("$root/tools/toolchain.sh" cargo-pgrx)
export PGRX_HOME=$target/pgrx-home/system-$major CARGO_TARGET_DIR=$target/build-system-$major
mkdir -p "$PGRX_HOME"
printf '[configs]\npg%s = "%s"\n' "$major" "$pg_config" >"$PGRX_HOME/config.toml"

cd "$root"
say "building onagui_sync for $version (release; usually 2 minutes the first time)"
package=$target/package/$major
rm -rf "$package"
"$cargo_pgrx" pgrx package --no-default-features --features "pg$major" --pg-config "$pg_config" --out-dir "$package"

as=()
if [[ ! -w $("$pg_config" --pkglibdir) || ! -w $("$pg_config" --sharedir)/extension ]]; then as=(sudo); fi
# Each file by a rename: sessions that have the old library loaded would crash if it were written over. The control file
# comes last, since it says which version there is.
put() {
    local mode=$1 file
    shift
    for file; do
        "${as[@]}" install -D --mode "$mode" "$file" "${file#"$package"}.new"
        "${as[@]}" mv --force "${file#"$package"}.new" "${file#"$package"}"
        say "installed ${file#"$package"}"
    done
}
shopt -s globstar nullglob
put 755 "$package"/**/*.so
put 644 "$package"/**/onagui_sync--*.sql
put 644 "$package"/**/onagui_sync.control
