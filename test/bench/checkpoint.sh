# shellcheck shell=bash
#
# checkpoint.sh
#     Many groups kept: memory, checkpoints, how long these stop processing,
#     and being back after SIGKILL.
#
# Sourced by run.

# The last 10 % of the rows are in no checkpoint when the server is killed, and
# come again from the log. The clock starts when the server says that it takes
# connections, which is when its own recovery is over.
bench_checkpoint()
{
    local run ready late=$((GROUPS_MANY / 10)) ms="round(extract(epoch FROM duration) * 1000, 1)" groups
    groups="$(count_of "$GROUPS_MANY") groups"
    for ((run = 0; run < RUNS; run++)); do
        per_user "checkpoint_interval => '1 day'"
        settle
        sql -c "INSERT INTO visits SELECT i, i FROM generate_series(1, $GROUPS_MANY) i"
        caught_up by_user
        sql -c "$(complete by_user)" >/dev/null
        [ "$(last by_user checkpointed_rows)" -ge "$GROUPS_MANY" ] || note "   (the full snapshot holds only $(last by_user checkpointed_rows) groups)"
        take full_bytes "$(last by_user checkpointed_bytes)"
        take full_ms "$(last by_user "$ms")"
        take group_bytes "$(sql -c "SELECT round(state_bytes::numeric / state_rows, 1) FROM stream_ckpt.tasks WHERE pipeline = 'by_user'")"
        sql -c "INSERT INTO visits SELECT i * 100 - $run, 1 FROM generate_series(1, $GROUPS_MANY / 100) i"
        caught_up by_user
        sql -c "$(complete by_user)" >/dev/null
        take changed_bytes "$(last by_user checkpointed_bytes)"
        take changed_ms "$(last by_user "$ms")"
        sql -c "INSERT INTO visits SELECT i, 1 FROM generate_series(1, $late) i"
        server_kill all
        server_start
        sql -c "$(complete by_user)" >/dev/null
        ready=$(sed -n 's/ \[[0-9]*\] LOG:  database system is ready to accept connections$//p' "$scratch/server.log" | tail -n 1)
        take back_ms "$(sql -c "SELECT round(extract(epoch FROM clock_timestamp() - '$ready'::timestamptz) * 1000)")"
        take restore_ms "$(sql -c "SELECT $ms FROM stream_ckpt.restores WHERE pipeline = 'by_user' ORDER BY restored_at DESC LIMIT 1")"
        verify by_user $((GROUPS_MANY + GROUPS_MANY / 100 + late))
    done
    no_pipelines
    single "Memory of a group, int key, count and sum of float8, $groups" "$(median group_bytes)" bytes "≤ 80"
    single "kill -9 until running and caught up, $groups, without the server's recovery" "$(calc "$(median back_ms) / 1000")" s "≤ 2" \
        "of this, reading the state: $(median restore_ms) ms"
    row "Checkpoint of $groups, 1 % changed / all of them: bytes" "1/$(ratio full_bytes changed_bytes 0)" "≤ 1/30" "$(median changed_bytes) / $(median full_bytes)"
    row "Checkpoint of $groups, 1 % changed / all of them: time" "1/$(ratio full_ms changed_ms 0)" "≤ 1/30" "$(median changed_ms) / $(median full_ms) ms"
}

# From outside: while the worker has a backlog and never rests, the longest
# time that its count of rows stands still between the ends of two checkpoints,
# less what a batch takes otherwise. Rows are of 1 % of the groups, so that each
# checkpoint has these. The worker is stopped while they are written: a pipeline
# that is resumed would have its result rows to find again, and pages that
# PostgreSQL's own checkpoint has written would be logged whole once more.
bench_pause()
{
    local run rows=$((GROUPS_MANY * 3)) rounds=5 round in writers with
    for writers in 0 1; do
        sql -c "ALTER SYSTEM SET stream_ckpt.checkpoint_writers = $writers"
        server_stop
        server_start
        per_user "checkpoint_interval => '50 ms'"
        settle
        sql -c "INSERT INTO visits SELECT i, i FROM generate_series(1, $GROUPS_MANY) i" -c "$(complete by_user)" >/dev/null
        taken[pause_ms]='' taken[batch_ms]=''
        in=$GROUPS_MANY
        for ((run = 0; run < RUNS; run++)); do
            for ((round = 0; round < rounds; round++)); do
                hold by_user
                sql -c "CALL visit('visits', $rows, $GROUPS_MANY, 100)"
                in=$((in + rows))
                kill -CONT "$held_worker"
                probe steps "$in" "SELECT t.rows_in, p.last_checkpoint FROM stream_ckpt.tasks t JOIN stream_ckpt.pipelines p USING (pipeline) WHERE pipeline = 'by_user'" >"$scratch/steps"
                sql -c "$(complete by_user)" >/dev/null
                # the first step includes the start, and the last one is smaller
                taken[batch_ms]+=" $(awk 'NR > 2 && $3 == c { print $1 - t } { t = $1; c = $3 }' "$scratch/steps" | tr '\n' ' ')"
                taken[pause_ms]+=" $(awk 'NR > 2 { if ($1 - t > longest) longest = $1 - t
                    if ($3 != c) { print longest; longest = 0 } } { t = $1; c = $3 }' "$scratch/steps" | tr '\n' ' ')"
            done
            # shellcheck disable=SC2086
            note "   standing still, checkpoints so far: $(wc -w <<<"${taken[pause_ms]}"), 99 % within $(quantile pause_ms 0.99) ms; a batch $(quantile batch_ms 0.5) ms"
        done
        verify by_user "$in"
        no_pipelines
        [ -n "${taken[pause_ms]// /}" ] || die "there was no checkpoint while the backlog was read"
        [ -n "${taken[batch_ms]// /}" ] || taken[batch_ms]=0
        with=${writers#0}
        single "Pause for a checkpoint, $(count_of "$GROUPS_MANY") groups, 1 % changed${with:+, checkpoint_writers = 1}: 99 % within" \
            "$(calc "$(quantile pause_ms 0.99) - $(median batch_ms)" 1)" ms "≤ 30" \
            "median $(calc "$(median pause_ms) - $(median batch_ms)" 1) ms, of $(wc -w <<<"${taken[pause_ms]}"); a batch takes $(median batch_ms) ms"
    done
    sql -c "ALTER SYSTEM RESET stream_ckpt.checkpoint_writers"
    server_stop
    server_start
}
