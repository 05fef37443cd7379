/*-------------------------------------------------------------------------
 *
 * probe.c
 *		Measures from outside of the server, as a client sees it.
 *
 *	probe pace RATE SECONDS BATCH INSERT
 *		Commit BATCH rows at a time, RATE rows a second.  INSERT has the batch's number as $1.
 *		Prints the rows committed, the seconds that took, and how many seconds the last batch was late.
 *
 *	probe latency RATE SECONDS BATCH INSERT SELECT
 *		The same, and a second process meanwhile asks, each millisecond, for the latest batch that SELECT shows.  Latency is from sending
 *		the INSERT, which commits, until an answer is there that shows it.  The first second counts as warming up.
 *		Prints percentiles 50, 99 and the maximum, in ms, the number of batches, and how many seconds the last one was late.
 *
 *	probe steps COUNT SELECT
 *		Ask, each half millisecond, for a number that rises, and print each new one with the time in ms, until it is COUNT.  If SELECT
 *		has a second column, it is printed as well.
 *
 * Connects as libpq's environment says.  Sleeping until the next time, not
 * spinning: the server has the processors.
 *
 *-------------------------------------------------------------------------
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

#define WATCH_MS		1.0		/* between two looks at the result */
#define STEP_MS			0.5		/* between two looks at a counter */
#define WARM_UP_MS		1000.0
#define PATIENCE_MS		60000.0 /* for the last batch to be seen, or the next step */

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "probe: %s: %s\n", what, why);
	exit(1);
}

static double
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void
sleep_until(double ms)
{
	struct timespec until = {.tv_sec = (time_t) (ms / 1e3)};

	until.tv_nsec = (long) ((ms - until.tv_sec * 1e3) * 1e6);
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
		;
}

/* Connect, and prepare the one statement that this process runs. */
static PGconn *
prepare(const char *statement)
{
	PGconn	   *connection = PQconnectdb("");
	PGresult   *result;

	if (PQstatus(connection) != CONNECTION_OK)
		die("cannot connect", PQerrorMessage(connection));
	result = PQprepare(connection, "s", statement, 0, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(statement, PQerrorMessage(connection));
	PQclear(result);
	return connection;
}

static PGresult *
run(PGconn *connection, int nparams, const char *param)
{
	PGresult   *result = PQexecPrepared(connection, "s", nparams, &param, NULL, NULL, 0);

	if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
		die("the statement failed", PQerrorMessage(connection));
	return result;
}

/* Commit `batches` batches, one each `every` ms; note in sent[] when each was sent.  Returns how late the last one was, in seconds. */
static double
produce(const char *insert, long batches, double every, double *sent)
{
	PGconn	   *connection = prepare(insert);
	double		began = now_ms();
	double		late = 0;

	for (long i = 0; i < batches; i++)
	{
		double		due = began + i * every;
		char		number[32];

		if (now_ms() < due)
			sleep_until(due);
		snprintf(number, sizeof(number), "%ld", i + 1);
		late = now_ms() - due;
		if (sent)
			sent[i] = now_ms();
		PQclear(run(connection, 1, number));
	}
	PQfinish(connection);
	return late / 1e3;
}

static int
by_value(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* The value below which a fraction of them are, by the nearest rank. */
static double
percentile(const double *sorted, long n, double fraction)
{
	long		rank = (long) (fraction * n + 0.999999);

	return sorted[rank < 1 ? 0 : rank > n ? n - 1 : rank - 1];
}

/* Ask until the last batch is seen; note in seen[] when each was. */
static void
watch(const char *select, long batches, double *seen)
{
	PGconn	   *connection = prepare(select);
	double		last = now_ms();
	long		shown = 0;

	while (shown < batches)
	{
		double		asked = now_ms();
		PGresult   *result = run(connection, 0, NULL);
		long		latest = PQntuples(result) > 0 ? atol(PQgetvalue(result, 0, 0)) : 0;
		double		now = now_ms();

		PQclear(result);
		if (latest > shown)
			last = now;
		else if (now - last > PATIENCE_MS)
			die("nothing comes any more", select);
		for (; shown < latest && shown < batches; shown++)
			seen[shown] = now;
		sleep_until(asked + WATCH_MS);
	}
	PQfinish(connection);
}

static void
latency(long batches, double every, const char *insert, const char *select)
{
	/* Shared with the child: when each batch was sent, how late the last one was. */
	double	   *sent = mmap(NULL, (batches + 1) * sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double	   *seen = calloc(batches, sizeof(double));
	long		skip = (long) (WARM_UP_MS / every);
	long		n = 0;
	int			status;
	pid_t		child;

	if (sent == MAP_FAILED || seen == NULL)
		die("memory", "there is not enough");
	child = fork();
	if (child < 0)
		die("fork", "failed");
	if (child == 0)
	{
		sent[batches] = produce(insert, batches, every, sent);
		exit(0);
	}
	watch(select, batches, seen);
	if (waitpid(child, &status, 0) != child || status != 0)
		die("the producer", "failed");
	for (long i = skip < batches ? skip : 0; i < batches; i++)
		seen[n++] = seen[i] - sent[i];
	qsort(seen, n, sizeof(double), by_value);
	printf("%.1f %.1f %.1f %ld %.3f\n", percentile(seen, n, 0.5), percentile(seen, n, 0.99), seen[n - 1], n, sent[batches]);
}

static void
steps(double count, const char *select)
{
	PGconn	   *connection = prepare(select);
	double		last = now_ms();
	double		before = -1;

	while (before < count)
	{
		double		asked = now_ms();
		PGresult   *result = run(connection, 0, NULL);
		double		value = PQntuples(result) > 0 ? atof(PQgetvalue(result, 0, 0)) : 0;
		double		now = now_ms();

		if (value > before)
		{
			printf("%.2f %.0f %s\n", now, value, PQnfields(result) > 1 ? PQgetvalue(result, 0, 1) : "");
			last = now;
			before = value;
		}
		else if (now - last > PATIENCE_MS)
			die("nothing comes any more", select);
		PQclear(result);
		sleep_until(asked + STEP_MS);
	}
	PQfinish(connection);
}

int
main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "steps") == 0)
		steps(atof(argv[2]), argv[3]);
	else if ((argc == 6 && strcmp(argv[1], "pace") == 0) || (argc == 7 && strcmp(argv[1], "latency") == 0))
	{
		double		rate = atof(argv[2]);
		double		seconds = atof(argv[3]);
		long		batch = atol(argv[4]);
		long		batches = batch > 0 ? (long) (rate * seconds / batch) : 0;

		if (rate <= 0 || batches < 1)
			die(argv[0], "rate, seconds and batch must be positive");
		if (argc == 7)
			latency(batches, batch * 1e3 / rate, argv[5], argv[6]);
		else
		{
			double		began = now_ms();
			double		late = produce(argv[5], batches, batch * 1e3 / rate, NULL);

			printf("%ld %.3f %.3f\n", batches * batch, (now_ms() - began) / 1e3, late);
		}
	}
	else
		die("usage", "probe pace|latency|steps ..., see probe.c");
	return 0;
}
