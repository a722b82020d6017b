/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * release: see release.h. One coroutine per image, started when there is work. A
 * failure here leaks clusters and harms nothing, so it is not reported.
 */
#include "core/release.h"

#include "core/alloc.h"
#include "core/map.h"
#include "core/refcount.h"

/* Moves all runs of `from` to `to`; what there is no memory for is leaked. */
static void move_runs(struct run_list *to, struct run_list *from)
{
	if (!to->nb) {
		run_list_free(to);
		*to = *from;
		*from = (struct run_list){0};
		return;
	}
	if (!run_list_reserve(to, from->nb))
		for (size_t i = 0; i < from->nb; i++)
			run_list_append(to, from->runs[i]);
	run_list_free(from);
}

void release_put_back(struct writer *writer, struct run_list *unlinked)
{
	move_runs(&writer->unlinked, unlinked);
}

/* The longest run from `first` on whose clusters have one reference, at most nb long. */
static uint64_t coroutine_fn count_last_references(struct writer *writer, uint64_t first,
						   uint64_t nb)
{
	uint64_t n = 0, value = 1;

	while (n < nb && !refcount_get(writer, first + n, &value) && value == 1)
		n++;
	return n;
}

/* Drops the last reference of [first, first + nb) after giving the host its space back. */
static void coroutine_fn free_run(struct writer *writer, uint64_t first, uint64_t nb)
{
	struct image *image = writer->image;
	uint64_t host_off = first << image->cluster_bits, len_bytes = nb << image->cluster_bits;
	uint64_t value = 0;

	/* The last reference to a table that is in use: the image contradicts itself. Leak it. */
	if (overlap_hits(&writer->overlap, host_off, len_bytes))
		return;
	file_punch(image->file, host_off, len_bytes); /* I9: before the refcount drops */
	co_mutex_lock(&writer->alloc_mutex);
	for (uint64_t i = 0; i < nb; i++)
		if (!refcount_drop(writer, first + i, &value) && !value)
			alloc_remember_free(writer, first + i, 1);
	co_mutex_unlock(&writer->alloc_mutex);
}

static void coroutine_fn release_run(struct writer *writer, uint64_t first, uint64_t nb)
{
	while (nb) {
		uint64_t n, value;

		co_mutex_lock(&writer->alloc_mutex);
		n = count_last_references(writer, first, nb);
		if (!n) {
			refcount_drop(writer, first, &value); /* shared: one reference less */
			n = 1;
			co_mutex_unlock(&writer->alloc_mutex);
		} else {
			co_mutex_unlock(&writer->alloc_mutex);
			free_run(writer, first, n);
		}
		first += n;
		nb -= n;
	}
}

/*
 * Gives space of the external data file back where the entries say zero still: who allocates
 * there now waits for the range. A later discard that is not durable yet may show early, which
 * is what an unflushed discard may do.
 */
static void coroutine_fn release_data_run(struct writer *writer, const struct cluster_run *run)
{
	struct image *image = writer->image;
	uint64_t pos = run->first << image->cluster_bits;
	uint64_t end = pos + (run->nb << image->cluster_bits);
	struct range_hold hold;
	struct extent extent;

	range_lock(&writer->in_flight, &hold, pos, end - pos, true); /* I8, I9 */
	while (pos < end && !map_layer(image, pos, end - pos, &extent)) {
		if (extent.kind == EXTENT_ZERO && extent.has_host_off)
			file_punch(image->data_file, extent.host_off, extent.len_bytes);
		pos += extent.len_bytes;
	}
	range_unlock(&writer->in_flight, &hold);
}

static void coroutine_fn release_main(void *arg)
{
	struct writer *writer = arg;

	while (writer->released.nb) {
		struct run_list list = writer->released;

		writer->released = (struct run_list){0};
		io_wait_for_earlier(writer->image); /* I6 */
		for (size_t i = 0; i < list.nb; i++) {
			if (list.runs[i].in_data_file)
				release_data_run(writer, &list.runs[i]);
			else
				release_run(writer, list.runs[i].first, list.runs[i].nb);
		}
		run_list_free(&list);
	}
	writer->release_running = false;
	co_queue_wake_all(&writer->idle);
}

void release_begin(struct writer *writer, struct run_list *unlinked)
{
	move_runs(&writer->released, unlinked);
	if (!writer->released.nb || writer->release_running)
		return;
	writer->release_running = true;
	writer->release_task = (struct task){.fn = release_main, .arg = writer};
	reactor_spawn_background(writer->image->file->reactor, &writer->release_task);
}
