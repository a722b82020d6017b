/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * compress_place: see compress_place.h.
 */
#include "core/compress_place.h"

#include "core/alloc.h"
#include "core/compress.h"
#include "core/refcount.h"

#include <errno.h>

void placer_init(struct placer *placer, struct image *image)
{
	unsigned bits = 1u << image->header.refcount_order;

	*placer = (struct placer){.image = image};
	/* One is left for the placer itself, where a cluster can be shared at all. */
	placer->refs_max = bits == 1 ? 1 : bits == 64 ? UINT64_MAX - 1 : (1ull << bits) - 2;
}

/* Descriptors go on at `position` of a host cluster that holds nb_here. */
struct place {
	uint64_t position, nb_here;
};

/*
 * Gives each piece a place from `place` on, relative to nothing: 0 is the start of a cluster.
 * *place gets the end.
 */
static void lay_out(const struct placer *placer, struct piece *pieces, unsigned nb,
		    struct place *place)
{
	uint64_t size = cluster_size(placer->image);

	for (unsigned i = 0; i < nb; i++) {
		uint64_t end;

		if (!pieces[i].len_bytes)
			continue;
		if (place->position % size && place->nb_here >= placer->refs_max)
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
static uint64_t count_touching(const struct placer *placer, const struct piece *pieces, unsigned nb,
			       uint64_t cluster)
{
	unsigned bits = placer->image->cluster_bits;
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
 * 1 to the number of descriptors, and one more for the placer where it will go on.
 */
static int coroutine_fn raise_references(struct placer *placer, const struct piece *pieces,
					 unsigned nb_pieces, uint64_t start,
					 const struct place *end)
{
	struct writer *writer = placer->image->writer;
	unsigned bits = placer->image->cluster_bits;
	uint64_t size = cluster_size(placer->image);
	uint64_t last = (end->position - 1) >> bits;
	int ret = 0;

	co_mutex_lock(&writer->alloc_mutex);
	for (uint64_t c = start >> bits; c <= last && !ret; c++) {
		int64_t nb = count_touching(placer, pieces, nb_pieces, c);
		bool goes_on = c == last && end->position % size && placer->refs_max > 1;

		/* One is there: of a fresh cluster, or the placer's own of the first. */
		ret = add_references(writer, c, nb - 1 + goes_on);
	}
	co_mutex_unlock(&writer->alloc_mutex);
	return ret;
}

static int coroutine_fn place_at(struct placer *placer, struct piece *pieces, unsigned nb_pieces,
				 uint64_t start, uint64_t nb_here, bool *ret_placed)
{
	struct image *image = placer->image;
	struct place place = {.position = start, .nb_here = nb_here};
	uint64_t size = cluster_size(image), fresh = round_up(start, size), nb_fresh, nb, host_off;
	bool zero, reachable;
	int ret;

	*ret_placed = false;
	lay_out(placer, pieces, nb_pieces, &place);
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
	ret = raise_references(placer, pieces, nb_pieces, start, &place);
	if (ret)
		return ret;
	placer->position = place.position % size && placer->refs_max > 1 ? place.position : 0;
	placer->nb_here = place.nb_here;
	*ret_placed = true;
	return 0;
}

void coroutine_fn placer_let_go(struct placer *placer)
{
	struct writer *writer = placer->image->writer;
	uint64_t cluster = placer->position >> placer->image->cluster_bits, value;

	if (!placer->position)
		return;
	placer->position = 0;
	co_mutex_lock(&writer->alloc_mutex);
	if (!refcount_drop(writer, cluster, &value) && !value)
		alloc_remember_free(writer, cluster, 1);
	co_mutex_unlock(&writer->alloc_mutex);
}

/* How many pieces, from the first on, end in the host cluster that is being filled. */
static unsigned count_fitting(const struct placer *placer, const struct piece *pieces, unsigned nb)
{
	struct place place = {.position = placer->position, .nb_here = placer->nb_here};
	uint64_t end = round_up(placer->position, cluster_size(placer->image));
	unsigned i;

	for (i = 0; i < nb; i++) {
		struct piece piece = pieces[i];

		lay_out(placer, &piece, 1, &place);
		if (place.position > end)
			break;
	}
	return i;
}

/*
 * Places pieces from the first on, as many as lie in one run; *ret_nb tells how many. Where the
 * next host clusters are not contiguous, those that still fit fill the open one.
 */
static int coroutine_fn place_group(struct placer *placer, struct piece *pieces, unsigned nb,
				    unsigned *ret_nb)
{
	bool placed = false;
	unsigned nb_fitting;
	int ret = 0;

	*ret_nb = nb;
	if (placer->position) {
		ret = place_at(placer, pieces, nb, placer->position, placer->nb_here, &placed);
		if (ret || placed)
			return ret;
		nb_fitting = count_fitting(placer, pieces, nb);
		if (nb_fitting) {
			*ret_nb = nb_fitting;
			ret = place_at(placer, pieces, nb_fitting, placer->position,
				       placer->nb_here, &placed);
		}
		if (!ret)
			placer_let_go(placer);
		if (nb_fitting)
			return ret;
	}
	return ret ? ret : place_at(placer, pieces, nb, 0, 0, &placed);
}

/*
 * Host clusters are asked for in groups that are small beside what one refcount block describes,
 * because the blocks themselves lie in between.
 */
int coroutine_fn placer_place(struct placer *placer, struct piece *pieces, unsigned nb)
{
	uint64_t max_bytes = cluster_size(placer->image)
			     << (placer->image->writer->refblock_bits - 2);
	unsigned first = 0;
	int ret = 0;

	co_mutex_lock(&placer->mutex);
	while (first < nb && !ret) {
		uint64_t bytes = pieces[first].len_bytes;
		unsigned end = first + 1, nb_placed;

		while (end < nb && bytes + pieces[end].len_bytes <= max_bytes)
			bytes += pieces[end++].len_bytes;
		nb_placed = end - first;
		if (bytes)
			ret = place_group(placer, pieces + first, end - first, &nb_placed);
		if (!ret)
			first += nb_placed;
	}
	co_mutex_unlock(&placer->mutex);
	for (; first < nb; first++)
		pieces[first].len_bytes = 0;
	return ret;
}

/* I12 */
void coroutine_fn placer_give_back(struct placer *placer, const struct piece *pieces, unsigned nb)
{
	struct writer *writer = placer->image->writer;
	unsigned bits = placer->image->cluster_bits;

	co_mutex_lock(&writer->alloc_mutex);
	for (unsigned i = 0; i < nb; i++) {
		const struct piece *p = &pieces[i];
		uint64_t c = p->host_off >> bits, value;

		for (; p->len_bytes && c <= (p->host_off + p->len_bytes - 1) >> bits; c++)
			if (!refcount_drop(writer, c, &value) && !value)
				alloc_remember_free(writer, c, 1);
	}
	co_mutex_unlock(&writer->alloc_mutex);
}
