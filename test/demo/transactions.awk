# transactions.awk
#     One producer of the demo: turns its share of the flights into SQL.
#
#     awk -v p=PRODUCER -v n=PRODUCERS -v from=ROWS-SENT -v pace=SECONDS -f transactions.awk flights.csv | psql
#
# Producer p takes every n-th line. It writes transactions of 1 to 500 rows,
# and in each of them, how far it is: after a crash it goes on from there, so
# that every flight is committed once. About half of the transactions do more
# than that: rows in them are rolled back, by ROLLBACK, to a savepoint or by
# an exception; or they are INSERTs, or prepared for a two-phase commit.
#
# The pace stretches a year of flights over half a minute of a demo.

BEGIN {
    FS = ","
    srand(p * 1000 + from)
    want = size()
}

NR % n != p || mine++ < from { next }

{
    row[++rows] = $0
    if (rows == want) {
        transaction()
        fflush()
        if (pace > 0)
            system("sleep " pace)
        rows = 0
        want = size()
    }
}

END {
    if (rows)
        transaction()
}

function size()
{
    return 1 + int(rand() * 500)
}

function transaction(    kind, half)
{
    kind = int(rand() * 10)
    half = int(rows / 2)

    if (kind == 0) {
        print "BEGIN;"
        copy(1, rows)
        print "ROLLBACK;"
    }
    print "BEGIN;"
    if (kind == 1) {
        copy(1, half)
        print "SAVEPOINT s;"
        copy(1, rows)
        print "ROLLBACK TO SAVEPOINT s;"
        copy(half + 1, rows)
    } else if (kind == 2) {
        print "DO $do$ BEGIN"
        insert(1, rows)
        print "RAISE EXCEPTION 'undone'; EXCEPTION WHEN raise_exception THEN NULL; END $do$;"
        copy(1, rows)
    } else if (kind == 3)
        insert(1, rows)
    else
        copy(1, rows)
    print "UPDATE progress SET rows_sent = rows_sent + " rows " WHERE producer = " p ";"
    if (kind == 4) {
        print "PREPARE TRANSACTION 'producer " p "';"
        print "COMMIT PREPARED 'producer " p "';"
    } else
        print "COMMIT;"
}

function copy(first, last,    i)
{
    print "COPY flights FROM STDIN (FORMAT csv);"
    for (i = first; i <= last; i++)
        print row[i]
    print "\\."
}

function insert(first, last,    i, line)
{
    print "INSERT INTO flights VALUES"
    for (i = first; i <= last; i++) {
        line = "('" row[i] "')"
        gsub(/,/, "','", line)
        gsub(/''/, "NULL", line)
        print line (i < last ? "," : ";")
    }
}
