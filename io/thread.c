/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * thread: starts threads with asynchronous signals blocked.
 *
 * The mask is inherited at creation, so it is set around it: there is no moment
 * at which the new thread could take a signal.
 *
 * A thread names itself: naming another one means opening a file of /proc, which a confined
 * process cannot.
 */
#include "io/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

struct beginning {
	const char *name;
	void *(*fn)(void *arg);
	void *arg;
};

static void *begin(void *arg)
{
	struct beginning beginning = *(struct beginning *)arg;

	free(arg);
	pthread_setname_np(pthread_self(), beginning.name);
	return beginning.fn(beginning.arg);
}

int thread_start(pthread_t *ret_thread, const char *name, void *(*fn)(void *arg), void *arg)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
	sigset_t blocked, before;
	sigfillset(&blocked);
	for (unsigned i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(&blocked, faults[i]);

	struct beginning *beginning = malloc(sizeof(*beginning));
	if (!beginning)
		return -ENOMEM;
	*beginning = (struct beginning){.name = name, .fn = fn, .arg = arg};

	pthread_t thread;
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	int err = pthread_create(&thread, NULL, begin, beginning);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err) {
		free(beginning);
		return -err;
	}
	*ret_thread = thread;
	return 0;
}
