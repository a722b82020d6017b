/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * site: from where in the code under test something was called: which call sites of
 * I/O and of allocations have been seen, and which have been made to fail.
 *
 * A site is the innermost frame of the stack that lies in core/ (else in io/), found
 * from the debugging information when the report is made.
 */
#ifndef QCOW2FS_TEST_SIM_SITE_H
#define QCOW2FS_TEST_SIM_SITE_H

#include <stdbool.h>

struct site_table;

struct site_table *site_table_create(void);
void site_table_free(struct site_table *table);
/* Notes the stack of the caller. */
void site_note(struct site_table *table, bool failed);
/* Adds what was seen to the driver's union, under `name`. */
void site_report(const struct site_table *table, const char *name);

#endif
