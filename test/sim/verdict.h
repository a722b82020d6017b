/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * verdict: what a simulated run found wrong, with everything needed to repeat it.
 *
 * The first failure of a run is kept, later ones are consequences. Fatal ones (a
 * deadlock leaves coroutines behind that cannot be unwound) print and end the
 * process; the driver runs each cell in a process of its own.
 */
#ifndef QCOW2FS_TEST_SIM_VERDICT_H
#define QCOW2FS_TEST_SIM_VERDICT_H

#include <stdbool.h>

/* What is being run ("cell c512-r16-v3 seed 7 workload ..."); kept by copy. */
void verdict_set_context(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *verdict_context(void);

/* Records a failure, unless one is recorded already. */
void verdict_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints context and reason and ends the process with status 2. */
void verdict_fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

bool verdict_failed(void);
const char *verdict_text(void);
void verdict_clear(void);

#endif
