/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* read_ahead: see read_ahead.h. */
#include "core/read_ahead.h"

#include "core/internal.h"

#include <string.h>

/* A reader of small pieces may be faster than an inflation: one cluster is not enough. */
#define CLUSTERS_MIN 2u
/* And so many CPUs, of which each has a worker, are the reader, the reactor, and a free one. */
#define WORKERS_FOR_SMALL_PIECES 3u
/* Other readers' clusters wait behind these for a worker. */
#define CLUSTERS_MAX 8u
/* With so many of a cache in use, or about to be, the workers have enough to do. */
#define USED_MAX 16u

/* Requests of one reader overtake each other: what lies a cluster behind belongs to it, too. */
static bool continues(const struct read_stream *stream, uint64_t start, uint64_t cluster_bytes)
{
	return stream->end && start + cluster_bytes >= stream->start && start <= stream->end;
}

/*
 * The stream that the range goes on with, as the latest one; a new one in the place of the one
 * that is silent for the longest time, where there is none.
 */
static struct read_stream *find_stream(struct read_ahead *ahead, uint64_t start, uint64_t end,
				       uint64_t cluster_bytes)
{
	struct read_stream *streams = ahead->streams, found = {.start = start, .end = end};
	unsigned i = 0;

	while (i < READ_AHEAD_STREAMS - 1 && !continues(&streams[i], start, cluster_bytes))
		i++;
	if (continues(&streams[i], start, cluster_bytes))
		found = streams[i];
	memmove(streams + 1, streams, i * sizeof(*streams));
	streams[0] = found;
	return streams;
}

static void coroutine_fn read_ahead_main(void *arg)
{
	struct image *image = arg;
	struct read_ahead *ahead = &image->ahead;

	read_into_cache(image, ahead->guest_off, ahead->len_bytes);
	ahead->running = false;
	co_queue_wake_all(&ahead->idle);
}

/* False where requests need all stacks: they come first, and the end of one may wait for this. */
static bool read_ahead_start(struct image *image, uint64_t guest_off, uint64_t end)
{
	struct read_ahead *ahead = &image->ahead;

	ahead->guest_off = guest_off;
	ahead->len_bytes = end - guest_off;
	ahead->task = (struct task){.fn = read_ahead_main, .arg = image};
	ahead->running = reactor_try_spawn(image->file->reactor, &ahead->task);
	return ahead->running;
}

void read_ahead_note(struct image *image, const struct image *layer, uint64_t guest_off,
		     uint64_t len_bytes)
{
	uint64_t cluster_bytes = cluster_size(layer);
	uint64_t start = round_down(guest_off, cluster_bytes);
	uint64_t end = round_up(guest_off + len_bytes, cluster_bytes);
	uint64_t nb = min_u64(max_u64((end - start) >> layer->cluster_bits, CLUSTERS_MIN),
			      min_u64(layer->inflate.nb_max / 2, CLUSTERS_MAX));
	struct read_ahead *ahead = &image->ahead;
	struct read_stream *stream = find_stream(ahead, start, end, cluster_bytes);
	uint64_t from;

	if (end <= stream->end && !stream->ahead)
		return; /* still where it began */
	stream->start = start;
	stream->end = max_u64(stream->end, end);
	from = max_u64(stream->end, stream->ahead);
	end = min_u64(stream->end + nb * cluster_bytes, image->virtual_size);
	if (ahead->nb_workers < (len_bytes < cluster_bytes ? WORKERS_FOR_SMALL_PIECES : 1))
		return;
	if (from >= end || ahead->running ||
	    layer->inflate.nb_used + nb > min_u64(layer->inflate.nb_max / 2, USED_MAX))
		return;
	if (read_ahead_start(image, from, end))
		stream->ahead = end;
}

void coroutine_fn read_ahead_finish(struct image *image)
{
	image->ahead.nb_workers = 0; /* requests under way begin nothing more */
	while (image->ahead.running)
		co_queue_wait(&image->ahead.idle);
}
