# shellcheck shell=bash
#
# common.sh
#     What run and bench share: the generator, the queries' files, and asking
#     whether a query is supported.
#
# Sourced after ../lib/machine.sh, by scripts that have set $here.

: "${PARALLELISM:=1}"
queries=()       # names, such as q0, in order
refused=()       # "name: why" of those that are not supported yet

# Compile the generator in the scratch directory. The checkout is left as it is.
make_generator()
{
    "${CC:-gcc}" -std=gnu99 -O2 -Wall -o "$scratch/events" "$here/events.c" -lm || die "the generator does not compile"
    chmod 755 "$scratch/events"
}

events() { "$scratch/events" "$@"; }

# list_queries [NAME ...]: all of them without arguments.
list_queries()
{
    local name
    queries=("$@")
    [ $# -gt 0 ] || mapfile -t queries < <(cd "$here/queries" && printf '%s\n' q*.sql | sed 's/\.sql$//' | grep -v '\.' | sort -V)
    for name in "${queries[@]}"; do
        [ -r "$here/queries/$name.sql" ] || die "there is no query $name"
    done
}

query_text() { cat "$here/queries/$1.sql"; }

# The same over tables, where that is another text: sessions.
table_text()
{
    if [ -r "$here/queries/$1.table.sql" ]; then
        cat "$here/queries/$1.table.sql"
    else
        query_text "$1"
    fi
}

# header NAME WORD: what the query's file says behind "-- WORD: ", if anything.
header() { sed -n "s/^-- $2: //p" "$here/queries/$1.sql"; }

# Streams, tables and the rest, in a database of this name, which is the one that sql asks from now on.
make_database()
{
    sql -d postgres -c "CREATE DATABASE $1"
    export PGDATABASE=$1
    sql -c "ALTER DATABASE $1 SET timezone = 'UTC'" -c "CREATE EXTENSION stream_ckpt"
    sql -f "$here/relations.sql" >/dev/null
}

# create QUERY PIPELINE EMIT: make the pipeline, with its result in schema
# results. Fails when the server says that it is not supported, having noted
# why; any other error ends the script.
create()
{
    local sink error
    sink=$(header "$1" sink)
    if error=$(sql -v VERBOSITY=verbose -v name="results.$2" -v query="$(query_text "$1")" -v emit="$3" -v sink="$sink" -v tasks="$PARALLELISM" 2>&1 >/dev/null <<'SQL'
SET search_path = live, public;
SELECT stream_ckpt.create_pipeline(:'name', :'query', sink => nullif(:'sink', '')::regclass, emit => :'emit', parallelism => :tasks);
SQL
    ); then
        return 0
    fi
    case $error in
        *'ERROR:  0A000: '*)
            refused+=("$2: $(sed -n '1,/^LOCATION/ s/.*ERROR:  0A000: //p' <<<"$error" | head -n 1)")
            return 1 ;;
        *) die "$2: $error" ;;
    esac
}
