/*-------------------------------------------------------------------------
 *
 * aggregate_form.c
 *		What the aggregate operator's chunks consist of, in words; and how a
 *		changed query reads chunks that were stored before the change.
 *
 * A description is lines, and a line is fields with tabs between them:
 *
 *		key		type, canonical expression		each key column
 *		bound	type, canonical expression		bounds of a session
 *		part	its name						the parts that entries have
 *		handed	type, name, number				columns of the row handed on, of a rank's the column of the group's row that they are
 *		set		kind, types						of elements: the sets that they are in
 *		rank	0, what the only set's rows are, and which of them are results
 *		call	mode, set, mark, signature, canonical expression
 *
 * A chunk that the same query has stored (pipeline_def.version) is told from that by types and signatures only, since canonical expressions
 * name columns, which a view, say, may have renamed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "aggregate_private.h"

#define MAX_FIELDS 6

static const char *const mode_names[] = {
	[SCKPT_CALL_TRANSITION] = "value",
	[SCKPT_CALL_DISTINCT] = "distinct",
	[SCKPT_CALL_INVERSE] = "inverse",
	[SCKPT_CALL_COLLECT] = "collected",
};

static char *
type_name(Oid type)
{
	return format_type_extended(type, -1, FORMAT_TYPE_FORCE_QUALIFY);
}

/* By which mark of its set a DISTINCT call is known; else 0. */
static int
mark_of(SckptAggregate *agg, int call)
{
	SckptAggSet *set;

	if (agg->calls[call].mode != SCKPT_CALL_DISTINCT)
		return 0;
	set = &agg->set_calls[agg->calls[call].set];
	for (int i = 0; i < set->ncalls; i++)
	{
		if (set->calls[i] == call)
			return i;
	}
	elog(ERROR, "aggregate is not in its set");
}

static void
describe_calls(SckptAggregate *agg, StringInfo buf)
{
	if (agg->ranker)
		appendStringInfo(buf, "rank\t0\t%s\n", agg->query->ranking->canonical);
	for (int i = 0; i < agg->ncalls; i++)
	{
		SckptAggCall *call = &agg->calls[i];

		appendStringInfo(buf, "call\t%s\t%d\t%d\t%s\t%s\n", mode_names[call->mode],
						 call->mode == SCKPT_CALL_TRANSITION ? -1 : call->set, mark_of(agg, i),
						 call->signature, call->source->canonical);
	}
}

void
sckpt_aggregate_describe(SckptOperator *operator, bool elements, StringInfo buf)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	TupleDesc	desc = agg->query->result;

	if (elements)
	{
		sckpt_sets_describe(agg->sets, buf);
		describe_calls(agg, buf);
		return;
	}
	for (int i = 0; i < agg->query->nkeys; i++)
		appendStringInfo(buf, "%s\t%s\t%s\n", i < agg->key->ncolumns ? "key" : "bound",
						 type_name(agg->query->keys[i].type), agg->query->keys[i].canonical);
	if (agg->session_offset)
		appendStringInfoString(buf, "part\tsession\n");
	if (agg->head_offset)
		appendStringInfoString(buf, "part\telements\n");
	if (agg->touched_offset)
		appendStringInfoString(buf, "part\ttouched\n");
	if (agg->weight_offset)
		appendStringInfoString(buf, "part\tweight\n");
	if (agg->handed_offset)
	{
		appendStringInfoString(buf, "part\thanded\n");
		for (int i = 0; i < desc->natts; i++)
			appendStringInfo(buf, "handed\t%s\t%s\t%d\n", type_name(TupleDescAttr(desc, i)->atttypid),
							 NameStr(TupleDescAttr(desc, i)->attname), sckpt_rank_knows_handed(agg) ? sckpt_rank_source(agg, i) : -1);
	}
	describe_calls(agg, buf);
}

/* ---- Reading a description ---- */

/* A key column, of those that were not taken yet. */
static int
find_key(SckptAggregate *agg, char **fields, int number, bool same, bool *taken)
{
	for (int i = 0; i < agg->key->ncolumns; i++)
	{
		SckptKey   *key = &agg->query->keys[i];

		if (taken[i] || strcmp(fields[1], type_name(key->type)) != 0)
			continue;
		if (same ? i == number : strcmp(fields[2], key->canonical) == 0)
		{
			taken[i] = true;
			return i;
		}
	}
	return -1;
}

static int
find_column(TupleDesc desc, char **fields)
{
	for (int i = 0; i < desc->natts; i++)
	{
		if (strcmp(fields[2], NameStr(TupleDescAttr(desc, i)->attname)) == 0 &&
			strcmp(fields[1], type_name(TupleDescAttr(desc, i)->atttypid)) == 0)
			return i;
	}
	return -1;
}

/* Is it what an older version of PostgreSQL has stored of the call (former.h)? */
static bool
is_former(SckptAggCall *call, char **fields)
{
	return call->former_signature && strcmp(fields[4], call->former_signature) == 0;
}

/* Which call it is now; -1: none; -2: that, but what is stored of it cannot be used. */
static int
find_call(SckptAggregate *agg, char **fields, int number, bool same)
{
	for (int i = 0; i < agg->ncalls; i++)
	{
		SckptAggCall *call = &agg->calls[i];

		if (strcmp(fields[4], call->signature) != 0 && !is_former(call, fields))
			continue;
		if (same ? i != number : strcmp(fields[5], call->source->canonical) != 0)
			continue;
		return strcmp(fields[1], mode_names[call->mode]) == 0 ? i : -2;
	}
	return same ? -2 : -1;
}

static bool
read_call(SckptAggregate *agg, SckptAggForm *form, char **fields)
{
	int			number = form->ncalls++;
	int			call = find_call(agg, fields, number, form->same);
	int			set = atoi(fields[2]);

	if (call == -2)
		return false;
	form->calls[number] = call;
	form->former[number] = call >= 0 && is_former(&agg->calls[call], fields);
	form->collected[number] = strcmp(fields[1], mode_names[SCKPT_CALL_COLLECT]) == 0;
	form->counts[number] = strcmp(fields[1], mode_names[SCKPT_CALL_INVERSE]) == 0;
	if (call >= 0 && set >= 0 && set < form->sets.nsets)
	{
		form->sets.sets[set] = agg->calls[call].set;
		form->sets.marks[set * SCKPT_SET_MARKS + atoi(fields[3]) % SCKPT_SET_MARKS] = (int8) mark_of(agg, call);
	}
	return true;
}

static bool
read_line(SckptAggregate *agg, SckptAggForm *form, char **fields, int *nkeys, int *nbounds, bool *taken)
{
	TupleDesc	desc = agg->query->result;

	if (strcmp(fields[0], "key") == 0)
	{
		if (*nkeys == agg->key->ncolumns)
			return false;
		form->keys[*nkeys] = find_key(agg, fields, *nkeys, form->same, taken);
		return form->keys[(*nkeys)++] >= 0;
	}
	if (strcmp(fields[0], "bound") == 0)
	{
		int			at = agg->key->ncolumns + (*nbounds)++;

		/* Which bounds are selected is no matter: both are stored.  The window is: it is in the words before the column's number. */
		if (at >= agg->query->nkeys)
			at = agg->query->nkeys - 1;
		return agg->query->nsession > 0 &&
			(form->same || strncmp(fields[2], agg->query->keys[at].canonical, strlen(fields[2]) - 1) == 0);
	}
	if (strcmp(fields[0], "part") == 0)
	{
		form->session |= strcmp(fields[1], "session") == 0;
		form->elements |= strcmp(fields[1], "elements") == 0;
		form->touched |= strcmp(fields[1], "touched") == 0;
		form->weight |= strcmp(fields[1], "weight") == 0;
		form->handed_on |= strcmp(fields[1], "handed") == 0;
		return true;
	}
	if (strcmp(fields[0], "handed") == 0)
	{
		int			number = form->nhanded++;

		form->sources[number] = atoi(fields[3]);

		if (!form->same)
			form->handed[number] = find_column(desc, fields);
		else if (number < desc->natts && strcmp(fields[1], type_name(TupleDescAttr(desc, number)->atttypid)) == 0)
			form->handed[number] = number;
		else
			return false;
		return true;
	}
	if (strcmp(fields[0], "set") == 0)
	{
		form->sets.sets[form->sets.nsets] = -1;
		memset(form->sets.marks + form->sets.nsets++ * SCKPT_SET_MARKS, -1, SCKPT_SET_MARKS);
		return true;
	}
	if (strcmp(fields[0], "rank") == 0)
	{
		if (form->sets.nsets == 1)
			form->sets.sets[0] = 0;
		return agg->ranker && (form->same || strcmp(fields[2], agg->query->ranking->canonical) == 0);
	}
	return strcmp(fields[0], "call") == 0 && read_call(agg, form, fields);
}

bool
sckpt_aggregate_adapt(SckptOperator *operator, bool elements, const char *description, bool same)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptAggForm *form;
	MemoryContext old;
	char	   *line;
	char	   *copy;
	bool	   *taken;
	int			nlines = 1;
	int			nkeys = 0;
	int			nbounds = 0;
	bool		fits = true;

	if (agg->form && agg->form->same == same && strcmp(agg->form->description, description) == 0)
		return true;
	if (agg->form_context == NULL)
		agg->form_context = AllocSetContextCreate(agg->context, "stream_ckpt form", ALLOCSET_SMALL_SIZES);
	agg->form = NULL;
	MemoryContextReset(agg->form_context);
	old = MemoryContextSwitchTo(agg->form_context);
	form = palloc0(sizeof(SckptAggForm));
	form->description = pstrdup(description);
	form->same = same;
	for (const char *at = description; *at; at++)
		nlines += *at == '\n';
	form->keys = palloc0(nlines * sizeof(int));
	form->handed = palloc0(nlines * sizeof(int));
	form->sources = palloc0(nlines * sizeof(int));
	form->calls = palloc0(nlines * sizeof(int));
	form->collected = palloc0(nlines * sizeof(bool));
	form->counts = palloc0(nlines * sizeof(bool));
	form->former = palloc0(nlines * sizeof(bool));
	form->sets.sets = palloc0(nlines * sizeof(int));
	form->sets.marks = palloc(nlines * SCKPT_SET_MARKS);
	taken = palloc0(Max(1, agg->key->ncolumns) * sizeof(bool));

	for (line = copy = pstrdup(description); fits && *line;)
	{
		char	   *end = strchr(line, '\n');
		char	   *fields[MAX_FIELDS] = {"", "", "", "", "", ""};
		int			n = 0;

		if (end == NULL)
		{
			fits = false;
			break;
		}
		*end = '\0';
		while (n < MAX_FIELDS)
		{
			char	   *tab = n < MAX_FIELDS - 1 ? strchr(line, '\t') : NULL;

			fields[n++] = line;
			if (tab == NULL)
				break;
			*tab = '\0';
			line = tab + 1;
		}
		fits = read_line(agg, form, fields, &nkeys, &nbounds, taken);
		line = end + 1;
	}
	if (!elements)
		fits &= nkeys == agg->key->ncolumns && form->session == (agg->session_offset != 0) &&
			form->weight == (agg->weight_offset != 0) && form->handed_on == (agg->handed_offset != 0) &&
			(!same || form->ncalls == agg->ncalls);
	pfree(copy);
	MemoryContextSwitchTo(old);
	if (fits)
		agg->form = form;
	return fits;
}
