/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cases: see cases.h.
 */
#include "test/hostile/cases.h"

#include "test/hostile/mutate.h"

#include <stdarg.h>
#include <stdio.h>

bool case_is(struct enumeration *e, const char *fmt, ...)
{
	va_list args;

	if (e->found || e->next++ != e->wanted)
		return false;
	e->found = true;
	va_start(args, fmt);
	vsnprintf(e->bundle->name, sizeof(e->bundle->name), fmt, args);
	va_end(args);
	return true;
}

struct seed *case_begin(struct enumeration *e, const char *kind)
{
	seed_build(seed_kind_find(kind), &e->bundle->image);
	mutate_add_companions(&e->bundle->image, e->bundle);
	return &e->bundle->image;
}

bool cases_make(unsigned index, struct bundle *ret_bundle)
{
	struct enumeration e = {.wanted = index, .bundle = ret_bundle};

	ret_bundle->nb_extras = 0;
	cases_fields(&e);
	cases_tables(&e);
	cases_bombs(&e);
	return e.found;
}
