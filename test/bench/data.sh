# shellcheck shell=bash
#
# data.sh
#     The rows that the parts measure with, streams and tables for them, and
#     making a pipeline, or the server, ready for a measurement.
#
# Sourced by run. Below the scratch directory, as COPY reads them:
#   rows.NNNN    ROWS clicks, over 50 minutes and 1,000 pages, 10,000 in each file
#   part.copy    PART clicks of the same kind in one file; part.NNNN, 10,000 in each
#   visits.copy  PART visits, no two of the same user, in no order; visits.NNNN
# A list of files (rows, part, visits) is in a file of that name.

columns='user_id int, url text, amount float8, ts timestamptz'
grouped="date_bin('1 minute', ts, '2000-01-01') AS minute, url, count(*), sum(amount)"
group_by="GROUP BY date_bin('1 minute', ts, '2000-01-01'), url"
by_user="SELECT user_id, count(*), sum(amount) FROM %s GROUP BY user_id"

# What plain PostgreSQL computes, it computes in one process.
one_process="SET max_parallel_workers_per_gather = 0; SET work_mem = '256MB'; SET jit = off;"

# ... and sends and stores none of it, which is the cheapest that it can do.
nothing_kept="OFFSET 1000000000000;"

transaction=10000          # rows

# Millions, thousands: as few digits as it takes.
count_of() { awk -v n="$1" 'BEGIN { if (n >= 1e6) printf "%g M", n / 1e6; else if (n >= 1e3) printf "%g k", n / 1e3; else printf "%d", n }'; }

make_data()
{
    local clicks="SELECT (random() * 100000)::int, '/page/' || (random() * 999)::int, random() * 100,
                         timestamptz '2024-01-01 00:00+00' + interval '50 minutes' * ((i - 1.0) / %s) FROM generate_series(1, %s) i"
    note "== Making $ROWS rows"
    sql >/dev/null <<SQL
CREATE EXTENSION stream_ckpt;
CREATE TABLE clicks_plain ($columns);
CREATE TABLE visits_plain (user_id int, amount float8);
SELECT stream_ckpt.create_stream('clicks', '$columns');
SELECT stream_ckpt.create_stream('clicks_idle', '$columns');
SELECT stream_ckpt.create_stream('visits', 'user_id int, amount float8');
SELECT setseed(0.5);
COPY (${clicks//%s/$ROWS}) TO PROGRAM 'split -l $transaction -a 4 -d - "$scratch/rows."';
COPY (${clicks//%s/$PART}) TO PROGRAM 'tee "$scratch/part.copy" | split -l $transaction -a 4 -d - "$scratch/part."';
COPY (SELECT i, floor(random() * 800) / 8 FROM generate_series(1, $PART) i ORDER BY random())
    TO PROGRAM 'tee "$scratch/visits.copy" | split -l $transaction -a 4 -d - "$scratch/visits."';

-- Returns when so many rows are in the pipeline's state, whether a checkpoint has been taken or not.
CREATE PROCEDURE taken_in(name text, n bigint) LANGUAGE plpgsql AS \$\$
BEGIN
    WHILE (SELECT status <> 'failed' AND rows_in < n FROM stream_ckpt.tasks WHERE pipeline = name) LOOP
        PERFORM pg_sleep(0.001);    -- the condition is a query: there is nothing to be woken by
        COMMIT;
    END LOOP;
END \$\$;

-- Visits of random users in transactions of 10,000: of one in every "step" among "users".
CREATE PROCEDURE visit(stream regclass, n bigint, users bigint, step bigint DEFAULT 1) LANGUAGE plpgsql AS \$\$
BEGIN
    WHILE n > 0 LOOP
        EXECUTE format('INSERT INTO %s SELECT (1 + floor(random() * \$1)) * \$2, 1 FROM generate_series(1, \$3)', stream)
            USING users / step, step, least(n, $transaction);
        COMMIT;
        n := n - $transaction;
    END LOOP;
END \$\$;
SQL
    ls -d "$scratch"/rows.???? >"$scratch/rows"
    ls -d "$scratch"/part.[0-9]??? >"$scratch/part"
    ls -d "$scratch"/visits.[0-9]??? >"$scratch/visits"
}

# copies TABLE LIST: one COPY of 10,000 rows in each transaction.
copies() { sed "s/.*/COPY $1 FROM '&';/" "$scratch/$2"; }

# copy TABLE FILE: all of them in one.
copy() { say "COPY $1 FROM '$scratch/$2.copy';"; }

# A new pipeline with its result as named, up and running: NAME QUERY [OPTIONS]
new_pipeline()
{
    sql -c "SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines" \
        -c "SELECT stream_ckpt.create_pipeline('$1', \$\$$2\$\$${3:+, $3})" \
        -c "SELECT stream_ckpt.checkpoint('$1')" >/dev/null
}

per_minute() { new_pipeline per_minute "SELECT $grouped FROM ${1:-clicks} $group_by" "${2:-}"; }
per_user() { new_pipeline by_user "${by_user//%s/visits}" "${1:-}"; }

no_pipelines() { sql -c "SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines" >/dev/null; }

complete() { say "SELECT stream_ckpt.checkpoint('$1', '10 min');"; }

# backlog PIPELINE SQL: what it inserts is in the log, and waits for resume_pipeline().
backlog()
{
    sql -c "SELECT stream_ckpt.pause_pipeline('$1')" >/dev/null
    sql <<<"$2" >/dev/null
    sql -c CHECKPOINT
}

resume() { say "SELECT stream_ckpt.resume_pipeline('$1');"; }

# hold PIPELINE: stop its worker, which has nothing to do just now, and so no
# lock; go_on lets it read what has come meanwhile. It keeps its state, and
# unlike after resume_pipeline() its next checkpoint is due when it was.
hold()
{
    local patience=100
    held_worker=$(sql -c "SELECT worker_pid FROM stream_ckpt.tasks WHERE pipeline = '$1'")
    pause 0.2
    until [[ $(cat "/proc/$held_worker/stat") = *") S "* ]]; do
        pause 0.05
        [ $((patience -= 1)) -gt 0 ] || die "the worker does not come to rest"
    done
    kill -STOP "$held_worker"
}

go_on() { printf '%s\n' "\\! kill -CONT $held_worker"; }

# Before each measurement the server has nothing left to do.
settle() { sql -c "TRUNCATE clicks_plain, visits_plain" -c CHECKPOINT; }

# A table as a query likes it best: vacuumed, and in memory.
warm() { sql -c "VACUUM ANALYZE $1" -c CHECKPOINT -c "SELECT count(*) FROM $1" >/dev/null; }

# verify RELATION ROWS: its counts add up.
verify()
{
    local sum
    sum=$(sql -c "SELECT sum(count) FROM $1")
    [ "$sum" = "$2" ] || die "the result of $1 is not complete: it counts $sum of $2 rows"
}

# last PIPELINE COLUMN: of its newest completed checkpoint.
last() { sql -c "SELECT $2 FROM stream_ckpt.checkpoints WHERE pipeline = '$1' AND status = 'completed' ORDER BY checkpoint_id DESC LIMIT 1"; }

# caught_up PIPELINE: let its task read all that is committed, and the server
# write what it has to, so that a checkpoint is only that. What the server's
# own checkpoint logs is not waited for, as it wakes no worker.
caught_up()
{
    local end patience=300
    end=$(sql -c "SELECT pg_current_wal_flush_lsn()" -c CHECKPOINT)
    until [ "$(sql -c "SELECT coalesce(bool_and(position >= '$end'), false) FROM stream_ckpt.tasks WHERE pipeline = '$1'")" = t ]; do
        pause 0.1
        [ $((patience -= 1)) -gt 0 ] || return 0
    done
}

# probe MODE ...: see probe.c.
make_probe()
{
    "${CC:-gcc}" -std=gnu99 -O2 -Wall -I"$("$PG_CONFIG" --includedir)" -o "$scratch/probe" "$here/probe.c" \
        -L"$("$PG_CONFIG" --libdir)" -lpq || die "probe.c does not compile"
}

probe() { "$scratch/probe" "$@"; }
