/*-------------------------------------------------------------------------
 *
 * events.c
 *		Makes the events of an online auction: persons who register, auctions
 *		that they open, and bids, as rows that COPY reads.
 *
 * The rules of the data are those of the public Nexmark benchmark, as the
 * README beside this file tells them.  Every value is a function of the seed
 * and the event's number: any range of events can be made at any time, in any
 * number of processes, and comes out the same.  (Prices go through pow(), so
 * two C libraries may disagree about a cent.)
 *
 * The numbers of persons and auctions that exist at an event follow from its
 * number alone, see last_person() and last_auction(), so that bids refer to
 * auctions without anything being remembered.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Of each 50 events in a row, 1 is a person, 3 are auctions, and the others bids. */
#define CYCLE				50
#define PERSONS_PER_CYCLE	1
#define AUCTIONS_PER_CYCLE	3

/* Identifiers begin here. */
#define FIRST_ID			1000
#define FIRST_CATEGORY		10
#define CATEGORIES			5

/* The recent ones that take part, and how far ahead of the last one they go. */
#define ACTIVE_PERSONS		1000
#define PERSON_LEAD			10
#define RECENT_AUCTIONS		100
#define AUCTION_LEAD		10

/* One in so many persons or auctions is popular. */
#define HOT_EVERY			100

/* An auction is open for as long as so many events take, on average. */
#define LIFETIME_EVENTS		1666

/* Average sizes that the last column pads rows to. */
#define PERSON_BYTES		200
#define AUCTION_BYTES		500
#define BID_BYTES			100

#define CHANNELS			10000
#define HOT_CHANNELS		4

/* 2024-01-01 00:00 UTC, in microseconds since 1970. */
#define DEFAULT_BASE		INT64_C(1704067200000000)

/* No row is longer. */
#define MAX_ROW				2048

typedef enum
{
	RELATION_PERSON,
	RELATION_AUCTION,
	RELATION_BID,
	RELATIONS
} Relation;

static const char *const relation_names[RELATIONS] = {"person", "auction", "bid"};

/* The columns that are given; a bid has one more, which the server fills in. */
static const char *const relation_columns[RELATIONS] = {
	"id, name, email_address, credit_card, city, state, date_time, extra",
	"id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra",
	"auction, bidder, price, channel, url, date_time, extra"
};

/* Rows on their way out. */
typedef struct
{
	char	   *data;
	size_t		used;
	size_t		size;
} Buffer;

typedef struct
{
	char		name[16];
	char		url[112];
} Channel;

static uint64_t seed = 1;
static double rate = 10000;
static int64_t base = DEFAULT_BASE;
static Channel channels[CHANNELS];
static Channel hot_channels[HOT_CHANNELS] = {{"Google", ""}, {"Facebook", ""}, {"Baidu", ""}, {"Apple", ""}};

/* ----------
 * Random numbers: a counter through a mixing function (splitmix64), begun
 * anew for each event.
 * ----------
 */
typedef uint64_t Random;

static uint64_t
mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t
next(Random *random)
{
	*random += UINT64_C(0x9e3779b97f4a7c15);
	return mix(*random);
}

/* The random numbers of one thing, such as an event, of one kind. */
static Random
random_of(uint64_t kind, uint64_t number)
{
	return mix(mix(seed ^ (kind << 56)) + number);
}

/* A whole number from 0 to n - 1. */
static int64_t
below(Random *random, int64_t n)
{
	return (int64_t) (((unsigned __int128) next(random) * (uint64_t) n) >> 64);
}

/* A price in cents, from 1 to 1,000,000 of the whole unit, as likely to have any number of digits. */
static int64_t
price(Random *random)
{
	double		u = (double) (next(random) >> 11) * 0x1.0p-53;

	return llround(pow(10.0, 6.0 * u) * 100.0);
}

/* ----------
 * Building rows
 * ----------
 */

/* Append a constant string. */
static char *
put(char *to, const char *text)
{
	size_t		length = strlen(text);

	memcpy(to, text, length);
	return to + length;
}

static char *
put_number(char *to, int64_t number)
{
	char		digits[20];
	int			n = 0;

	do
	{
		digits[n++] = (char) ('0' + number % 10);
		number /= 10;
	} while (number > 0);
	while (n > 0)
		*to++ = digits[--n];
	return to;
}

/* A number of a fixed width, with leading zeros. */
static char *
put_digits(char *to, int64_t number, int width)
{
	for (int i = width - 1; i >= 0; i--)
	{
		to[i] = (char) ('0' + number % 10);
		number /= 10;
	}
	return to + width;
}

static char *
put_letters(char *to, Random *random, int length)
{
	while (length > 0)
	{
		uint64_t	bits = next(random);

		for (int i = 0; i < 8 && length > 0; i++, length--)
		{
			*to++ = (char) ('a' + (((bits & 0xff) * 26) >> 8));
			bits >>= 8;
		}
	}
	return to;
}

/* Words of letters, of this length in all. */
static char *
put_words(char *to, Random *random, int length)
{
	while (length > 0)
	{
		int			word = 3 + (int) below(random, 7);

		/* nothing ends in a space */
		if (word >= length - 1)
			word = length;
		to = put_letters(to, random, word);
		length -= word;
		if (length > 0)
		{
			*to++ = ' ';
			length--;
		}
	}
	return to;
}

/* Pad a row that has so many bytes to a size of this average, a fifth more or less. */
static char *
put_extra(char *to, Random *random, int bytes, int average)
{
	int			missing = average - bytes;
	int			spread = missing / 5;

	if (missing <= 0)
		return to;
	return put_letters(to, random, missing - spread + (int) below(random, 2 * spread + 1));
}

/* A time in ISO form, as UTC. The seconds are only split up when they differ from those of the last one. */
static char *
put_time(char *to, int64_t at)
{
	static int64_t last = INT64_MIN;
	static char text[20];
	int64_t		second = at / 1000000;

	if (second != last)
	{
		time_t		clock = (time_t) second;
		struct tm	utc;

		gmtime_r(&clock, &utc);
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &utc);
		last = second;
	}
	memcpy(to, text, 19);
	to[19] = '.';
	to = put_digits(to + 20, at % 1000000, 6);
	return put(to, "+00");
}

/* ----------
 * What exists at an event
 * ----------
 */
static int64_t
last_person(int64_t event)
{
	return event / CYCLE;
}

static int64_t
last_auction(int64_t event)
{
	int64_t		cycle = event / CYCLE;
	int64_t		offset = event % CYCLE;

	if (offset < PERSONS_PER_CYCLE)
		return cycle * AUCTIONS_PER_CYCLE - 1;
	if (offset >= PERSONS_PER_CYCLE + AUCTIONS_PER_CYCLE)
		return cycle * AUCTIONS_PER_CYCLE + AUCTIONS_PER_CYCLE - 1;
	return cycle * AUCTIONS_PER_CYCLE + offset - PERSONS_PER_CYCLE;
}

/* One of the persons who registered last, or who are about to. */
static int64_t
active_person(Random *random, int64_t event)
{
	int64_t		persons = last_person(event) + 1;
	int64_t		active = persons < ACTIVE_PERSONS ? persons : ACTIVE_PERSONS;

	return persons - active + below(random, active + PERSON_LEAD);
}

static int64_t
recent_auction(Random *random, int64_t event)
{
	int64_t		last = last_auction(event);
	int64_t		first = last > RECENT_AUCTIONS ? last - RECENT_AUCTIONS : 0;

	return first + below(random, last - first + 1 + AUCTION_LEAD);
}

static int64_t
time_of(int64_t event)
{
	return base + (int64_t) floor((double) event * 1e6 / rate);
}

/* ----------
 * Rows: each function writes one, and returns its end.
 * ----------
 */
#define COUNT(array) ((int64_t) (sizeof(array) / sizeof((array)[0])))

static char *
put_person(char *to, int64_t event)
{
	static const char *const first[] = {"Ada", "Bela", "Carla", "Dario", "Edda", "Finn", "Greta", "Hugo", "Ines", "Jonas", "Kira"};
	static const char *const family[] = {"Adler", "Bosch", "Cohn", "Drost", "Engel", "Frank", "Gross", "Huber", "Iversen"};
	static const char *const cities[] = {"Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"};
	static const char *const states[] = {"AZ", "CA", "ID", "OR", "WA", "WY"};
	Random		random = random_of(RELATION_PERSON, (uint64_t) event);
	char	   *start;
	char	   *at;

	to = put_number(to, FIRST_ID + last_person(event));
	*to++ = '\t';
	start = to;
	to = put(to, first[below(&random, COUNT(first))]);
	*to++ = ' ';
	to = put(to, family[below(&random, COUNT(family))]);
	*to++ = '\t';
	to = put_letters(to, &random, 7);
	*to++ = '@';
	to = put_letters(to, &random, 5);
	to = put(to, ".com\t");
	for (int group = 0; group < 4; group++)
	{
		if (group > 0)
			*to++ = ' ';
		to = put_digits(to, below(&random, 10000), 4);
	}
	*to++ = '\t';
	to = put(to, cities[below(&random, COUNT(cities))]);
	*to++ = '\t';
	to = put(to, states[below(&random, COUNT(states))]);
	*to++ = '\t';
	at = to;
	to = put_time(to, time_of(event));
	*to++ = '\t';
	/* the identifier and the time are eight bytes each; the five tabs are none */
	to = put_extra(to, &random, 16 + (int) (at - start) - 5, PERSON_BYTES);
	*to++ = '\n';
	return to;
}

static char *
put_auction(char *to, int64_t event)
{
	Random		random = random_of(RELATION_AUCTION, (uint64_t) event);
	int64_t		opened = time_of(event);
	int64_t		horizon = (time_of(event + LIFETIME_EVENTS) - opened) / 1000;
	int			name = 3 + (int) below(&random, 18);
	int			description = 3 + (int) below(&random, 98);
	int64_t		initial = price(&random);
	int64_t		milliseconds = 1 + below(&random, horizon > 0 ? 2 * horizon : 1);
	int64_t		seller;

	to = put_number(to, FIRST_ID + last_auction(event));
	*to++ = '\t';
	to = put_words(to, &random, name);
	*to++ = '\t';
	to = put_words(to, &random, description);
	*to++ = '\t';
	to = put_number(to, initial);
	*to++ = '\t';
	to = put_number(to, initial + price(&random));
	*to++ = '\t';
	to = put_time(to, opened);
	*to++ = '\t';
	to = put_time(to, opened + milliseconds * 1000);
	*to++ = '\t';
	if (below(&random, 4) > 0)
		seller = last_person(event) / HOT_EVERY * HOT_EVERY;
	else
		seller = active_person(&random, event);
	to = put_number(to, FIRST_ID + seller);
	*to++ = '\t';
	to = put_number(to, FIRST_CATEGORY + below(&random, CATEGORIES));
	*to++ = '\t';
	/* and seven numbers and times of eight bytes */
	to = put_extra(to, &random, name + description + 7 * 8, AUCTION_BYTES);
	*to++ = '\n';
	return to;
}

static char *
put_bid(char *to, int64_t event)
{
	Random		random = random_of(RELATION_BID, (uint64_t) event);
	int64_t		auction;
	int64_t		bidder;
	const Channel *channel;

	if (below(&random, 2) > 0)
		auction = last_auction(event) / HOT_EVERY * HOT_EVERY;
	else
		auction = recent_auction(&random, event);
	if (below(&random, 4) > 0)
		bidder = last_person(event) / HOT_EVERY * HOT_EVERY + 1;
	else
		bidder = active_person(&random, event);
	to = put_number(to, FIRST_ID + auction);
	*to++ = '\t';
	to = put_number(to, FIRST_ID + bidder);
	*to++ = '\t';
	to = put_number(to, price(&random));
	*to++ = '\t';
	if (below(&random, 2) > 0)
		channel = &hot_channels[below(&random, HOT_CHANNELS)];
	else
		channel = &channels[below(&random, CHANNELS)];
	to = put(to, channel->name);
	*to++ = '\t';
	to = put(to, channel->url);
	*to++ = '\t';
	to = put_time(to, time_of(event));
	*to++ = '\t';
	/* three numbers and a time; channel and url come on top */
	to = put_extra(to, &random, 4 * 8, BID_BYTES);
	*to++ = '\n';
	return to;
}

/* An address of three directories, which is the channel's for good. */
static void
make_url(Channel *channel, Random *random)
{
	char	   *to = put(channel->url, "https://www.nexmark.com");

	for (int directory = 0; directory < 3; directory++)
	{
		*to++ = '/';
		to = put_letters(to, random, 3 + (int) below(random, 3));
	}
	to = put(to, "/item.htm?query=1");
	*to = '\0';
}

static void
make_channels(void)
{
	for (int i = 0; i < CHANNELS; i++)
	{
		Random		random = random_of(RELATIONS, (uint64_t) i);

		snprintf(channels[i].name, sizeof(channels[i].name), "channel-%d", i);
		make_url(&channels[i], &random);
		if (below(&random, 10) > 0)
			snprintf(channels[i].url + strlen(channels[i].url), 32, "&channel_id=%d", i);
	}
	for (int i = 0; i < HOT_CHANNELS; i++)
	{
		Random		random = random_of(RELATIONS, (uint64_t) (CHANNELS + i));

		make_url(&hot_channels[i], &random);
	}
}

/* ----------
 * Writing
 * ----------
 */
static void
fail(const char *what)
{
	fprintf(stderr, "events: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void
flush(Buffer *buffer, FILE *file)
{
	if (fwrite(buffer->data, 1, buffer->used, file) != buffer->used)
		fail("could not write");
	buffer->used = 0;
}

static Relation
relation_of(int64_t event)
{
	int64_t		offset = event % CYCLE;

	if (offset < PERSONS_PER_CYCLE)
		return RELATION_PERSON;
	return offset < PERSONS_PER_CYCLE + AUCTIONS_PER_CYCLE ? RELATION_AUCTION : RELATION_BID;
}

/* Append the event's row to its relation's buffer. */
static void
make_event(Buffer *buffers, int64_t event)
{
	Relation	relation = relation_of(event);
	Buffer	   *buffer = &buffers[relation];
	char	   *to;

	if (buffer->size - buffer->used < MAX_ROW)
	{
		buffer->size = buffer->size ? buffer->size * 2 : 1 << 16;
		buffer->data = realloc(buffer->data, buffer->size);
		if (!buffer->data)
			fail("no memory");
	}
	to = buffer->data + buffer->used;
	switch (relation)
	{
		case RELATION_PERSON:
			to = put_person(to, event);
			break;
		case RELATION_AUCTION:
			to = put_auction(to, event);
			break;
		default:
			to = put_bid(to, event);
			break;
	}
	buffer->used = (size_t) (to - buffer->data);
}

/* Each relation into its file, or only the one that has a file. */
static void
write_rows(Buffer *buffers, FILE **files, int64_t from, int64_t count)
{
	for (int64_t event = from; event < from + count; event++)
	{
		Relation	relation = relation_of(event);

		if (!files[relation])
			continue;
		make_event(buffers, event);
		if (buffers[relation].used > (1 << 16) - MAX_ROW)
			flush(&buffers[relation], files[relation]);
	}
	for (int relation = 0; relation < RELATIONS; relation++)
	{
		if (!files[relation])
			continue;
		flush(&buffers[relation], files[relation]);
		if (fflush(files[relation]) != 0)
			fail("could not write");
	}
}

/* Microseconds since 1970. */
static int64_t
clock_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/*
 * A script for psql that copies the events, so many in a transaction.  Live,
 * a transaction is written when its last event happens, counted from now.
 */
static void
write_script(Buffer *buffers, int64_t from, int64_t count, int64_t in_transaction, bool live)
{
	int64_t		start = clock_now() - time_of(from);

	for (int64_t event = from; event < from + count;)
	{
		int64_t		end = event + in_transaction < from + count ? event + in_transaction : from + count;

		for (; event < end; event++)
			make_event(buffers, event);
		if (live)
		{
			int64_t		wait = start + time_of(end - 1) - clock_now();

			if (wait > 0)
			{
				struct timespec pause = {wait / 1000000, wait % 1000000 * 1000};

				nanosleep(&pause, NULL);
			}
		}
		fputs("BEGIN;\n", stdout);
		for (int relation = 0; relation < RELATIONS; relation++)
		{
			if (buffers[relation].used == 0)
				continue;
			printf("COPY %s (%s) FROM stdin;\n", relation_names[relation], relation_columns[relation]);
			flush(&buffers[relation], stdout);
			fputs("\\.\n", stdout);
		}
		fputs("COMMIT;\n", stdout);
		if (fflush(stdout) != 0)
			fail("could not write");
	}
}

static void
usage(FILE *to)
{
	fputs("usage: events [OPTION ...] person | auction | bid | script | DIRECTORY\n"
		  "\n"
		  "  person, auction, bid   rows of that relation, for COPY\n"
		  "  script                 COPY commands and rows of all, for psql\n"
		  "  DIRECTORY              three files there: person.copy, auction.copy, bid.copy\n"
		  "\n"
		  "  -s SEED     default 1\n"
		  "  -f EVENT    the first event to make, default 0\n"
		  "  -n EVENTS   how many, default 1000\n"
		  "  -r RATE     events per second of event time, default 10000\n"
		  "  -b TIME     event time of event 0 in microseconds since 1970, or \"now\"; default 2024-01-01 00:00 UTC\n"
		  "  -t EVENTS   in a transaction of the script, default 1000\n"
		  "  -l          live: let the script take as long as the events\n", to);
}

int
main(int argc, char **argv)
{
	static Buffer buffers[RELATIONS];
	FILE	   *files[RELATIONS] = {NULL};
	int64_t		from = 0;
	int64_t		count = 1000;
	int64_t		in_transaction = 1000;
	bool		live = false;
	int			option;
	const char *target;

	while ((option = getopt(argc, argv, "s:f:n:r:b:t:lh")) != -1)
	{
		switch (option)
		{
			case 's':
				seed = strtoull(optarg, NULL, 10);
				break;
			case 'f':
				from = strtoll(optarg, NULL, 10);
				break;
			case 'n':
				count = strtoll(optarg, NULL, 10);
				break;
			case 'r':
				rate = strtod(optarg, NULL);
				break;
			case 'b':
				base = strcmp(optarg, "now") == 0 ? clock_now() : strtoll(optarg, NULL, 10);
				break;
			case 't':
				in_transaction = strtoll(optarg, NULL, 10);
				break;
			case 'l':
				live = true;
				break;
			case 'h':
				usage(stdout);
				return 0;
			default:
				usage(stderr);
				return 1;
		}
	}
	if (optind != argc - 1 || rate <= 0 || from < 0 || count < 0 || in_transaction <= 0)
	{
		usage(stderr);
		return 1;
	}
	target = argv[optind];
	make_channels();
	if (strcmp(target, "script") == 0)
	{
		write_script(buffers, from, count, in_transaction, live);
		return 0;
	}
	for (int relation = 0; relation < RELATIONS; relation++)
		if (strcmp(target, relation_names[relation]) == 0)
		{
			files[relation] = stdout;
			write_rows(buffers, files, from, count);
			return 0;
		}
	for (int relation = 0; relation < RELATIONS; relation++)
	{
		char		path[4096];

		snprintf(path, sizeof(path), "%s/%s.copy", target, relation_names[relation]);
		files[relation] = fopen(path, "w");
		if (!files[relation])
			fail(path);
	}
	write_rows(buffers, files, from, count);
	return 0;
}
