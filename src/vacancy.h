/*-------------------------------------------------------------------------
 *
 * vacancy.h
 *		Rows of a keyed result whose entries have gone, for entries that come
 *		with the same key in the sink.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_VACANCY_H
#define SCKPT_VACANCY_H

#include "sink.h"
#include "task.h"

typedef struct SckptVacancies SckptVacancies;

/* In the current context, which must stay, and for the checkpoint being taken.  NULL: rows that go are to be deleted at once. */
extern SckptVacancies *sckpt_vacancies_create(SckptTask *task, SckptSink *sink);
/* A row of the query's result type goes, which may be at `tid`. */
extern void sckpt_vacancies_add(SckptVacancies *vacancies, TupleTableSlot *row, ItemPointer tid);
/* Another one comes: true if it takes the place of one that goes, which may be at *tid. */
extern bool sckpt_vacancies_take(SckptVacancies *vacancies, TupleTableSlot *row, ItemPointer tid);
/* Delete those that nobody has taken; before the sink is closed. */
extern void sckpt_vacancies_close(SckptVacancies *vacancies);

#endif							/* SCKPT_VACANCY_H */
