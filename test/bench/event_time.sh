# shellcheck shell=bash
#
# event_time.sh
#     What windows cost beside GROUP BY over a table, closing them, DISTINCT,
#     and aggregates over rows that change. Each result is compared, row by
#     row, with what the query gives over the table.
#
# Sourced by run.

# windows FUNCTION RELATION [COLUMN ...]: count and sum per window and more.
windows() { printf '%s' "SELECT window_start${3:+, $3}, count(*), sum(amount) FROM $2, stream_ckpt.$1 GROUP BY window_start${3:+, $3}"; }

sessions() { printf '%s' "SELECT user_id, window_start, window_end, count(*) FROM $1, stream_ckpt.session(ts, '10 s') GROUP BY user_id, window_start, window_end"; }

# Nexmark's query 15: rows, users and pages of the day, in all and in each third of the amounts.
distinct()
{
    local third n=0 counts=
    for third in true "amount < 33" "amount >= 33 AND amount < 66" "amount >= 66"; do
        counts+=", count(*) FILTER (WHERE $third) AS rows_$n, count(DISTINCT user_id) FILTER (WHERE $third) AS users_$n"
        counts+=", count(DISTINCT url) FILTER (WHERE $third) AS urls_$n"
        n=$((n + 1))
    done
    printf '%s' "SELECT window_start$counts FROM $1, stream_ckpt.tumble(ts, '1 day') GROUP BY window_start"
}

# expect QUERY: what the drains that follow have to give. Sums of floats come
# out the same only if the rows come in the same order: no scan starts midway.
expect()
{
    sql -c "SET client_min_messages = warning" -c "DROP TABLE IF EXISTS expected" \
        -c "$one_process SET synchronize_seqscans = off; CREATE UNLOGGED TABLE expected AS $1"
}

# group_windows NAME QUERY: as group_by in bench_drain, computed and stored nowhere.
group_windows() { sql -c CHECKPOINT; take "$1" "$(timed "$one_process $2 OFFSET 1000000000;")"; }

# drain_windows NAME FILE EMIT QUERY: drain the file and a watermark that is
# past it, from a new stream, as the old one's watermark makes all rows late.
# One transaction brings all rows, so nothing is late, and every window closes.
drain_windows()
{
    local missing
    sql -c "SET client_min_messages = warning" \
        -c "SELECT stream_ckpt.drop_stream('events', true) WHERE to_regclass('events') IS NOT NULL" \
        -c "SELECT stream_ckpt.create_stream('events', '$columns', event_time => 'ts', watermark_delay => '1 s')" \
        -c "SELECT stream_ckpt.create_pipeline('windowed', \$\$$4\$\$, emit => '$3')" \
        -c "SELECT stream_ckpt.checkpoint('windowed')" \
        -c "SELECT stream_ckpt.pause_pipeline('windowed')" \
        -c "COPY events FROM '$scratch/$2'" \
        -c "SELECT stream_ckpt.advance_watermark('events', '2024-02-01')" \
        -c CHECKPOINT >/dev/null
    take "$1" "$(timed "SELECT stream_ckpt.resume_pipeline('windowed');
                        SELECT stream_ckpt.checkpoint('windowed', '10 min');")"
    missing=$(sql -c "SELECT count(*) - (SELECT count(*) FROM windowed) FROM expected" \
                  -c "SELECT count(*) FROM (TABLE expected EXCEPT ALL TABLE windowed) missing")
    [ "$missing" = $'0\n0' ] || die "$1: the result is not what the query gives over the table"
}

# busy ROWS: million rows a second of the time that the worker was busy. The
# counter lags by what it was busy with last, so ask until it stands still for
# longer than a checkpoint's interval.
busy()
{
    local before=0 ms patience=50
    until ms=$(sql -c "SELECT busy_ms FROM stream_ckpt.tasks WHERE pipeline = 'windowed'"); [ "$(calc "$ms - $before < 5" 0)" = 1 ]; do
        before=$ms
        pause 1.2
        [ $((patience -= 1)) -gt 0 ] || die "the worker does not come to rest"
    done
    calc "$1 / 1e3 / $ms"
}

# close_window PIPELINE NUMBER OPEN: close one window of 1,000 groups, which the
# checkpoint before has stored, in one that has nothing else to do. OPEN groups stay.
close_window()
{
    local left
    sql -c "INSERT INTO $1_events SELECT i, '2024-01-01 00:00:30+00'::timestamptz + interval '1 minute' * $2 FROM generate_series(1, 1000) i" \
        -c "SELECT stream_ckpt.checkpoint('$1', '10 min')" \
        -c "SELECT stream_ckpt.advance_watermark('$1_events', '2024-01-01 00:01:00+00'::timestamptz + interval '1 minute' * $2)" >/dev/null
    caught_up "$1"
    sql -c "SELECT stream_ckpt.checkpoint('$1', '10 min')" >/dev/null
    [ "$(sql -c "SELECT count(*) FROM $1")" = $((1000 * ($2 + 1))) ] || die "$1: the window has not closed"
    left=$(sql -c "SELECT state_rows FROM stream_ckpt.tasks WHERE pipeline = '$1'")
    [ "$left" = "$3" ] || die "$1: $left groups are in the state"
    take "close_$1_ms" "$(last "$1" "round(extract(epoch FROM duration) * 1000, 2)")"
}

bench_event_time()
{
    local run name closed in_sessions each burst=$((PART / 3)) keys=$((PART / 30))
    local -A open=([few]=$((GROUPS_MANY / 100)) [many]=$GROUPS_MANY)
    in_sessions=$((keys * 10 * 2))
    each="SELECT (random() * 100000)::int, '/page/' || (random() * 999)::int, floor(random() * 800) / 8"
    sql -c "SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines" >/dev/null
    settle

    # events: 50,000 rows a second of event time. sessions: at the same rate, two sessions of each key, an hour
    # apart, ten rows in each, with a row of every other key between two of them.
    sql <<SQL
CREATE TABLE events_plain ($columns);
CREATE TABLE sessions_plain ($columns);
INSERT INTO events_plain
$each, timestamptz '2024-01-01 00:00+00' + interval '20 microseconds' * i FROM generate_series(1, $burst) i;
INSERT INTO sessions_plain
SELECT i * 7919 % $keys, '/page/' || i % 1000, i % 8,
       timestamptz '2024-01-01 00:00+00' + interval '20 microseconds' * i + interval '1 hour' * (i / ($keys * 10))
FROM generate_series(0::bigint, $in_sessions - 1) i;
COPY events_plain TO '$scratch/events.copy';
COPY sessions_plain TO '$scratch/sessions.copy';
COPY clicks_plain FROM '$scratch/part.copy';
VACUUM ANALYZE events_plain, clicks_plain;
SQL

    expect "$(windows "tumble(ts, '1 minute')" clicks_plain url)"
    for ((run = 0; run < RUNS; run++)); do
        group_windows tumble_table_ms "$(windows "tumble(ts, '1 minute')" clicks_plain url)"
        drain_windows tumble_changes_ms part.copy changes "$(windows "tumble(ts, '1 minute')" events url)"
        drain_windows tumble_final_ms part.copy final "$(windows "tumble(ts, '1 minute')" events url)"
    done

    expect "$(windows "hop(ts, '1 s', '10 s')" events_plain url)"
    for ((run = 0; run < RUNS; run++)); do
        group_windows hop_table_ms "$(windows "hop(ts, '1 s', '10 s')" events_plain url)"
        drain_windows hop_ms events.copy final "$(windows "hop(ts, '1 s', '10 s')" events url)"
    done

    # session() over a table is no more than [ts, ts + gap); these are the gaps and islands.
    expect "SELECT user_id, min(ts) AS window_start, max(ts) + interval '10 s' AS window_end, count(*)
            FROM (SELECT user_id, ts, count(*) FILTER (WHERE first) OVER (PARTITION BY user_id ORDER BY ts) AS session
                  FROM (SELECT user_id, ts, ts - lag(ts) OVER (PARTITION BY user_id ORDER BY ts) >= interval '10 s' AS first
                        FROM sessions_plain) gaps) islands
            GROUP BY user_id, session"
    for ((run = 0; run < RUNS; run++)); do
        drain_windows session_ms sessions.copy final "$(sessions events)"
        take session_m_s "$(busy $in_sessions)"
    done

    expect "$(distinct events_plain)"
    for ((run = 0; run < RUNS; run++)); do
        group_windows distinct_table_ms "$(distinct events_plain)"
        drain_windows distinct_ms events.copy changes "$(distinct events)"
    done
    sql -c "SET client_min_messages = warning" -c "SELECT stream_ckpt.drop_stream('events', true)" -c "DROP TABLE expected, events_plain, sessions_plain" >/dev/null

    # The open groups are in ten windows of a later day, which the delay keeps the watermark from.
    for name in few many; do
        sql -c "SELECT stream_ckpt.create_stream('${name}_events', 'id int, ts timestamptz', event_time => 'ts', watermark_delay => '365 days')" \
            -c "SELECT stream_ckpt.create_pipeline('$name', 'SELECT window_start, id, count(*)
                    FROM ${name}_events, stream_ckpt.tumble(ts, ''1 minute'') GROUP BY window_start, id',
                    emit => 'final', checkpoint_interval => '1 day')" \
            -c "INSERT INTO ${name}_events SELECT i, timestamptz '2024-01-02 00:00+00' + interval '1 minute' * (i % 10)
                FROM generate_series(1, ${open[$name]}) i" \
            -c "SELECT stream_ckpt.checkpoint('$name', '10 min')" >/dev/null
    done
    for ((closed = 0; closed < RUNS * 3; closed++)); do
        for name in few many; do close_window "$name" "$closed" "${open[$name]}"; done
    done
    sql -c "SET client_min_messages = warning" -c "SELECT stream_ckpt.drop_stream(name || '_events', true) FROM unnest('{few,many}'::text[]) name" >/dev/null

    compared "Drain of $(count_of "$PART") rows, tumble('1 minute') and url, 'changes'; GROUP BY" speed "" tumble_changes_ms tumble_table_ms
    compared "Drain of $(count_of "$PART") rows, tumble('1 minute') and url, 'final'; GROUP BY" speed "" tumble_final_ms tumble_table_ms
    compared "Drain of $(count_of "$burst") rows, each in 10 windows: hop('1 s', '10 s') and url, 'final'; GROUP BY" speed "≥ 2.0" hop_ms hop_table_ms
    compared "Drain of $(count_of "$burst") rows, 12 aggregates with DISTINCT and FILTER (Nexmark 15); GROUP BY" speed "≥ 1.0" distinct_ms distinct_table_ms
    single "Sessions of $(count_of "$keys") keys, ten rows each: million rows a second of busy worker" "$(median session_m_s)" "M/s" "≥ 0.5" \
        "$(count_of "$in_sessions") rows drained in $(median session_ms) ms"
    row "Closing a window of 1,000 groups beside $(count_of "$GROUPS_MANY") open ones / beside 1/100 of them (time of the checkpoint)" \
        "$(ratio close_many_ms close_few_ms)" "about 1" "$(median close_many_ms) / $(median close_few_ms) ms"
}

# ---------------------------------------------------------------------------
# Aggregates over rows that change
# ---------------------------------------------------------------------------
# One group over the sums of all keys, of which one changes: the checkpoint has nothing else to do.
bench_retractions()
{
    local name aggregate round
    local -A keys=([few]=$((GROUPS_MANY / 100)) [many]=$GROUPS_MANY)
    local -A lists=([sum]='sum(n), avg(n), count(n)' [extremes]='min(n), max(n)')
    settle
    for name in few many; do
        for aggregate in sum extremes; do
            sql -c "SELECT stream_ckpt.create_stream('changing', 'k int, v int')" \
                -c "SELECT stream_ckpt.create_pipeline('overall', 'SELECT ${lists[$aggregate]} FROM (SELECT k, sum(v) AS n FROM changing GROUP BY k) x',
                        checkpoint_interval => '1 day')" \
                -c "INSERT INTO changing SELECT i, i % 1000 FROM generate_series(1, ${keys[$name]}) i" \
                -c "SELECT stream_ckpt.checkpoint('overall', '10 min')" >/dev/null
            for ((round = 0; round < RUNS * 3; round++)); do
                # the greatest sum becomes the least, and the least the greatest
                sql -c "INSERT INTO changing VALUES (1, CASE WHEN $round = 0 THEN 4000 WHEN $round % 2 = 0 THEN 8000 ELSE -8000 END)"
                caught_up overall
                sql -c "SELECT stream_ckpt.checkpoint('overall', '10 min')" >/dev/null
                take "retract_${aggregate}_${name}_ms" "$(last overall "round(extract(epoch FROM duration) * 1000, 2)")"
            done
            sql -c "SET client_min_messages = warning" -c "SELECT stream_ckpt.drop_stream('changing', true)" >/dev/null
        done
    done
    for aggregate in sum extremes; do
        row "${lists[$aggregate]} over $(count_of "$GROUPS_MANY") sums, one of which changes / over 1/100 of them (time of the checkpoint)" \
            "$(ratio "retract_${aggregate}_many_ms" "retract_${aggregate}_few_ms")" "about 1" \
            "$(median "retract_${aggregate}_many_ms") / $(median "retract_${aggregate}_few_ms") ms"
    done
}
