# shellcheck shell=bash
#
# ingest.sh
#     What producers pay, and when the result is there: COPY and INSERT into
#     a stream, a plain table, a table with a statement-level trigger that
#     keeps the same result, and one with a materialized view.
#
# Sourced by run.

bench_copy()
{
    local run
    for ((run = 0; run < RUNS; run++)); do
        settle
        take plain_ms "$(timed "$(copy clicks_plain part)")"
        settle
        take stream_ms "$(timed "$(copy clicks_idle part)")"
        per_minute; settle
        take complete_ms "$(timed "$(copy clicks part) $(complete per_minute)")"
        verify per_minute "$PART"
    done
    compared "COPY of $(count_of "$PART") rows" time "≤ 1.05" stream_ms plain_ms
    compared "COPY of $(count_of "$PART") rows until its result is complete" time "≤ 1.15" complete_ms plain_ms
}

# The same query, kept by a trigger: a table, what it adds to, and the function.
make_trigger()
{
    sql <<SQL
CREATE TABLE clicks_triggered ($columns);
CREATE TABLE trigger_result (minute timestamptz, url text, count bigint, sum float8, UNIQUE NULLS NOT DISTINCT (minute, url));
CREATE FUNCTION keep_result() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
    INSERT INTO trigger_result AS t SELECT $grouped FROM added $group_by
    ON CONFLICT (minute, url) DO UPDATE SET count = t.count + excluded.count, sum = t.sum + excluded.sum;
    RETURN NULL;
END \$\$;
CREATE TRIGGER keep AFTER INSERT ON clicks_triggered REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION keep_result();
SQL
}

settle_trigger() { sql -c "TRUNCATE clicks_triggered, trigger_result" -c CHECKPOINT; }

# A refresh for each transaction would take as long as the whole query each
# time. So it is refreshed once a second, and once more at the end.
bench_transactions()
{
    local run refresher
    local refresh="REFRESH MATERIALIZED VIEW CONCURRENTLY refreshed;"
    sql -c "TRUNCATE clicks_plain" -c "CREATE MATERIALIZED VIEW refreshed AS SELECT $grouped FROM clicks_plain $group_by" \
        -c "CREATE UNIQUE INDEX ON refreshed (minute, url)"
    for ((run = 0; run < RUNS; run++)); do
        settle
        take plain_many_ms "$(timed "$(copies clicks_plain part)")"
        per_minute; settle
        take complete_many_ms "$(timed "$(copies clicks part) $(complete per_minute)")"
        verify per_minute "$PART"
        no_pipelines; settle_trigger
        take trigger_many_ms "$(timed "$(copies clicks_triggered part)")"
        verify trigger_result "$PART"
        settle_trigger; settle
        sql -c "$refresh"
        printf '%s\n' "${refresh%;}" '\watch 1' | sql -v ON_ERROR_STOP=0 >/dev/null 2>&1 &
        refresher=$!
        jobs_pids=("$refresher")
        take refresh_many_ms "$(timed "$(copies clicks_plain part) $refresh")"
        kill "$refresher" 2>/dev/null || true
        wait "$refresher" 2>/dev/null || true
        jobs_pids=()
        verify refreshed "$PART"
    done
    sql -c "DROP MATERIALIZED VIEW refreshed"
    compared "$((PART / transaction)) transactions of $(count_of $transaction) rows until the result is complete" time "≤ 1.1" complete_many_ms plain_many_ms \
        "statement trigger" trigger_many_ms "REFRESH once a second" refresh_many_ms
}

# tps TABLE: single-row INSERTs by four clients.
tps()
{
    printf '%s\n' '\set id random(1, 100000)' '\set page random(1, 1000)' \
        "INSERT INTO $1 VALUES (:id, '/page/' || :page, 1.5, now());" >"insert_$1.sql"
    "$pgbin/pgbench" -n -M prepared -c 4 -j 2 -T "$SECONDS_EACH" -f "insert_$1.sql" 2>/dev/null |
        sed -n 's/^tps = \([0-9]*\).*/\1/p'
}

bench_insert()
{
    local run
    for ((run = 0; run < RUNS; run++)); do
        settle
        take plain_tps "$(tps clicks_plain)"
        no_pipelines; settle
        take stream_tps "$(tps clicks_idle)"
        per_minute; settle
        take pipeline_tps "$(tps clicks)"
        no_pipelines; settle_trigger
        take trigger_tps "$(tps clicks_triggered)"
    done
    settle_trigger
    compared "Single-row INSERTs, 4 clients, no pipeline" rate "≥ 0.95" stream_tps plain_tps
    compared "Single-row INSERTs, 4 clients, with the pipeline running" rate "≥ 0.9" pipeline_tps plain_tps "statement trigger" trigger_tps
}
