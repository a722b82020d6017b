/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* verdict: the first failure of the current run, global to the process. */
#include "test/sim/verdict.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static char context[1024];
static char reason[2048];
static bool failed;

void verdict_set_context(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(context, sizeof(context), fmt, ap);
	va_end(ap);
}

const char *verdict_context(void)
{
	return context;
}

void verdict_fail(const char *fmt, ...)
{
	va_list ap;

	if (failed)
		return;
	failed = true;
	va_start(ap, fmt);
	vsnprintf(reason, sizeof(reason), fmt, ap);
	va_end(ap);
}

void verdict_fatal(const char *fmt, ...)
{
	va_list ap;

	printf("FATAL %s: ", context);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
	_exit(2);
}

bool verdict_failed(void)
{
	return failed;
}

const char *verdict_text(void)
{
	return reason;
}

void verdict_clear(void)
{
	failed = false;
	reason[0] = '\0';
}
