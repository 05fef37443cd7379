# shellcheck shell=bash
#
# live.sh
#     Rows that come in at a steady rate: how soon they are seen, and how
#     many pipelines can follow them.
#
# Sourced by run.

# Batches of 100 rows, of which one is group 0's, so that its row shows the
# latest batch that the result has; the others are of a thousand groups.
bench_latency()
{
    local run answer
    sql -c "SELECT stream_ckpt.create_stream('pings', 'k int, batch bigint, amount float8')" >/dev/null
    for ((run = 0; run < RUNS; run++)); do
        new_pipeline latency "SELECT k, count(*), sum(amount), max(batch) AS batch FROM pings GROUP BY k" "checkpoint_interval => '50 ms'"
        settle
        answer=$(probe latency 10000 "$SECONDS_LIVE" 100 \
            "INSERT INTO pings SELECT CASE WHEN i = 1 THEN 0 ELSE 1 + (random() * 999)::int END, \$1, i FROM generate_series(1, 100) i" \
            "SELECT batch FROM latency WHERE k = 0")
        # shellcheck disable=SC2086
        set -- $answer
        holds "$5 < 0.5" || die "the producer does not reach 10,000 rows a second"
        take latency_50_ms "$1"; take latency_99_ms "$2"; take latency_most_ms "$3"
    done
    sql -c "SET client_min_messages = warning" -c "SELECT stream_ckpt.drop_stream('pings', true)" >/dev/null
    single "Commit to seen in the result, 10 k rows/s, checkpoints every 50 ms: median" "$(median latency_50_ms)" ms "≤ 40"
    single "Commit to seen in the result, 10 k rows/s, checkpoints every 50 ms: 99 % within" "$(median latency_99_ms)" ms "≤ 100" "longest $(median latency_most_ms) ms"
}

# hundred NAME CONDITION KEY TARGET WORDS: 100 pipelines over one stream, into
# which 100,000 rows a second come. %s is the pipeline's number. They keep up
# if they are never further behind than a checkpoint's interval.
hundred()
{
    local run answer pids cpu began lag longest producer in rows=$((100000 * SECONDS_LIVE))
    for ((run = 0; run < RUNS; run++)); do
        no_pipelines
        sql -c "SELECT stream_ckpt.create_pipeline('p' || i, format('SELECT $3 AS k, count(*), sum(amount) FROM visits $2 GROUP BY 1', i)) FROM generate_series(0, 99) i" \
            -c "SELECT stream_ckpt.checkpoint()" >/dev/null
        settle
        pids=$(workers)
        cpu=$(cpu_ms "$pids")
        longest=0
        began=$(now_ms)
        probe pace 100000 "$SECONDS_LIVE" 1000 "INSERT INTO visits SELECT (random() * 10000)::int, \$1 FROM generate_series(1, 1000) i" >"$scratch/pace" &
        producer=$!
        jobs_pids=("$producer")
        while kill -0 "$producer" 2>/dev/null; do
            pause 0.5
            lag=$(sql -c "SELECT round(extract(epoch FROM max(lag)) * 1000) FROM stream_ckpt.pipelines")
            holds "$lag <= $longest" || longest=$lag
        done
        wait "$producer" || die "the producer failed"
        jobs_pids=()
        answer=$(cat "$scratch/pace")
        # shellcheck disable=SC2086
        set -- "$1" "$2" "$3" "$4" "$5" $answer
        holds "$8 < 0.5" || die "the producer does not reach 100,000 rows a second"
        sql -c "SELECT stream_ckpt.checkpoint('10 min'::interval)" >/dev/null
        take "$1_k_s" "$(calc "$rows / ($(now_ms) - $began)" 1)"
        take "$1_lag_ms" "$longest"
        take "$1_busy" "$(calc "($(cpu_ms "$pids") - $cpu) / ($(now_ms) - $began) * 100" 0)"
        in=$(sql -c "SELECT sum(rows_in) = 100 * $rows FROM stream_ckpt.pipelines")
        [ "$in" = t ] || die "the pipelines have not all got all rows"
    done
    no_pipelines
    single "100 pipelines over one stream, 100 k rows/s in, $5: longest lag" "$(median "$1_lag_ms")" ms "$4" \
        "$(median "$1_k_s") k rows/s until complete; worker busy $(median "$1_busy") %"
}

bench_pipelines()
{
    hundred share "WHERE user_id %% 100 = %s" user_id "≤ 1000" "a condition for each"
    hundred all "" "user_id %% 100" "" "all of them group all rows"
}
