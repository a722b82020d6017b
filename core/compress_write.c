/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * compress_write: see compress_write.h.
 *
 * One call: compress all its clusters on the workers (a few lanes, each takes the next
 * cluster that nobody has), give the results places under the packer's mutex, write
 * them in one piece, then change the L2 entries (I3).
 */
#include "core/compress_write.h"

#include "core/alloc.h"
#include "core/compress.h"
#include "core/encoder.h"
#include "core/flush.h"
#include "core/map.h"
#include "core/refcount.h"
#include "core/table.h"
#include "core/write.h"
#include "io/buf.h"

#include <errno.h>
#include <stdlib.h>

#define LANES_MAX 4u

struct packer {
	struct image *image;
	struct encoder *idle;
	struct co_mutex mutex;
	uint64_t refs_max; /* descriptors per host cluster */
	uint64_t position; /* where the next one goes, 0: into a cluster of its own */
	uint64_t nb_here;  /* descriptors in the host cluster of `position` */
};

/* One guest cluster of a call. */
struct piece {
	uint64_t host_off;
	uint32_t len_bytes; /* 0: does not compress */
};

struct batch {
	struct packer *packer;
	uint64_t guest_off;
	size_t cluster_bytes;
	const uint8_t *in;
	uint8_t *last; /* the last cluster padded with zeros, where the disk ends inside it */
	uint8_t *out;  /* the results: first one cluster apart, then one behind the other */
	struct piece *pieces;
	unsigned nb;
	atomic_uint next; /* the cluster that a lane takes */
	atomic_uint running;
	struct wakeup wakeup;
	struct co *waiter;
};

struct lane {
	struct worker_job job;
	struct batch *batch;
	struct encoder *encoder;
};

/* ---- compressing ---- */

static const uint8_t *cluster_data(const struct batch *batch, unsigned index)
{
	if (batch->last && index == batch->nb - 1)
		return batch->last;
	return batch->in + (size_t)index * batch->cluster_bytes;
}

/* The job of a worker thread. */
static void lane_run(void *arg)
{
	struct lane *lane = arg;
	struct batch *batch = lane->batch;
	unsigned i;

	while ((i = atomic_fetch_add(&batch->next, 1)) < batch->nb)
		batch->pieces[i].len_bytes =
			encoder_run(lane->encoder, cluster_data(batch, i), batch->cluster_bytes,
				    batch->out + (size_t)i * batch->cluster_bytes);
}

/* Also on the worker's thread. The last one to arrive wakes the coroutine. */
static void lane_done(struct worker_job *job)
{
	struct batch *batch = ((struct lane *)((char *)job - offsetof(struct lane, job)))->batch;
	struct co *waiter = batch->waiter;

	if (atomic_fetch_sub(&batch->running, 1) == 1)
		reactor_wake_remote(co_reactor(waiter), &batch->wakeup, waiter);
}

static int coroutine_fn compress_all(struct batch *batch)
{
	struct packer *packer = batch->packer;
	struct worker_pool *workers = reactor_workers(co_reactor(co_self()));
	unsigned nb_max = workers ? min_u64(batch->nb, LANES_MAX) : 1, nb = 0;
	struct lane lanes[LANES_MAX];

	for (; nb < nb_max; nb++) {
		struct encoder *encoder = encoder_take(&packer->idle, packer->image->info.zstd);

		if (!encoder && !nb)
			return -ENOMEM;
		if (!encoder)
			break;
		lanes[nb] = (struct lane){
			.job = {.fn = lane_run, .arg = &lanes[nb], .done = lane_done},
			.batch = batch,
			.encoder = encoder,
		};
	}
	batch->waiter = co_self();
	if (workers) {
		atomic_store(&batch->running, nb + 1);
		for (unsigned i = 0; i < nb; i++)
			worker_submit(workers, &lanes[i].job);
		if (atomic_fetch_sub(&batch->running, 1) != 1)
			co_yield (); /* nothing else of this coroutine is under way */
	} else {
		lane_run(&lanes[0]);
	}
	for (unsigned i = 0; i < nb; i++)
		encoder_put_back(&packer->idle, lanes[i].encoder);
	return 0;
}

/* ---- places ---- */

/* Descriptors go on at `position` of a host cluster that holds nb_here. */
struct place {
	uint64_t position, nb_here;
};

/*
 * Gives each piece a place from `place` on, relative to nothing: 0 is the start of a cluster.
 * *place gets the end.
 */
static void lay_out(const struct packer *packer, struct piece *pieces, unsigned nb,
		    struct place *place)
{
	uint64_t size = cluster_size(packer->image);

	for (unsigned i = 0; i < nb; i++) {
		uint64_t end;

		if (!pieces[i].len_bytes)
			continue;
		if (place->position % size && place->nb_here >= packer->refs_max)
			place->position = round_up(place->position, size);
		if (place->position % size == 0)
			place->nb_here = 0;
		pieces[i].host_off = place->position;
		end = place->position + pieces[i].len_bytes;
		if ((end - 1) / size != place->position / size)
			place->nb_here = 0; /* goes on in the next host cluster */
		place->nb_here++;
		place->position = end;
	}
}

/* How many of the pieces touch the host cluster. */
static uint64_t count_touching(const struct packer *packer, const struct piece *pieces, unsigned nb,
			       uint64_t cluster)
{
	unsigned bits = packer->image->cluster_bits;
	uint64_t n = 0;

	for (unsigned i = 0; i < nb; i++) {
		const struct piece *p = &pieces[i];

		if (p->len_bytes)
			n += p->host_off >> bits <= cluster &&
			     (p->host_off + p->len_bytes - 1) >> bits >= cluster;
	}
	return n;
}

/* Adds to the refcount of one cluster. The caller holds alloc_mutex. 0 or -errno. */
static int coroutine_fn add_references(struct writer *writer, uint64_t cluster, int64_t nb)
{
	uint64_t value;
	int ret = refcount_get(writer, cluster, &value);

	if (ret || !nb)
		return ret;
	return refcount_set_run(writer, cluster, 1, value + nb);
}

/*
 * Takes fresh host clusters for what lies behind `start` and raises refcounts (I1): from
 * 1 to the number of descriptors, and one more for the packer where it will go on.
 */
static int coroutine_fn raise_references(struct packer *packer, const struct piece *pieces,
					 unsigned nb_pieces, uint64_t start,
					 const struct place *end)
{
	struct writer *writer = packer->image->writer;
	unsigned bits = packer->image->cluster_bits;
	uint64_t size = cluster_size(packer->image);
	uint64_t last = (end->position - 1) >> bits;
	int ret = 0;

	co_mutex_lock(&writer->alloc_mutex);
	for (uint64_t c = start >> bits; c <= last && !ret; c++) {
		int64_t nb = count_touching(packer, pieces, nb_pieces, c);
		bool goes_on = c == last && end->position % size && packer->refs_max > 1;

		/* One is there: of a fresh cluster, or the packer's own of the first. */
		ret = add_references(writer, c, nb - 1 + goes_on);
	}
	co_mutex_unlock(&writer->alloc_mutex);
	return ret;
}

static int coroutine_fn place_at(struct packer *packer, struct piece *pieces, unsigned nb_pieces,
				 uint64_t start, uint64_t nb_here, bool *ret_placed)
{
	struct image *image = packer->image;
	struct place place = {.position = start, .nb_here = nb_here};
	uint64_t size = cluster_size(image), fresh = round_up(start, size), nb_fresh, nb, host_off;
	bool zero, reachable;
	int ret;

	*ret_placed = false;
	lay_out(packer, pieces, nb_pieces, &place);
	nb_fresh = (round_up(place.position, size) - fresh) / size;
	if (nb_fresh) {
		ret = alloc_clusters(image->writer, nb_fresh, nb_fresh, &host_off, &nb, &zero);
		if (ret)
			return ret;
		reachable =
			host_off + nb * size <= 1ull << compress_offset_bits(image->cluster_bits);
		if (!reachable || (start && host_off != fresh)) {
			alloc_undo(image->writer, host_off, nb);
			return reachable ? 0 : -EFBIG; /* not contiguous: begin anew elsewhere */
		}
		if (!start) {
			for (unsigned i = 0; i < nb_pieces; i++)
				pieces[i].host_off += host_off;
			start = host_off;
			place.position += host_off;
		}
	}
	ret = raise_references(packer, pieces, nb_pieces, start, &place);
	if (ret)
		return ret;
	packer->position = place.position % size && packer->refs_max > 1 ? place.position : 0;
	packer->nb_here = place.nb_here;
	*ret_placed = true;
	return 0;
}

/* Drops the packer's reference on the host cluster that it was filling. */
static void coroutine_fn let_go(struct packer *packer)
{
	struct writer *writer = packer->image->writer;
	uint64_t cluster = packer->position >> packer->image->cluster_bits, value;

	if (!packer->position)
		return;
	packer->position = 0;
	co_mutex_lock(&writer->alloc_mutex);
	if (!refcount_drop(writer, cluster, &value) && !value)
		alloc_remember_free(writer, cluster, 1);
	co_mutex_unlock(&writer->alloc_mutex);
}

/* How many pieces, from the first on, end in the host cluster that the packer is filling. */
static unsigned count_fitting(const struct packer *packer, const struct piece *pieces, unsigned nb)
{
	struct place place = {.position = packer->position, .nb_here = packer->nb_here};
	uint64_t end = round_up(packer->position, cluster_size(packer->image));
	unsigned i;

	for (i = 0; i < nb; i++) {
		struct piece piece = pieces[i];

		lay_out(packer, &piece, 1, &place);
		if (place.position > end)
			break;
	}
	return i;
}

/*
 * Places pieces from the first on, as many as lie in one run; *ret_nb tells how many. Where the
 * next host clusters are not contiguous, those that still fit fill the open one.
 */
static int coroutine_fn place_group(struct packer *packer, struct piece *pieces, unsigned nb,
				    unsigned *ret_nb)
{
	bool placed = false;
	unsigned nb_fitting;
	int ret = 0;

	*ret_nb = nb;
	if (packer->position) {
		ret = place_at(packer, pieces, nb, packer->position, packer->nb_here, &placed);
		if (ret || placed)
			return ret;
		nb_fitting = count_fitting(packer, pieces, nb);
		if (nb_fitting) {
			*ret_nb = nb_fitting;
			ret = place_at(packer, pieces, nb_fitting, packer->position,
				       packer->nb_here, &placed);
		}
		if (!ret)
			let_go(packer);
		if (nb_fitting)
			return ret;
	}
	return ret ? ret : place_at(packer, pieces, nb, 0, 0, &placed);
}

/*
 * Places all pieces. Host clusters are asked for in groups that are small beside what one
 * refcount block describes, because the blocks themselves lie in between. What has got no place
 * when it fails, has no length any more.
 */
static int coroutine_fn place_all(struct packer *packer, struct batch *batch)
{
	uint64_t max_bytes = cluster_size(packer->image)
			     << (packer->image->writer->refblock_bits - 2);
	unsigned first = 0;
	int ret = 0;

	co_mutex_lock(&packer->mutex);
	while (first < batch->nb && !ret) {
		uint64_t bytes = batch->pieces[first].len_bytes;
		unsigned end = first + 1, nb_placed;

		while (end < batch->nb && bytes + batch->pieces[end].len_bytes <= max_bytes)
			bytes += batch->pieces[end++].len_bytes;
		nb_placed = end - first;
		if (bytes)
			ret = place_group(packer, batch->pieces + first, end - first, &nb_placed);
		if (!ret)
			first += nb_placed;
	}
	co_mutex_unlock(&packer->mutex);
	for (; first < batch->nb; first++)
		batch->pieces[first].len_bytes = 0;
	return ret;
}

/* I12: the pieces from `first` on are pointed to by nothing. */
static void coroutine_fn give_back(struct packer *packer, const struct batch *batch, unsigned first)
{
	struct writer *writer = packer->image->writer;
	unsigned bits = packer->image->cluster_bits;

	co_mutex_lock(&writer->alloc_mutex);
	for (unsigned i = first; i < batch->nb; i++) {
		const struct piece *p = &batch->pieces[i];
		uint64_t c = p->host_off >> bits, value;

		for (; p->len_bytes && c <= (p->host_off + p->len_bytes - 1) >> bits; c++)
			if (!refcount_drop(writer, c, &value) && !value)
				alloc_remember_free(writer, c, 1);
	}
	co_mutex_unlock(&writer->alloc_mutex);
}

/* ---- writing and linking ---- */

/* Moves the results together; writes each contiguous run. */
static int coroutine_fn write_pieces(struct batch *batch)
{
	struct image *image = batch->packer->image;
	uint64_t run_off = 0, run_bytes = 0, out_bytes = 0;
	int ret = 0;

	for (unsigned i = 0; i <= batch->nb && !ret; i++) {
		const struct piece *p = i < batch->nb ? &batch->pieces[i] : NULL;

		if (p && !p->len_bytes)
			continue;
		if (run_bytes && (!p || p->host_off != run_off + run_bytes)) {
			ret = file_write(image->file, run_off, batch->out + out_bytes, run_bytes,
					 IO_TAG_DATA);
			out_bytes += run_bytes;
			run_bytes = 0;
		}
		if (!p)
			break;
		if (!run_bytes)
			run_off = p->host_off;
		memmove(batch->out + out_bytes + run_bytes,
			batch->out + (size_t)i * batch->cluster_bytes, p->len_bytes);
		run_bytes += p->len_bytes;
	}
	writer_note_write(image->writer);
	return ret;
}

static uint64_t make_descriptor(const struct image *image, const struct piece *piece)
{
	unsigned offset_bits = compress_offset_bits(image->cluster_bits);
	uint64_t last = piece->host_off + piece->len_bytes - 1;
	uint64_t sectors = (last >> 9) - (piece->host_off >> 9);

	return L2_COMPRESSED | sectors << offset_bits | piece->host_off;
}

/* Points the entries to the pieces; *ret_nb tells how many clusters were dealt with. */
static int coroutine_fn link_pieces(struct batch *batch, unsigned *ret_nb)
{
	struct image *image = batch->packer->image;
	struct writer *writer = image->writer;
	unsigned done = 0;
	int ret = 0;

	while (done < batch->nb && !ret) {
		uint64_t guest_off = batch->guest_off + done * (uint64_t)batch->cluster_bytes;
		struct l2_window window;
		uint64_t l2_off;
		unsigned i = 0;

		ret = table_make_writable(writer, guest_off, &l2_off);
		if (!ret)
			ret = table_open_window(writer, l2_off, guest_off, batch->nb - done,
						&window);
		if (ret)
			break;
		ret = run_list_reserve(&writer->unlinked, window.nb);
		for (; i < window.nb && !ret; i++) {
			const struct piece *piece = &batch->pieces[done + i];

			if (!piece->len_bytes)
				continue;
			table_unlink(writer, table_get_entry(writer, &window, i));
			table_set_entry(writer, &window, i,
					(struct l2_entry){.entry = make_descriptor(image, piece)});
		}
		table_close_window(writer, &window);
		done += i;
	}
	*ret_nb = done;
	return ret;
}

/* What does not compress is written as it is, run by run. */
static int coroutine_fn write_plain(struct batch *batch, size_t len_bytes)
{
	struct writer *writer = batch->packer->image->writer;
	int ret = 0;

	for (unsigned i = 0, n; i < batch->nb && !ret; i += n) {
		size_t start = (size_t)i * batch->cluster_bytes;
		bool plain = !batch->pieces[i].len_bytes;

		for (n = 1; i + n < batch->nb && !batch->pieces[i + n].len_bytes == plain; n++)
			;
		if (plain)
			ret = write_range(writer, batch->guest_off + start, batch->in + start,
					  min_u64(n * batch->cluster_bytes, len_bytes - start));
	}
	return ret;
}

static int coroutine_fn store_compressed(struct batch *batch)
{
	struct writer *writer = batch->packer->image->writer;
	struct range_hold hold;
	unsigned nb_linked = 0, nb_pieces = 0;
	int ret;

	for (unsigned i = 0; i < batch->nb; i++)
		nb_pieces += batch->pieces[i].len_bytes != 0;
	if (!nb_pieces)
		return 0;
	ret = place_all(batch->packer, batch);
	if (!ret)
		ret = write_pieces(batch);
	if (!ret) {
		range_lock(&writer->in_flight, &hold, batch->guest_off,
			   batch->nb * (uint64_t)batch->cluster_bytes, true); /* I8 */
		ret = link_pieces(batch, &nb_linked);                         /* I3 */
		range_unlock(&writer->in_flight, &hold);
	}
	if (ret)
		give_back(batch->packer, batch, nb_linked);
	return ret;
}

/* Memory for a batch. 0 or -ENOMEM; to be released with batch_finish() in either case. */
static int batch_init(struct batch *batch, struct packer *packer, uint64_t guest_off,
		      const void *buf, size_t len_bytes)
{
	size_t size = cluster_size(packer->image), rest = len_bytes % size;

	*batch = (struct batch){
		.packer = packer,
		.guest_off = guest_off,
		.cluster_bytes = size,
		.in = buf,
		.nb = div_up(len_bytes, size),
	};
	batch->pieces = calloc(batch->nb, sizeof(*batch->pieces));
	batch->out = buf_get(batch->nb * size);
	if (!batch->pieces || !batch->out)
		return -ENOMEM;
	if (!rest)
		return 0;
	batch->last = buf_get(size);
	if (!batch->last)
		return -ENOMEM;
	memcpy(batch->last, batch->in + len_bytes - rest, rest);
	memset(batch->last + rest, 0, size - rest);
	return 0;
}

static void batch_finish(struct batch *batch)
{
	buf_put(batch->last, batch->cluster_bytes);
	buf_put(batch->out, batch->nb * batch->cluster_bytes);
	free(batch->pieces);
}

/* ---- the public form ---- */

static int coroutine_fn check_range(const struct image *image, uint64_t guest_off, size_t len_bytes)
{
	uint64_t size = cluster_size(image), end;

	if (guest_off % size || !len_bytes || len_bytes > max_u64(PACKER_BYTES_MAX, size) ||
	    checked_add(guest_off, len_bytes, &end))
		return -EINVAL;
	if (end > image->virtual_size)
		return -ENOSPC;
	return end % size && end != image->virtual_size ? -EINVAL : 0;
}

int coroutine_fn packer_write(struct packer *packer, uint64_t guest_off, const void *buf,
			      size_t len_bytes)
{
	struct image *image = packer->image;
	struct io_record record;
	struct batch batch = {0};
	int ret;

	co_rwlock_rdlock(&image->resize_lock);
	ret = check_range(image, guest_off, len_bytes);
	if (!ret)
		ret = writer_begin_data(image->writer);
	if (!ret) {
		io_begin(image, &record);
		ret = batch_init(&batch, packer, guest_off, buf, len_bytes);
		if (!ret)
			ret = compress_all(&batch);
		if (!ret)
			ret = write_plain(&batch, len_bytes);
		if (!ret)
			ret = store_compressed(&batch);
		batch_finish(&batch);
		io_end(image, &record);
		image->stats.nb_writes++;
		image->stats.written_bytes += len_bytes;
	}
	co_rwlock_unlock(&image->resize_lock);
	return ret;
}

int packer_create(struct image *image, struct packer **ret_packer)
{
	unsigned bits = 1u << image->header.refcount_order;
	struct packer *packer;

	if (!image->writer)
		return -EROFS;
	if (image->data_file != image->file)
		return -EOPNOTSUPP;
	packer = calloc(1, sizeof(*packer));
	if (!packer)
		return -ENOMEM;
	packer->image = image;
	/* One is left for the packer itself, where a cluster can be shared at all. */
	packer->refs_max = bits == 1 ? 1 : bits == 64 ? UINT64_MAX - 1 : (1ull << bits) - 2;
	*ret_packer = packer;
	return 0;
}

void coroutine_fn packer_destroy(struct packer *packer)
{
	if (!packer)
		return;
	let_go(packer);
	encoder_free_all(&packer->idle);
	free(packer);
}
