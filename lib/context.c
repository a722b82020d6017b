/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * context: a reactor in a thread of its own.
 */
#include "io/buf.h"
#include "io/engine.h"
#include "lib/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NB_WORKERS_MIN 2u
#define NB_WORKERS_MAX 64u
#define NB_REQUESTS_MAX 4096u

const char *qf_version(void)
{
	return QCOW2FS_VERSION;
}

static int create_engine(uint32_t kind, struct engine **ret_engine)
{
	const char *why;

	switch (kind) {
	case QF_ENGINE_AUTO:
		return engine_create_by_name("auto", ret_engine, &why);
	case QF_ENGINE_URING:
		return engine_create_by_name("uring", ret_engine, &why);
	case QF_ENGINE_THREADS:
		return engine_create_by_name("threads", ret_engine, &why);
	case QF_ENGINE_SYNC:
		return engine_sync_create(ret_engine);
	default:
		return -EINVAL;
	}
}

static unsigned default_workers(void)
{
	long nb_cpus = sysconf(_SC_NPROCESSORS_ONLN);

	return nb_cpus > NB_WORKERS_MAX   ? NB_WORKERS_MAX
	       : nb_cpus > NB_WORKERS_MIN ? (unsigned)nb_cpus
					  : NB_WORKERS_MIN;
}

static int start_reactor(struct qf_context *context, const struct qf_context_options *options)
{
	struct reactor_params params = {
		.nb_coroutines = options->nb_requests,
		.nb_workers = options->nb_workers ? options->nb_workers : default_workers(),
	};
	int ret = create_engine(options->engine, &params.engine);

	if (ret)
		return ret;
	context->engine_name = params.engine->ops->name;
	ret = reactor_create(&params, &context->reactor);
	if (ret)
		return ret;
	ret = reactor_start(context->reactor);
	if (ret)
		reactor_destroy(context->reactor);
	return ret;
}

int qf_context_create(const struct qf_context_options *options, struct qf_context **ret_context)
{
	struct qf_context_options o;
	struct qf_context *context;
	int ret = struct_take(&o, sizeof(o), options, sizeof(o));

	if (ret)
		return ret;
	if (o.nb_workers > NB_WORKERS_MAX || o.nb_requests > NB_REQUESTS_MAX)
		return -EINVAL;
	context = calloc(1, sizeof(*context));
	if (!context)
		return -ENOMEM;
	ret = start_reactor(context, &o);
	if (ret) {
		free(context);
		return ret;
	}
	*ret_context = context;
	return 0;
}

int qf_context_destroy(struct qf_context *context)
{
	if (!context)
		return 0;
	if (reactor_is_current(context->reactor))
		return -EDEADLK;
	if (atomic_load(&context->nb_open))
		return -EBUSY;
	reactor_destroy(context->reactor);
	free(context);
	buf_trim();
	return 0;
}

const char *qf_context_engine(const struct qf_context *context)
{
	return context->engine_name;
}

int context_run(struct qf_context *context, void (*fn)(void *arg), void *arg)
{
	if (reactor_is_current(context->reactor))
		return -EDEADLK;
	reactor_run(context->reactor, fn, arg);
	return 0;
}

void message_take(char **ret_message, int err, struct error *error)
{
	if (ret_message)
		*ret_message = strdup(error ? error->msg : strerror(-err));
	error_free(error);
}
