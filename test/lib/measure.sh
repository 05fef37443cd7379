# shellcheck shell=bash
#
# measure.sh
#     What test/bench/ and test/nexmark/bench share: taking values, medians
#     and ratios of them, clocks, the file of results, the machine's name.
#
# Sourced after machine.sh. A value is taken once a run, and runs are taken in
# turns (plain, stream, plain, …). A ratio is the median of the ratios within
# each turn, so that a machine whose speed drifts does less harm; the values
# beside it are medians of their own.
#
# For the caller to set, if it must differ:
#   progress=yes   say each value as it is taken

progress=
results=         # the file that record writes to
declare -A taken

# take NAME VALUE: one run's value.
take()
{
    taken[$1]="${taken[$1]:-} $2"
    [ -z "$progress" ] || printf '   %-28s %12s\n' "$1" "$2" >&2
}

# quantile NAME FRACTION: of all values taken, by the nearest rank; the
# median of an even number is the mean of the two.
quantile()
{
    # shellcheck disable=SC2086
    printf '%s\n' ${taken[$1]} | sort -g | awk -v f="$2" '{ v[NR] = $1 }
        END { if (f == 0.5 && NR % 2 == 0) { print (v[NR / 2] + v[NR / 2 + 1]) / 2; exit }
              r = int(f * NR + 0.999999); if (r < 1) r = 1; print v[r] }'
}

median() { quantile "$1" 0.5; }

# ratio A B [DIGITS]: the median of A / B over the runs.
ratio()
{
    local a b i
    read -r -a a <<<"${taken[$1]}"
    read -r -a b <<<"${taken[$2]}"
    taken[ratio]=
    for i in "${!a[@]}"; do taken[ratio]+=" $(calc "${a[i]} / ${b[i]}" 4)"; done
    calc "$(median ratio)" "${3:-2}"
}

calc() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }

# holds CONDITION: of numbers, as awk sees it.
holds() { awk "BEGIN { exit !($1) }"; }

# timed SQL: milliseconds by the server's clock, without psql's start.
timed()
{
    sql <<<"SELECT clock_timestamp() AS began \\gset
            $1
            SELECT round(extract(epoch FROM clock_timestamp() - :'began'::timestamptz) * 1000, 1)" | tail -n 1
}

# cpu_ms PIDS: user and system time of these processes.
cpu_ms()
{
    local pid stat ticks=0
    for pid in $1; do
        stat=$(cat "/proc/$pid/stat")
        # shellcheck disable=SC2086
        set -- ${stat##*) }
        ticks=$((ticks + ${12} + ${13}))
    done
    say $((ticks * 1000 / $(getconf CLK_TCK)))
}

# record NAME SYSTEM VALUE UNIT: a line of the results, which is these with
# tabs between. System "target" is what NAME is to reach; unit "x" is speed as
# a multiple of plain PostgreSQL's in the same run.
record() { printf '%s\t%s\t%s\t%s\n' "$@" >>"$results"; }

# What it was measured on; the commit is only known in a checkout.
machine_description()
{
    say "$(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(awk '/MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo) of memory,"
    say "$(uname -sr), $(stat -f -c %T "$scratch") file system, PostgreSQL $(sql -c "SHOW server_version"), stream_ckpt $(extension_commit);"
}

extension_commit()
{
    local commit
    commit=$(git -c safe.directory='*' -C "$top" rev-parse --short=10 HEAD 2>/dev/null) ||
        { sql -c "SELECT default_version FROM pg_available_extensions WHERE name = 'stream_ckpt'"; return; }
    git -c safe.directory='*' -C "$top" diff --quiet HEAD -- src sql Makefile 2>/dev/null || commit+=", changed"
    say "$commit"
}
