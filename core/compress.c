/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * compress: see compress.h. The decoders at the head of this file run on worker
 * threads and touch nothing but their arguments; all else belongs to the reactor.
 *
 * A stream counts as good when the cluster is full, whatever input is left: the
 * length in the descriptor is rounded up to sectors. libdeflate, where the build has
 * it, goes first because it is more than twice as fast; a stream that it refuses goes
 * to zlib, whose word is final.
 */
#include "core/compress.h"

#include "core/internal.h"
#include "io/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif
#ifndef NO_ZSTD
#include <zstd.h>
#endif

#define DEFLATE_WINDOW_BITS (-12)
#define ZSTD_WINDOW_LOG_MAX 23 /* 8 MiB, four times the largest cluster */

struct inflated {
	struct inflated *newer, *older;
	uint64_t descriptor;
	uint8_t *data;
	size_t cluster_bytes;
	bool zstd;
	bool loading;
	bool forgotten; /* not to be found again */
	int err;        /* valid when not loading */
	int users;
	struct co_queue waiters;
};

enum { STATE_RUNNING, STATE_AWAITED, STATE_DONE };

/* ---- decoders ---- */

/*
 * The memory that a decoder works in, made once and used by one job after another.
 * Members are made when they are first needed.
 */
struct codec {
	struct codec *next;
	z_stream zlib;
	bool has_zlib;
#ifdef HAVE_LIBDEFLATE
	struct libdeflate_decompressor *fast;
#endif
#ifndef NO_ZSTD
	ZSTD_DCtx *zstd;
#endif
};

static void codec_free(struct codec *codec)
{
	if (codec->has_zlib)
		inflateEnd(&codec->zlib);
#ifdef HAVE_LIBDEFLATE
	libdeflate_free_decompressor(codec->fast);
#endif
#ifndef NO_ZSTD
	ZSTD_freeDCtx(codec->zstd);
#endif
	free(codec);
}

#ifdef HAVE_LIBDEFLATE
static bool inflate_fast(struct codec *codec, const uint8_t *in, size_t in_bytes, uint8_t *out,
			 size_t out_bytes)
{
	enum libdeflate_result result;
	size_t used, written;

	if (!codec->fast)
		codec->fast = libdeflate_alloc_decompressor();
	if (!codec->fast)
		return false;
	result = libdeflate_deflate_decompress_ex(codec->fast, in, in_bytes, out, out_bytes, &used,
						  &written);
	return result == LIBDEFLATE_SUCCESS && written == out_bytes;
}
#else
static bool inflate_fast(struct codec *codec, const uint8_t *in, size_t in_bytes, uint8_t *out,
			 size_t out_bytes)
{
	return false;
}
#endif

static int inflate_zlib(struct codec *codec, const uint8_t *in, size_t in_bytes, uint8_t *out,
			size_t out_bytes)
{
	z_stream *z = &codec->zlib;
	int ret;

	if (inflate_fast(codec, in, in_bytes, out, out_bytes))
		return 0;
	if (!codec->has_zlib && inflateInit2(z, DEFLATE_WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	codec->has_zlib = true;
	inflateReset(z);
	z->next_in = (uint8_t *)in;
	z->avail_in = in_bytes;
	z->next_out = out;
	z->avail_out = out_bytes;
	ret = inflate(z, Z_FINISH);
	if (z->avail_out || (ret != Z_STREAM_END && ret != Z_BUF_ERROR && ret != Z_OK))
		return ret == Z_MEM_ERROR ? -ENOMEM : -EIO;
	return 0;
}

#ifndef NO_ZSTD
/* Frame by frame, straight into the cluster: needs no memory for a window. */
static bool inflate_frames(struct codec *codec, const uint8_t *in, size_t in_bytes, uint8_t *out,
			   size_t out_bytes)
{
	while (out_bytes) {
		size_t frame_bytes = ZSTD_findFrameCompressedSize(in, in_bytes);
		size_t n;

		if (ZSTD_isError(frame_bytes))
			return false;
		n = ZSTD_decompressDCtx(codec->zstd, out, out_bytes, in, frame_bytes);
		if (ZSTD_isError(n))
			return false;
		in += frame_bytes;
		in_bytes -= frame_bytes;
		out += n;
		out_bytes -= n;
	}
	return true;
}

/* Where the file's end cuts a frame off, its data may be whole, but without the check that it is
 * right. */
static int inflate_zstd(struct codec *codec, const uint8_t *in_data, size_t in_bytes, bool cut_off,
			uint8_t *out_data, size_t out_bytes)
{
	ZSTD_inBuffer in = {.src = in_data, .size = in_bytes};
	ZSTD_outBuffer out = {.dst = out_data, .size = out_bytes};
	size_t hint = 0;

	if (!codec->zstd)
		codec->zstd = ZSTD_createDCtx();
	if (!codec->zstd)
		return -ENOMEM;
	if (inflate_frames(codec, in_data, in_bytes, out_data, out_bytes))
		return 0;
	/* A frame that holds more than the cluster: as a stream, within a bound of memory. */
	ZSTD_DCtx_reset(codec->zstd, ZSTD_reset_session_only);
	ZSTD_DCtx_setParameter(codec->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX);
	while (out.pos < out.size) {
		size_t in_before = in.pos, out_before = out.pos;

		hint = ZSTD_decompressStream(codec->zstd, &out, &in);
		if (ZSTD_isError(hint) || (in.pos == in_before && out.pos == out_before))
			return -EIO;
	}
	return hint && cut_off && in.pos == in.size ? -EIO : 0;
}
#else
static int inflate_zstd(struct codec *codec, const uint8_t *in, size_t in_bytes, bool cut_off,
			uint8_t *out, size_t out_bytes)
{
	return -ENOTSUP;
}
#endif

/* The job of a worker thread. */
static void inflate_job(void *arg)
{
	struct inflate_op *op = arg;
	struct inflated *cluster = op->cluster;
	const uint8_t *in = (const uint8_t *)op->iov.iov_base + op->in_skip;

	if (cluster->zstd)
		cluster->err = inflate_zstd(op->codec, in, op->in_bytes, op->cut_off, cluster->data,
					    cluster->cluster_bytes);
	else
		cluster->err = inflate_zlib(op->codec, in, op->in_bytes, cluster->data,
					    cluster->cluster_bytes);
}

/* Also on the worker's thread: wakes the coroutine only if it waits for this job. */
static void inflate_job_done(struct worker_job *job)
{
	struct inflate_op *op =
		(struct inflate_op *)((char *)job - offsetof(struct inflate_op, job));
	struct co *waiter = op->waiter;
	struct reactor *reactor = co_reactor(waiter);

	if (atomic_exchange(&op->state, STATE_DONE) == STATE_AWAITED)
		reactor_wake_remote(reactor, &op->wakeup, waiter);
}

/* ---- the cache ---- */

void inflate_cache_init(struct inflate_cache *cache, unsigned nb_max)
{
	*cache = (struct inflate_cache){.nb_max = nb_max};
}

static void unlink_cluster(struct inflate_cache *cache, struct inflated *cluster)
{
	*(cluster->newer ? &cluster->newer->older : &cache->newest) = cluster->older;
	*(cluster->older ? &cluster->older->newer : &cache->oldest) = cluster->newer;
	cluster->newer = cluster->older = NULL;
	cache->nb--;
}

static void push_newest(struct inflate_cache *cache, struct inflated *cluster)
{
	cluster->newer = NULL;
	cluster->older = cache->newest;
	*(cache->newest ? &cache->newest->newer : &cache->oldest) = cluster;
	cache->newest = cluster;
	cache->nb++;
}

static void free_cluster(struct inflated *cluster)
{
	buf_put(cluster->data, cluster->cluster_bytes);
	free(cluster);
}

/* Frees unused clusters, the oldest first, until at most nb_keep are left. */
static void shrink(struct inflate_cache *cache, unsigned nb_keep)
{
	struct inflated *cluster = cache->oldest;

	while (cluster && cache->nb > nb_keep) {
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what is freed left the list */
		struct inflated *newer = cluster->newer;

		if (!cluster->users) {
			unlink_cluster(cache, cluster);
			free_cluster(cluster);
		}
		cluster = newer;
	}
}

void inflate_cache_trim(struct inflate_cache *cache)
{
	shrink(cache, 0);
	while (cache->codecs) {
		struct codec *next = cache->codecs->next;

		codec_free(cache->codecs);
		cache->codecs = next;
	}
}

void inflate_cache_finish(struct inflate_cache *cache)
{
	inflate_cache_trim(cache);
	assert(!cache->nb);
}

static struct codec *take_codec(struct inflate_cache *cache)
{
	struct codec *codec = cache->codecs;

	if (!codec)
		return calloc(1, sizeof(*codec));
	cache->codecs = codec->next;
	return codec;
}

static void return_codec(struct inflate_cache *cache, struct codec *codec)
{
	codec->next = cache->codecs;
	cache->codecs = codec;
}

void inflate_cache_forget(struct inflate_cache *cache, uint64_t descriptor)
{
	for (struct inflated *c = cache->newest; c; c = c->older)
		if (c->descriptor == descriptor)
			c->forgotten = true;
}

/* The cluster, used once more; a new one (to be loaded by the caller) if it is not there. */
static struct inflated *get_cluster(struct image *image, uint64_t descriptor, bool *ret_new)
{
	struct inflate_cache *cache = &image->inflate;
	struct inflated *cluster = cache->newest;

	while (cluster && (cluster->descriptor != descriptor || cluster->forgotten))
		cluster = cluster->older;
	*ret_new = !cluster;
	if (cluster) {
		unlink_cluster(cache, cluster);
	} else {
		shrink(cache, cache->nb_max ? cache->nb_max - 1 : 0);
		cluster = calloc(1, sizeof(*cluster));
		if (!cluster)
			return NULL;
		cluster->cluster_bytes = cluster_size(image);
		cluster->data = buf_get(cluster->cluster_bytes);
		if (!cluster->data) {
			free(cluster);
			return NULL;
		}
		cluster->descriptor = descriptor;
		cluster->zstd = image->info.zstd;
		cluster->loading = true;
	}
	push_newest(cache, cluster);
	cache->nb_used += cluster->users++ == 0;
	return cluster;
}

/* ---- one cluster of a request ---- */

void compress_decode_descriptor(unsigned cluster_bits, uint64_t descriptor, uint64_t *ret_host_off,
				uint32_t *ret_len_bytes)
{
	unsigned offset_bits = compress_offset_bits(cluster_bits);
	uint64_t sectors = (descriptor & ((1ull << 62) - 1)) >> offset_bits;

	*ret_host_off = descriptor & ((1ull << offset_bits) - 1);
	*ret_len_bytes = (sectors + 1) * 512 - (*ret_host_off & 511);
}

/* The cluster is there, or is known to be bad: whoever waits for it may go on. */
static void settle(struct inflate_op *op)
{
	struct inflated *cluster = op->cluster;

	cluster->loading = false;
	if (cluster->err)
		cluster->forgotten = true;
	co_queue_wake_all(&cluster->waiters);
}

int coroutine_fn inflate_begin(struct inflate_op *op, struct image *image, uint64_t descriptor)
{
	struct file *file = image->file;
	uint64_t host_off, start, end;
	uint32_t len_bytes;

	memset(op, 0, sizeof(*op));
	op->image = image;
	op->cluster = get_cluster(image, descriptor, &op->mine);
	if (!op->cluster)
		return -ENOMEM;
	if (!op->mine) {
		image->stats.nb_inflate_hits++;
		return 0;
	}
	image->stats.nb_inflated++;
	compress_decode_descriptor(image->cluster_bits, descriptor, &host_off, &len_bytes);
	start = round_down(host_off, file->align);
	end = round_up(host_off + len_bytes, file->align);
	/* No stream needs twice its cluster; what a descriptor claims beyond is not read. */
	end = min_u64(end, start + BUF_MAX_BYTES);
	op->in_skip = host_off - start;
	/* What the file does not hold is no part of the stream: zeros in its place might decode. */
	op->in_bytes =
		host_off < file->size_bytes ? min_u64(len_bytes, file->size_bytes - host_off) : 0;
	op->cut_off = op->in_bytes < len_bytes;
	op->in_bytes = min_u64(op->in_bytes, end - host_off);
	op->iov.iov_len = end - start;
	op->iov.iov_base = buf_get(op->iov.iov_len);
	if (!op->iov.iov_base) {
		op->cluster->err = -ENOMEM;
		settle(op);
		inflate_end(op);
		return -ENOMEM;
	}
	file_io_start(&op->io, file, IO_READ, start, &op->iov, 1, IO_TAG_DATA);
	return 0;
}

void coroutine_fn inflate_decode(struct inflate_op *op)
{
	struct worker_pool *workers = reactor_workers(co_reactor(co_self()));
	int err;

	if (!op->mine)
		return;
	op->waiter = co_self();
	err = file_io_finish(&op->io);
	op->codec = err ? NULL : take_codec(&op->image->inflate);
	if (!err && !op->codec)
		err = -ENOMEM;
	op->cluster->err = err;
	if (err || !workers) {
		if (!err)
			inflate_job(op);
		atomic_store(&op->state, STATE_DONE);
		return;
	}
	op->job = (struct worker_job){.fn = inflate_job, .arg = op, .done = inflate_job_done};
	worker_submit(workers, &op->job);
}

int coroutine_fn inflate_wait(struct inflate_op *op, const uint8_t **ret_data)
{
	struct inflated *cluster = op->cluster;
	int running = STATE_RUNNING;

	if (op->mine) {
		/*
		 * Once awaited, the job's end wakes this coroutine through the inbox, exactly
		 * once. Looking at the state here instead could leave before that wake-up has
		 * arrived, and `op` with it.
		 */
		if (atomic_compare_exchange_strong(&op->state, &running, STATE_AWAITED))
			co_yield ();
		settle(op);
	} else {
		while (cluster->loading)
			co_queue_wait(&cluster->waiters);
	}
	*ret_data = cluster->data;
	return cluster->err;
}

void inflate_end(struct inflate_op *op)
{
	struct inflate_cache *cache = &op->image->inflate;
	struct inflated *cluster = op->cluster;

	if (op->mine)
		buf_put(op->iov.iov_base, op->iov.iov_len);
	if (op->codec)
		return_codec(cache, op->codec);
	if (--cluster->users)
		return;
	cache->nb_used--;
	if (cluster->forgotten) {
		unlink_cluster(cache, cluster);
		free_cluster(cluster);
	} else {
		shrink(cache, cache->nb_max);
	}
}
