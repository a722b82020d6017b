/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * thread: starts threads with asynchronous signals blocked.
 *
 * The mask is inherited at creation, so it is set around it: there is no moment
 * at which the new thread could take a signal.
 */
#include "io/thread.h"

#include <signal.h>

int thread_start(pthread_t *ret_thread, const char *name, void *(*fn)(void *arg), void *arg)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
	sigset_t blocked, before;
	sigfillset(&blocked);
	for (unsigned i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(&blocked, faults[i]);

	pthread_t thread;
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	int err = pthread_create(&thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err)
		return -err;
	pthread_setname_np(thread, name);
	*ret_thread = thread;
	return 0;
}
