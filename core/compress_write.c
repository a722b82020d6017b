/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * compress_write: see compress_write.h.
 *
 * One call: compress all its clusters on the workers (a few lanes, each takes the next
 * cluster that nobody has), give the results places (compress_place), write them in one
 * piece, then change the L2 entries (I3).
 */
#include "core/compress_write.h"

#include "core/compress.h"
#include "core/compress_place.h"
#include "core/encoder.h"
#include "core/table.h"
#include "core/write.h"
#include "io/buf.h"

#include <errno.h>
#include <stdlib.h>

#define LANES_MAX 4u

struct packer {
	struct image *image;
	struct encoder *idle;
	struct placer placer;
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
	ret = placer_place(&batch->packer->placer, batch->pieces, batch->nb);
	if (!ret)
		ret = write_pieces(batch);
	if (!ret) {
		range_lock(&writer->in_flight, &hold, batch->guest_off,
			   batch->nb * (uint64_t)batch->cluster_bytes, true); /* I8 */
		ret = link_pieces(batch, &nb_linked);                         /* I3 */
		range_unlock(&writer->in_flight, &hold);
	}
	if (ret)
		placer_give_back(&batch->packer->placer, batch->pieces + nb_linked,
				 batch->nb - nb_linked);
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

static int coroutine_fn pack(struct packer *packer, uint64_t guest_off, const void *buf,
			     size_t len_bytes)
{
	struct io_record record;
	struct batch batch;
	int ret;

	io_begin(packer->image, &record);
	ret = batch_init(&batch, packer, guest_off, buf, len_bytes);
	if (!ret)
		ret = compress_all(&batch);
	if (!ret)
		ret = write_plain(&batch, len_bytes);
	if (!ret)
		ret = store_compressed(&batch);
	batch_finish(&batch);
	io_end(packer->image, &record);
	return ret;
}

int coroutine_fn packer_write(struct packer *packer, uint64_t guest_off, const void *buf,
			      size_t len_bytes)
{
	struct image *image = packer->image;
	bool tried = false;
	int ret;

	co_rwlock_rdlock(&image->resize_lock);
	ret = check_range(image, guest_off, len_bytes);
	if (!ret)
		ret = writer_begin_data(image->writer);
	if (!ret) {
		do
			ret = pack(packer, guest_off, buf, len_bytes);
		while (writer_make_room(image->writer, ret, &tried));
		image->stats.nb_writes++;
		image->stats.written_bytes += len_bytes;
	}
	co_rwlock_unlock(&image->resize_lock);
	return ret;
}

int packer_create(struct image *image, struct packer **ret_packer)
{
	struct packer *packer;

	if (!image->writer)
		return -EROFS;
	if (has_data_file(image))
		return -EOPNOTSUPP;
	packer = calloc(1, sizeof(*packer));
	if (!packer)
		return -ENOMEM;
	packer->image = image;
	placer_init(&packer->placer, image);
	*ret_packer = packer;
	return 0;
}

void coroutine_fn packer_destroy(struct packer *packer)
{
	if (!packer)
		return;
	placer_let_go(&packer->placer);
	encoder_free_all(&packer->idle);
	free(packer);
}
