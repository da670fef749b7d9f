#!/usr/bin/env bash
# A PostgreSQL of one's own in a folder of one's own, reached by a socket that lies there too:
#
#   private_server.sh start DIR MAJOR [--durable] [--tcp PORT] [-c NAME=VALUE]...
#   private_server.sh stop DIR [fast|immediate]
#   private_server.sh remove DIR              stops it and deletes DIR
#   private_server.sh psql DIR [PSQL-ARGUMENT]...
#   private_server.sh run DIR PROGRAM [ARGUMENT]...   one of PostgreSQL's programs, as the user the server runs
#                                             as, in a folder of the server's
#   private_server.sh env DIR                 PGHOST=... and so on, to be read by `eval` or by a program
#
# The bootstrap superuser is supabase_admin; whoever may enter DIR may connect as any role. Nothing is listened to but the
# socket, unless --tcp opens a port on 127.0.0.1. Without --durable a crash of the machine loses the data, which tests do
# not mind. `start` on a folder that has data starts that. DIR/server.log has the server's own words.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=tools/lib.sh
source "$here/../tools/lib.sh"

# The server refuses to run as root. In a user namespace root looks like somebody else to it, and keeps its files; where such
# namespaces are not allowed (containers), the server runs as the system's user postgres.
user=postgres
if ((EUID != 0)); then
    as=self
elif ! id "$user" >/dev/null 2>&1; then
    die "running as root needs a system user '$user' for the server"
elif unshare --user --map-user="$user" true 2>/dev/null; then
    as=namespace
else
    as=other
fi

as_server() {
    case $as in
        self) "$@" ;;
        namespace) USER=$user LOGNAME=$user unshare --user --map-user="$user" --map-group="$user" -- "$@" ;;
        # It may not be allowed into the folder we are in.
        other) USER=$user LOGNAME=$user env --chdir=/ setpriv --reuid="$user" --regid="$user" --init-groups -- "$@" ;;
    esac
}

# Data and programs are where the server's user can get at them; mostly that is DIR and target/pg. Sets home and bin.
find_home() {
    home=$dir
    bin=$target/pg/$1/bin
    [[ $as == other ]] || return 0
    chown "$user" "$dir"
    if as_server test -x "$bin/postgres" && as_server test -w "$dir"; then return; fi
    read_link
    if [[ $home == "$dir" ]]; then
        home=$(mktemp -d "${TMPDIR:-/tmp}/onagui.XXXXXX")
        chown "$user" "$home"
        ln -s "$home/data" "$home/server.log" "$dir/"
    fi
    # Anew each time: the extension may have been built again.
    rm -rf "$home/pg"
    cp -a "$target/pg/$1" "$home/pg"
    bin=$home/pg/bin
}

# Where the data is, if it is not in DIR.
read_link() {
    home=$dir
    if [[ -L $dir/data ]]; then home=$(dirname "$(readlink "$dir/data")"); fi
}

read_env() {
    [[ -f $dir/server.env ]] || die "no server has been started in $dir"
    # shellcheck source=/dev/null
    source "$dir/server.env"
    bin=$ONAGUI_BIN
    home=$ONAGUI_HOME
}

running() { [[ -f $home/data/postmaster.pid ]] && as_server "$bin/pg_ctl" status --pgdata "$home/data" >/dev/null 2>&1; }

make_cluster() {
    as_server "$bin/initdb" --pgdata "$home/data" --username supabase_admin --auth trust --encoding UTF8 --locale C.UTF-8 \
        --no-sync >"$dir/initdb.log" 2>&1 || {
        cat "$dir/initdb.log" >&2
        die "initdb failed"
    }
    echo "include_if_exists = 'private.conf'" | as_server tee -a "$home/data/postgresql.conf" >/dev/null
}

start() {
    local major=$1 durable=false port='' settings=() socket setting
    shift
    while (($#)); do
        case $1 in
            --durable) durable=true ;;
            --tcp)
                port=$2
                shift
                ;;
            -c)
                settings+=("$2")
                shift
                ;;
            *) die "private_server.sh start: what is '$1'?" ;;
        esac
        shift
    done
    known_major "$major"
    [[ -x $target/pg/$major/bin/postgres ]] || die "there is no PostgreSQL $major yet: tools/toolchain.sh pg $major"
    if [[ -f $dir/server.env ]]; then
        read_env
        if running; then
            say "the server in $dir runs already"
            return
        fi
    fi
    find_home "$major"
    [[ -f $home/data/PG_VERSION ]] || make_cluster

    # A socket's address has room for 107 bytes. A server that was killed has left its folder, which serves again.
    socket=$home
    if ((${#socket} > 80)) && [[ ${PGHOST:-} == "${TMPDIR:-/tmp}"/onagui.* && -d $PGHOST ]]; then
        socket=$PGHOST
    elif ((${#socket} > 80)); then
        socket=$(mktemp -d "${TMPDIR:-/tmp}/onagui.XXXXXX")
        [[ $as != other ]] || chown "$user" "$socket"
    fi
    {
        echo "unix_socket_directories = '$socket'"
        echo "listen_addresses = '${port:+127.0.0.1}'"
        echo "port = ${port:-5432}"
        echo "timezone = 'UTC'"
        echo "log_line_prefix = '%m [%p] %e %q%u@%d '"
        if [[ $durable == false ]]; then
            printf '%s = off\n' fsync full_page_writes synchronous_commit
        fi
        for setting in "${settings[@]}"; do
            printf "%s = '%s'\n" "${setting%%=*}" "${setting#*=}"
        done
    } | as_server tee "$home/data/private.conf" >/dev/null
    printf '%s=%q\n' PGHOST "$socket" PGPORT "${port:-5432}" PGUSER supabase_admin PGDATABASE postgres \
        ONAGUI_BIN "$bin" ONAGUI_HOME "$home" >"$dir/server.env"

    as_server "$bin/pg_ctl" start --pgdata "$home/data" --log "$home/server.log" --wait --timeout 60 --silent >/dev/null 2>&1 </dev/null || {
        tail -n 20 "$home/server.log" >&2
        die "the server in $dir did not start"
    }
}

stop() {
    if running; then
        as_server "$bin/pg_ctl" stop --pgdata "$home/data" --mode "${1:-fast}" --wait --timeout 60 --silent >/dev/null
    fi
    # Only a folder that `start` has made for the socket.
    if [[ $PGHOST != "$home" ]]; then rm -rf "$PGHOST"; fi
}

(($# >= 2)) || {
    sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}
command=$1
[[ -d $2 ]] || mkdir -m 0700 "$2"
dir=$(cd "$2" && pwd -P)
shift 2
case $command in
    start)
        (($#)) || die "which PostgreSQL? For example: private_server.sh start $dir 15"
        start "$@"
        exit
        ;;
    # It may not have come as far as that: then there is nothing to stop.
    remove) if [[ -f $dir/server.env ]]; then read_env; else read_link; fi ;;
    stop | psql | run | env) read_env ;;
    *) die "no command '$command': start, stop, remove, psql, run, env" ;;
esac
export PGHOST PGPORT PGUSER PGDATABASE
case $command in
    stop) stop "$@" ;;
    remove)
        if [[ -f $dir/server.env ]]; then stop immediate; fi
        rm -rf "$dir"
        # Again only what `start` has made.
        if [[ $home != "$dir" ]]; then rm -rf "$home"; fi
        ;;
    psql) exec "$bin/psql" --no-psqlrc "$@" ;;
    run) as_server env --chdir="$home" "$bin/$1" "${@:2}" ;;
    env) cat "$dir/server.env" ;;
esac
