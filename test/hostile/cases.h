/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cases: the hostile images that have names, such as "header/v3/l1_size=max" or
 * "chain/loop of two". Groups enumerate their cases in a fixed order; a case is built
 * only when it is asked for.
 */
#ifndef QCOW2FS_TEST_HOSTILE_CASES_H
#define QCOW2FS_TEST_HOSTILE_CASES_H

#include "test/hostile/trial.h"

/* Builds case number `index`. False beyond the last. */
bool cases_make(unsigned index, struct bundle *ret_bundle);

/* ---- for the groups ---- */

struct enumeration {
	unsigned wanted, next;
	struct bundle *bundle; /* filled when the wanted case is met */
	bool found;
};

/* Counts one case. True when it is the wanted one: the caller builds it now. */
bool case_is(struct enumeration *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Builds the image of a case from a kind of seed, with the files it names. */
struct seed *case_begin(struct enumeration *e, const char *kind);

/* cases_fields.c: one field or entry is wrong. */
void cases_fields(struct enumeration *e);
/* cases_tables.c: snapshot and bitmap tables, extensions, compressed data. */
void cases_tables(struct enumeration *e);
/* cases_bombs.c: sizes, repetition, chains. */
void cases_bombs(struct enumeration *e);

#endif
