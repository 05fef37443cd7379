# shellcheck shell=bash
#
# groups.sh
#     What many groups cost: one for each row, until it is in the state and
#     until it is in the result; rows by the number of groups that there are.
#
# Sourced by run.

# The last row is in the state when the task has counted it. No checkpoint is
# taken: that is bench_complete's.
bench_groups()
{
    local run
    settle
    sql <<<"$(copies visits_plain visits)"
    warm visits_plain
    for ((run = 0; run < RUNS; run++)); do
        take group_users_ms "$(timed "$one_process ${by_user//%s/visits_plain} $nothing_kept")"
        per_user "checkpoint_interval => '1 day'"
        hold by_user
        sql <<<"$(copies visits visits)"
        sql -c CHECKPOINT
        take drain_users_ms "$(timed "$(go_on)
            CALL taken_in('by_user', $PART);")"
        [ "$(sql -c "SELECT state_rows FROM stream_ckpt.tasks WHERE pipeline = 'by_user'")" = "$PART" ] || die "not all groups are in the state"
    done
    no_pipelines
    compared "Drain of $(count_of "$PART") rows, a group for each, into the state; GROUP BY" speed "≥ 1.5" drain_users_ms group_users_ms
}

# Plain PostgreSQL is given the result rows, and puts them in order for the index.
bench_complete()
{
    local run
    sql -c "CREATE TABLE sorted_result (user_id int, count bigint, sum float8)" \
        -c "CREATE UNIQUE INDEX ON sorted_result (user_id) NULLS NOT DISTINCT" \
        -c "CREATE TABLE result_rows AS SELECT user_id, 1::bigint AS count, amount AS sum FROM visits_plain LIMIT 0"
    settle
    sql -c "$(copy visits_plain visits)" -c "INSERT INTO result_rows ${by_user//%s/visits_plain}"
    warm result_rows
    for ((run = 0; run < RUNS; run++)); do
        sql -c "TRUNCATE sorted_result"; settle
        take halves_ms "$(timed "SET work_mem = '256MB'; $(copy visits_plain visits)
                                 INSERT INTO sorted_result SELECT * FROM result_rows ORDER BY user_id;")"
        per_user; settle
        take complete_users_ms "$(timed "$(copy visits visits) $(complete by_user)")"
        verify by_user "$PART"
    done
    no_pipelines
    sql -c "DROP TABLE sorted_result, result_rows"
    compared "COPY until $(count_of "$PART") groups are in the result; COPY and a sorted INSERT of these" time "≤ 1.0" complete_users_ms halves_ms
}

# Visits of random users, all of whom are in the state; the worker is stopped
# while they are written. GROUP BY has each user's first row to read as well.
bench_growth()
{
    local run users in=0 shm sizes=() list= title
    shm=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1 || say 0)
    for ((users = 1000; users <= GROUPS_MOST; users *= 10)); do
        if [ "$((users / 8))" -gt "${shm:-0}" ]; then
            note "   (/dev/shm has no room for $users groups)"
            break
        fi
        sizes+=("$users")
    done
    for users in "${sizes[@]}"; do
        settle
        sql -c "INSERT INTO visits_plain SELECT i, 1 FROM generate_series(1, $users) i" -c "CALL visit('visits_plain', $PART, $users)"
        warm visits_plain
        per_user "checkpoint_interval => '1 day'"
        sql -c "INSERT INTO visits SELECT i, 1 FROM generate_series(1, $users) i" -c "CALL taken_in('by_user', $users)"
        in=$users
        for ((run = 0; run < RUNS; run++)); do
            take "group_${users}_ns" "$(calc "$(timed "$one_process ${by_user//%s/visits_plain} $nothing_kept") * 1e6 / ($users + $PART)" 1)"
            hold by_user
            sql -c "CALL visit('visits', $PART, $users)" -c CHECKPOINT
            in=$((in + PART))
            take "row_${users}_ns" "$(calc "$(timed "$(go_on)
                CALL taken_in('by_user', $in);") * 1e6 / $PART" 1)"
        done
        [ "$(sql -c "SELECT state_rows FROM stream_ckpt.tasks WHERE pipeline = 'by_user'")" = "$users" ] || die "not all groups are in the state"
        list+="${list:+, }$(count_of "$users"): $(median "row_${users}_ns") ($(median "group_${users}_ns"))"
        title="A row with $(count_of "$users") groups in the state; GROUP BY"
        record "$title" stream_ckpt "$(median "row_${users}_ns")" ns
        record "$title" PostgreSQL "$(median "group_${users}_ns")" ns
        record "$title" stream_ckpt "$(ratio "group_${users}_ns" "row_${users}_ns")" x
    done
    no_pipelines
    settle
    users=${sizes[-1]}
    single "Cost of a row with $(count_of "$users") groups / with 1 k" "$(ratio "row_${users}_ns" row_1000_ns)" "times" "≤ 4" \
        "ns a row (GROUP BY): $list"
}
