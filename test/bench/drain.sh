# shellcheck shell=bash
#
# drain.sh
#     How fast what is in the log becomes a result: a backlog in transactions
#     of 10,000 rows, beside GROUP BY over a table of the same rows; other
#     tables' log; and with several tasks.
#
# Sourced by run.

# The pipeline's time includes the result table and the checkpoint; plain
# PostgreSQL's is that of the query alone.
bench_drain()
{
    local run
    settle
    sql <<<"$(copies clicks_plain rows)"
    warm clicks_plain
    for ((run = 0; run < RUNS; run++)); do
        take group_by_ms "$(timed "$one_process SELECT $grouped FROM clicks_plain $group_by $nothing_kept")"
        per_minute
        backlog per_minute "$(copies clicks rows)"
        take drain_ms "$(timed "$(resume per_minute) $(complete per_minute)")"
        verify per_minute "$ROWS"
        take drain_m_s "$(calc "$ROWS / 1e3 / ${taken[drain_ms]##* }")"
    done
    no_pipelines
    compared "Drain of $(count_of "$ROWS") rows into the result, 50 k groups; GROUP BY" speed "≥ 2" drain_ms group_by_ms
    single "Drain of $(count_of "$ROWS") rows, 50 k groups: million rows a second" "$(median drain_m_s)" "M/s" "≥ 8"
}

# The worker is stopped while the log is written, and reads it when it may go on.
bench_wal()
{
    local run from bytes ms
    per_minute clicks "checkpoint_interval => '1 day'"
    for ((run = 0; run < RUNS; run++)); do
        settle
        hold per_minute
        from=$(sql -c "SELECT pg_current_wal_insert_lsn()")
        bytes=0
        while [ "$bytes" -lt $((WAL_MB * 1024 * 1024)) ]; do
            sql <<<"$(copy clicks_plain part)"
            bytes=$(sql -c "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$from')::bigint")
        done
        ms=$(timed "$(go_on)
                    $(complete per_minute)")
        take skipped_gb_s "$(calc "$bytes / 1e9 / ($ms / 1000)")"
    done
    no_pipelines
    single "Reading past the log of other tables" "$(median skipped_gb_s)" "GB/s" "≥ 1" "$(calc "$bytes / 1e9" 1) GB at a time"
}

# As many workers as tasks; the number of workers needs a restart. Until the
# result is complete, with the CPU time of all workers.
bench_parallel()
{
    local run tasks pids cpu cores
    cores=$(nproc)
    for ((run = 0; run < RUNS; run++)); do
        for tasks in 1 2 4; do
            sql -c "ALTER SYSTEM SET stream_ckpt.workers = $tasks"
            server_stop
            server_start
            per_minute clicks "parallelism => $tasks"
            pids=$(workers)
            backlog per_minute "$(copies clicks part)"
            cpu=$(cpu_ms "$pids")
            take "tasks_${tasks}_ms" "$(timed "$(resume per_minute) $(complete per_minute)")"
            [ "$(workers)" = "$pids" ] || die "a worker has been restarted"
            take "tasks_${tasks}_cpu_ms" "$(($(cpu_ms "$pids") - cpu))"
            verify per_minute "$PART"
        done
    done
    no_pipelines
    sql -c "ALTER SYSTEM RESET stream_ckpt.workers"
    server_stop
    server_start
    for tasks in 2 4; do
        single "Drain of $(count_of "$PART") rows with $tasks tasks on $cores cores: times as fast as with one" "$(ratio tasks_1_ms "tasks_${tasks}_ms")" "times" "" \
            "$(median "tasks_${tasks}_ms") / $(median tasks_1_ms) ms; CPU $(median "tasks_${tasks}_cpu_ms") / $(median tasks_1_cpu_ms) ms"
    done
}
