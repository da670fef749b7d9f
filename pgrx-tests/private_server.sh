#!/usr/bin/env bash
# A PostgreSQL of one's own in a folder of one's own, reached by a socket that lies there too:
#
#   private_server.sh start DIR MAJOR [--durable] [--tcp PORT] [-c NAME=VALUE]...
#   private_server.sh stop DIR [fast|immediate]
#   private_server.sh psql DIR [PSQL-ARGUMENT]...
#   private_server.sh env DIR            PGHOST=... and so on, to be read by `eval` or by a program
#
# The bootstrap superuser is supabase_admin; whoever may enter DIR may connect as any role. Nothing is listened to but the
# socket, unless --tcp opens a port on 127.0.0.1. Without --durable a crash of the machine loses the data, which tests do
# not mind. `start` on a folder that has data starts that. DIR/server.log has the server's own words.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=tools/lib.sh
source "$here/../tools/lib.sh"

# The server refuses to run as root. In a user namespace root looks like somebody else to it, and keeps its files; where
# such namespaces are not allowed, it really is somebody else.
as_server() {
    if ((EUID != 0)); then
        "$@"
    elif unshare --user --map-user="$server_user" true 2>/dev/null; then
        USER=$server_user LOGNAME=$server_user unshare --user --map-user="$server_user" --map-group="$server_user" -- "$@"
    else
        runuser -u "$server_user" -- "$@"
    fi
}

prepare_server_user() {
    server_user=postgres
    if ((EUID != 0)); then return; fi
    id "$server_user" >/dev/null 2>&1 || die "running as root needs a system user 'postgres' for the server"
    if ! unshare --user --map-user="$server_user" true 2>/dev/null; then
        chown "$server_user" "$dir"
        runuser -u "$server_user" -- test -x "$bin/postgres" ||
            die "user '$server_user' cannot reach $bin: put the checkout where other users may read it, or do not run as root"
    fi
}

read_env() {
    [[ -f $dir/server.env ]] || die "no server has been started in $dir"
    # shellcheck source=/dev/null
    source "$dir/server.env"
    bin=$ONAGUI_BIN
}

running() { [[ -f $dir/data/postmaster.pid ]] && as_server "$bin/pg_ctl" status --pgdata "$dir/data" >/dev/null 2>&1; }

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
    bin=$target/pg/$major/bin
    [[ -x $bin/postgres ]] || die "there is no PostgreSQL $major yet: tools/toolchain.sh pg $major"
    prepare_server_user
    if [[ -f $dir/server.env ]] && running; then
        say "the server in $dir runs already"
        return
    fi

    if [[ ! -f $dir/data/PG_VERSION ]]; then
        as_server "$bin/initdb" --pgdata "$dir/data" --username supabase_admin --auth trust --encoding UTF8 --locale C.UTF-8 \
            --no-sync >"$dir/initdb.log" 2>&1 || {
            cat "$dir/initdb.log" >&2
            die "initdb failed"
        }
        echo "include_if_exists = 'private.conf'" | as_server tee -a "$dir/data/postgresql.conf" >/dev/null
    fi

    # A socket's address has room for 107 bytes.
    socket=$dir
    if ((${#dir} > 80)); then
        socket=$(mktemp -d "${TMPDIR:-/tmp}/onagui.XXXXXX")
        if ((EUID == 0)); then chown --reference="$dir" "$socket"; fi
    fi
    {
        echo "unix_socket_directories = '$socket'"
        echo "listen_addresses = '${port:+127.0.0.1}'"
        echo "port = ${port:-5432}"
        echo "timezone = 'UTC'"
        echo "jit = off"
        echo "log_line_prefix = '%m [%p] %e %q%u@%d '"
        if [[ $durable == false ]]; then
            printf '%s = off\n' fsync full_page_writes synchronous_commit
        fi
        for setting in "${settings[@]}"; do
            printf "%s = '%s'\n" "${setting%%=*}" "${setting#*=}"
        done
    } | as_server tee "$dir/data/private.conf" >/dev/null
    printf '%s=%q\n' PGHOST "$socket" PGPORT "${port:-5432}" PGUSER supabase_admin PGDATABASE postgres ONAGUI_BIN "$bin" \
        >"$dir/server.env"

    as_server "$bin/pg_ctl" start --pgdata "$dir/data" --log "$dir/server.log" --wait --timeout 60 --silent >/dev/null 2>&1 </dev/null || {
        tail -n 20 "$dir/server.log" >&2
        die "the server in $dir did not start"
    }
}

stop() {
    local mode=${1:-fast}
    read_env
    prepare_server_user
    if running; then
        as_server "$bin/pg_ctl" stop --pgdata "$dir/data" --mode "$mode" --wait --timeout 60 --silent >/dev/null
    fi
    # Only a folder that `start` has made for the socket.
    if [[ $PGHOST != "$dir" ]]; then rm -rf "$PGHOST"; fi
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
        ;;
    stop) stop "$@" ;;
    psql)
        read_env
        export PGHOST PGPORT PGUSER PGDATABASE
        exec "$bin/psql" --no-psqlrc "$@"
        ;;
    env)
        read_env
        cat "$dir/server.env"
        ;;
    *) die "no command '$command': start, stop, psql, env" ;;
esac
