/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * image: opening, closing and changing an image as a whole; its facts; checking one.
 */
#include "core/check.h"
#include "lib/internal.h"

#include <errno.h>
#include <stdlib.h>

#define OPEN_FLAGS                                                                   \
	(QF_OPEN_WRITABLE | QF_OPEN_FORCE_SHARE | QF_OPEN_RAW | QF_OPEN_NO_BACKING | \
	 QF_OPEN_PAGE_CACHE)

static const enum names_policy policies[] = {
	[QF_NAMES_AUTO] = NAMES_AUTO,
	[QF_NAMES_ANY] = NAMES_ANY,
	[QF_NAMES_BENEATH] = NAMES_BENEATH,
	[QF_NAMES_NONE] = NAMES_NONE,
};
#define NB_POLICIES (sizeof(policies) / sizeof(policies[0]))

/* ---- opening and closing ---- */

struct open_call {
	struct qf_image *image;
	const char *path;
	struct image_options how;
	struct error *error;
	int result;
};

static void take_info(struct qf_image *image, bool raw)
{
	const struct image_info *info = image_info(image->core);

	image->virtual_size = info->virtual_size;
	image->info = (struct qf_info){
		.size = sizeof(image->info),
		.flags = (info->writable ? QF_INFO_WRITABLE : 0) |
			 (info->extended_l2 ? QF_INFO_EXTENDED_L2 : 0) |
			 (info->zstd ? QF_INFO_ZSTD : 0) |
			 (info->lazy_refcounts ? QF_INFO_LAZY_REFCOUNTS : 0) |
			 (raw ? QF_INFO_RAW : 0),
		.cluster_size = info->cluster_size,
		.block_size = info->block_size,
		.version = info->version,
		.refcount_bits = info->refcount_bits,
		.depth = info->depth,
		.nb_snapshots = image_nb_snapshots(image->core),
		.backing_file = info->backing_name,
		.backing_format = info->backing_format,
		.data_file = info->data_name,
	};
}

static void coroutine_fn open_run(void *arg)
{
	struct open_call *call = arg;
	struct qf_image *image = call->image;

	call->result = image_open(&image->opener.opener, call->path, &call->how, &image->core,
				  &call->error);
	if (!call->result)
		take_info(image, call->how.raw);
}

static int check_open_options(const struct qf_open_options *o)
{
	bool writable = o->flags & QF_OPEN_WRITABLE;

	if (o->flags & ~(uint32_t)OPEN_FLAGS || o->names >= NB_POLICIES || o->reserved)
		return -EINVAL;
	if (writable && (o->snapshot || o->flags & (QF_OPEN_FORCE_SHARE | QF_OPEN_RAW)))
		return -EINVAL;
	return 0;
}

static int open_image(struct qf_context *context, const char *path, const struct qf_open_options *o,
		      struct qf_image **ret_image, struct error **reterr)
{
	struct qf_image *image = calloc(1, sizeof(*image));
	struct open_call call = {
		.image = image,
		.path = path,
		.how =
			{
				.writable = o->flags & QF_OPEN_WRITABLE,
				.force_share = o->flags & QF_OPEN_FORCE_SHARE,
				.raw = o->flags & QF_OPEN_RAW,
				.no_backing = o->flags & QF_OPEN_NO_BACKING,
				.snapshot = o->snapshot,
				.backing_file = o->backing_file,
				.data_file = o->data_file,
				.l2_cache_bytes = o->l2_cache_bytes,
			},
	};
	int ret;

	if (!image)
		return -ENOMEM;
	image->context = context;
	host_opener_init(&image->opener, context->reactor, policies[o->names],
			 o->flags & QF_OPEN_PAGE_CACHE);
	ret = context_run(context, open_run, &call);
	if (!ret)
		ret = call.result;
	if (ret)
		free(image);
	else
		*ret_image = image;
	*reterr = call.error;
	return ret;
}

int qf_open(struct qf_context *context, const char *path, const struct qf_open_options *options,
	    struct qf_image **ret_image, char **ret_message)
{
	struct qf_open_options o;
	struct error *error = NULL;
	int ret = struct_take(&o, sizeof(o), options, sizeof(o));

	if (!ret)
		ret = check_open_options(&o);
	if (!ret) {
		atomic_fetch_add(&context->nb_open, 1);
		ret = open_image(context, path, &o, ret_image, &error);
		if (ret)
			atomic_fetch_sub(&context->nb_open, 1);
	}
	if (ret)
		message_take(ret_message, ret, error);
	return ret;
}

struct image_call {
	struct qf_image *image;
	uint64_t virtual_size; /* of a resize */
	int result;
};

static void coroutine_fn close_run(void *arg)
{
	struct image_call *call = arg;

	co_rwlock_wrlock(&call->image->use); /* behind all requests that were submitted */
	call->result = image_close(call->image->core);
	co_rwlock_unlock(&call->image->use);
}

int qf_close(struct qf_image *image)
{
	struct image_call call = {.image = image};
	int ret;

	if (!image)
		return 0;
	ret = context_run(image->context, close_run, &call);
	if (ret)
		return ret;
	atomic_fetch_sub(&image->context->nb_open, 1);
	free(image);
	return call.result;
}

static void coroutine_fn resize_run(void *arg)
{
	struct image_call *call = arg;
	struct qf_image *image = call->image;

	co_rwlock_rdlock(&image->use);
	call->result = image_resize(image->core, call->virtual_size);
	atomic_store(&image->virtual_size, image_info(image->core)->virtual_size);
	co_rwlock_unlock(&image->use);
}

int qf_resize(struct qf_image *image, uint64_t virtual_size)
{
	struct image_call call = {.image = image, .virtual_size = virtual_size};
	int ret = context_run(image->context, resize_run, &call);

	return ret ? ret : call.result;
}

/* ---- facts ---- */

int qf_get_info(const struct qf_image *image, struct qf_info *info)
{
	struct qf_info now = image->info;

	now.virtual_size = atomic_load(&image->virtual_size);
	return struct_give(info, &now, sizeof(now), sizeof(now));
}

int qf_get_snapshot(const struct qf_image *image, unsigned index, struct qf_snapshot *snapshot)
{
	struct image_snapshot s;
	struct qf_snapshot full;

	if (index >= image->info.nb_snapshots)
		return -ENOENT;
	image_get_snapshot(image->core, index, &s);
	full = (struct qf_snapshot){
		.date_nsec = s.date_nsec,
		.id = s.id,
		.name = s.name,
		.virtual_size = s.virtual_size,
		.date_sec = s.date_sec,
		.vm_clock_nsec = s.vm_clock_nsec,
		.vm_state_bytes = s.vm_state_bytes,
	};
	return struct_give(snapshot, &full, sizeof(full), sizeof(full));
}

/* ---- checking ---- */

struct check_call {
	struct qf_context *context;
	const char *path;
	struct qf_check_options options;
	struct check_report report;
	struct error *error;
	int result;
};

static void coroutine_fn check_coroutine(void *arg)
{
	static const enum check_repair repairs[] = {
		[QF_REPAIR_NOTHING] = CHECK_ONLY,
		[QF_REPAIR_LEAKS] = CHECK_REPAIR_LEAKS,
		[QF_REPAIR_ALL] = CHECK_REPAIR_ALL,
	};
	struct check_call *call = arg;
	const struct qf_check_options *o = &call->options;
	struct check_options options = {
		.repair = repairs[o->repair], .say = o->say, .ctx = o->user};
	bool writable = o->repair != QF_REPAIR_NOTHING;
	enum file_lock lock = writable                         ? FILE_LOCK_WRITE
			      : o->flags & QF_OPEN_FORCE_SHARE ? FILE_LOCK_SHARED
							       : FILE_LOCK_READ;
	struct host_opener host;
	struct file *file;

	host_opener_init(&host, call->context->reactor, NAMES_NONE, o->flags & QF_OPEN_PAGE_CACHE);
	call->result = host.opener.open(&host.opener, OPENER_IMAGE, NULL, call->path, writable,
					lock, &file, &call->error);
	if (call->result)
		return;
	call->result = check_run(file, &options, &call->report, &call->error);
	file_close(file);
}

static int give_report(const struct check_report *report, struct qf_check_report *to)
{
	struct qf_check_report full = {
		.flags = (report->dirty ? QF_CHECK_DIRTY : 0) |
			 (report->corrupt ? QF_CHECK_CORRUPT : 0),
		.leaks = report->leaks,
		.corruptions = report->corruptions,
		.check_errors = report->check_errors,
		.leaks_fixed = report->leaks_fixed,
		.corruptions_fixed = report->corruptions_fixed,
		.image_end_offset = report->image_end_offset,
		.total_clusters = report->total_clusters,
		.allocated_clusters = report->allocated_clusters,
		.fragmented_clusters = report->fragmented_clusters,
		.compressed_clusters = report->compressed_clusters,
	};

	return struct_give(to, &full, sizeof(full), sizeof(full));
}

int qf_check(struct qf_context *context, const char *path, const struct qf_check_options *options,
	     struct qf_check_report *report, char **ret_message)
{
	const uint32_t flags = QF_OPEN_FORCE_SHARE | QF_OPEN_PAGE_CACHE;
	struct check_call call = {.context = context, .path = path};
	struct qf_check_options *o = &call.options;
	int ret = struct_take(o, sizeof(*o), options, sizeof(*o));

	if (!ret && (o->repair > QF_REPAIR_ALL || o->flags & ~flags || o->reserved ||
		     report->size < sizeof(*report)))
		ret = -EINVAL;
	if (!ret && o->repair != QF_REPAIR_NOTHING && o->flags & QF_OPEN_FORCE_SHARE)
		ret = -EINVAL;
	if (!ret) {
		atomic_fetch_add(&context->nb_open, 1);
		ret = context_run(context, check_coroutine, &call);
		atomic_fetch_sub(&context->nb_open, 1);
	}
	if (!ret)
		ret = call.result;
	if (!ret)
		return give_report(&call.report, report);
	message_take(ret_message, ret, call.error);
	return ret;
}
