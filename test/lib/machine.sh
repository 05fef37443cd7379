# shellcheck shell=bash
#
# machine.sh
#     What test/run, test/demo/run, test/bench/run and test/nexmark/ share:
#     install what is missing, build and install the extension, run a
#     throw-away server.
#
# Sourced by scripts that have `set -euo pipefail`. Everything is made below
# one scratch directory and removed at exit. The server runs as a user that
# is not root (postgres when root calls, else the caller), listens only on a
# Unix socket in the scratch directory, and is the only thing besides the
# caller's own jobs whose processes are ever signalled.
#
# For the caller to set before the first call, if it must differ:
#   PG_CONFIG   the pg_config of the PostgreSQL to use
#   TMPDIR      where the scratch directory goes; default /tmp
#   KEEP=1      leave the scratch directory in place

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=
server_pid=
jobs_pids=()
run_as=()
run_under=()     # a tool that runs the server, such as valgrind
apt_wants=()

export LC_ALL=C.UTF-8
unset PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSERVICE PGOPTIONS PGDATA PGAPPNAME

say() { printf '%s\n' "$*"; }
note() { printf '%s\n' "$*" >&2; }
die() { note "$(basename "$0"): $*"; exit 1; }

# Wait between two looks at a condition that nothing can wake us up for.
pause() { sleep "$1"; }

# Milliseconds on a clock.
now_ms() { local t=${EPOCHREALTIME/[.,]/}; say "${t%???}"; }

as_root()
{
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: $*"
    fi
}

# ---------------------------------------------------------------------------
# Installing
# ---------------------------------------------------------------------------

# want PACKAGE PATH-OR-COMMAND: remember the package if what it brings is not there.
want()
{
    case $2 in
        /*) [ -e "$2" ] || apt_wants+=("$1") ;;
        *) command -v "$2" >/dev/null || apt_wants+=("$1") ;;
    esac
}

# machine_install [test]: whatever the build, the demo and, with "test", the
# tests need. Does not touch apt when nothing is missing.
machine_install()
{
    local pg=/usr/lib/postgresql/15 create=/etc/postgresql-common/createcluster.d

    make_scratch
    want make make
    want gcc gcc
    want libc6-dev /usr/include/stdio.h
    want xz-utils xz
    if [ -z "${PG_CONFIG:-}" ]; then
        PG_CONFIG=$pg/bin/pg_config
        want postgresql-15 $pg/bin/postgres
        want postgresql-server-dev-15 $pg/lib/pgxs/src/makefiles/pgxs.mk
        if [ "${1:-}" = test ]; then
            want postgresql-15-hll /usr/share/postgresql/15/extension/hll.control
            want postgresql-15-tdigest /usr/share/postgresql/15/extension/tdigest.control
        fi
    fi
    if [ "${1:-}" = test ]; then
        want perl prove
        perl -MIPC::Run -e 1 2>/dev/null || apt_wants+=(libipc-run-perl)
    fi

    if [ ${#apt_wants[@]} -gt 0 ]; then
        say "== Installing ${apt_wants[*]}"
        command -v apt-get >/dev/null || die "please install what Debian calls: ${apt_wants[*]}"
        as_root apt-get update -qq || note "apt-get update failed; going on with the lists there are"
        # We start a server of our own: keep Debian from making one as well,
        # just this once, and only where there has been none so far.
        if ! compgen -G '/etc/postgresql/*/*' >/dev/null; then
            as_root mkdir -p $create
            say "create_main_cluster = false" | as_root tee $create/stream_ckpt.conf >/dev/null
        fi
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            -o Dpkg::Use-Pty=0 "${apt_wants[@]}" </dev/null >"$scratch/apt.log" 2>&1 ||
            { cat "$scratch/apt.log" >&2; die "apt-get could not install ${apt_wants[*]}"; }
        as_root rm -f $create/stream_ckpt.conf
        as_root rmdir $create 2>/dev/null || true
        apt_wants=()
    fi

    pgbin=$("$PG_CONFIG" --bindir) || die "$PG_CONFIG does not run"
    [ -x "$pgbin/postgres" ] || die "there is no PostgreSQL server in $pgbin"
    export PG_CONFIG
    own_scratch
}

make_scratch()
{
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/stream_ckpt.XXXXXX")
    chmod 755 "$scratch"
    trap machine_exit EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# The server must not be root: from here on, ${run_as[@]} goes before its commands.
own_scratch()
{
    [ "$(id -u)" = 0 ] || return 0
    run_as=(setpriv --reuid=postgres --regid=postgres --init-groups --reset-env
            env "PATH=$PATH" "LC_ALL=$LC_ALL" "HOME=$scratch" "PG_CONFIG=$PG_CONFIG"
            "PGHOST=$scratch" PGUSER=postgres PGDATABASE=postgres)
    chown postgres: "$scratch"
}

# machine_build [CFLAGS]: build in the scratch directory and install. The
# checkout itself is left as it is, and may be on a file system that the
# server's user cannot read.
machine_build()
{
    local made=$scratch/build sudo=as_root log=$scratch/build.log

    say "== Building and installing"
    mkdir "$made"
    tar -C "$top" --exclude=.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
        --exclude=test/demo/data -cf - . | tar -C "$made" --no-same-owner -xf -
    make -s -C "$made" -j"$(nproc)" with_llvm=no ${1:+PG_CFLAGS="-std=gnu99 $1"} >"$log" 2>&1 ||
        { cat "$log" >&2; die "the build failed"; }
    [ -w "$("$PG_CONFIG" --pkglibdir)" ] && sudo=
    $sudo make -s -C "$made" with_llvm=no install >"$log" 2>&1 ||
        { cat "$log" >&2; die "make install failed"; }
    [ "$(id -u)" != 0 ] || chown -R postgres: "$made"
}

# ---------------------------------------------------------------------------
# The server
# ---------------------------------------------------------------------------

# server_init [SETTING ...]: make a cluster below the scratch directory.
server_init()
{
    cd "$scratch" || exit
    "${run_as[@]}" "$pgbin/initdb" -D "$scratch/data" -U postgres -A trust -E UTF8 \
        --no-sync --no-instructions >"$scratch/initdb.log" 2>&1 ||
        { cat "$scratch/initdb.log" >&2; die "initdb failed"; }
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$scratch'" \
        "shared_preload_libraries = 'stream_ckpt'" "$@" |
        "${run_as[@]}" tee -a "$scratch/data/postgresql.conf" >/dev/null
    export PGHOST=$scratch PGUSER=postgres PGDATABASE=postgres
}

# The postmaster is a child of this shell, so that it is reaped even in a
# container whose first process reaps nothing.
server_start()
{
    "${run_as[@]}" "${run_under[@]}" "$pgbin/postgres" -D "$scratch/data" </dev/null >>"$scratch/server.log" 2>&1 &
    server_pid=$!
    disown
    until "$pgbin/pg_isready" -q; do
        gone "$server_pid" && die "the server does not start"
        pause 0.05
    done
}

server_stop()
{
    local mode=${1:-fast} pids
    [ -n "$server_pid" ] || return 0
    mapfile -t pids < <(server_processes)
    "${run_as[@]}" "$pgbin/pg_ctl" stop -D "$scratch/data" -m "$mode" -t 30 >/dev/null 2>&1 ||
        kill -9 "${pids[@]}" 2>/dev/null || true
    wait_gone "${pids[@]}"
    server_pid=
}

# server_kill all|postmaster: SIGKILL, as a power cut or the out-of-memory
# killer would. Returns when no process of the server is left: with the
# postmaster alone killed, the others notice and end by themselves.
server_kill()
{
    local pids
    mapfile -t pids < <(server_processes)
    case $1 in
        all) kill -9 "${pids[@]}" 2>/dev/null || true ;;
        postmaster) kill -9 "$server_pid" ;;
    esac
    killed_processes=${#pids[@]}
    wait_gone "${pids[@]}"
    server_pid=
}

# The postmaster and its children, one a line.
server_processes()
{
    local stat rest
    say "$server_pid"
    for stat in /proc/[0-9]*/stat; do
        rest=$(cat "$stat" 2>/dev/null) || continue
        stat=${stat#/proc/}
        set -- ${rest##*) }
        [ "$2" != "$server_pid" ] || say "${stat%/stat}"
    done
}

# Is the process away, or dead and only not reaped?
gone()
{
    local rest
    rest=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    set -- ${rest##*) }
    [ "$1" = Z ]
}

wait_gone()
{
    local pid patience=300
    for pid; do
        until gone "$pid"; do
            pause 0.1
            [ $((patience -= 1)) -gt 0 ] || die "process $pid of the killed server does not end"
        done
    done
}

# Run psql quietly: rows only, no psqlrc, stop at the first error.
sql() { "$pgbin/psql" -XqAt -v ON_ERROR_STOP=1 "$@"; }

# The processes of the database's pipelines, one a line: workers, and writers of checkpoints.
workers() { sql -c "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'stream_ckpt %' ORDER BY pid"; }

# A server that has been at work has its shared buffers in memory, and writes over old segments of its log. A new one gets the
# memory page by page, and fills each segment with zeros first (15 ms on a fast disk): whoever needs them waits.
# With a min_wal_size of 8GB at the least.
used_server()
{
    sql -c "CREATE TABLE used (t text)" -c "ALTER TABLE used ALTER t SET STORAGE PLAIN" \
        -c "INSERT INTO used SELECT repeat('x', 8000) FROM generate_series(1, pg_size_bytes(current_setting('shared_buffers')) / 8192)" \
        -c "DROP TABLE used" \
        -c "DO \$\$ BEGIN FOR i IN 1 .. 500 LOOP PERFORM pg_logical_emit_message(false, '', ''), pg_switch_wal(); END LOOP; END \$\$" -c CHECKPOINT
}

machine_exit()
{
    local status=$? pid
    trap - EXIT INT TERM HUP
    set +e
    cd /
    for pid in "${jobs_pids[@]}"; do kill "$pid" 2>/dev/null; done
    [ ${#jobs_pids[@]} -eq 0 ] || wait "${jobs_pids[@]}" 2>/dev/null
    if [ -n "$scratch" ]; then
        if [ $status -ne 0 ] && [ -s "$scratch/server.log" ]; then
            note "== The end of the server's log"
            grep -vE 'system is starting up|not yet accepting|Consistent recovery' "$scratch/server.log" |
                tail -n 40 >&2
        fi
        server_stop immediate
        [ -n "${KEEP:-}" ] && note "kept: $scratch" || rm -rf "$scratch"
    fi
    exit $status
}
