/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fuzz_inflate: the input is compressed data, behind one byte: bits 0-3 choose the size of a
 * cluster, bit 4 zstd, bits 5-7 where in its sector the data begins. An image with one
 * compressed cluster holds it; what the core makes of it is what a plain decoder makes.
 */
#include "test/fuzz/reference.h"
#include "test/fuzz/world.h"

#include "core/format.h"
#include "core/image.h"

#include <stdlib.h>
#include <string.h>

#define CLUSTER_BITS_SMALLEST 9u
#define CLUSTER_BITS_NB 9u /* 512 bytes to 128 KiB */

struct trial {
	struct world *world;
	uint64_t cluster_bytes;
	uint8_t *ours;
	int res;
};

/* Header, L1 table and L2 table take a cluster each, the data follows. */
static uint8_t *build_image(unsigned cluster_bits, bool zstd, unsigned skip, const uint8_t *in,
			    size_t in_bytes, size_t *ret_size)
{
	uint64_t cluster = 1ull << cluster_bits, data_off = 4 * cluster + skip;
	uint64_t nb_sectors = (skip + in_bytes + 511) / 512;
	uint64_t nb_sectors_max = 1ull << (cluster_bits - 8);
	size_t size = data_off + in_bytes;
	uint8_t *image = calloc(1, size);
	struct qcow2_header header = {0};

	if (!image)
		broken("no memory");
	if (nb_sectors > nb_sectors_max)
		nb_sectors = nb_sectors_max;
	be32_put(&header.magic, QCOW2_MAGIC);
	be32_put(&header.version, 3);
	be32_put(&header.cluster_bits, cluster_bits);
	be64_put(&header.size, cluster);
	be32_put(&header.l1_size, 1);
	be64_put(&header.l1_table_offset, cluster);
	be64_put(&header.refcount_table_offset, 3 * cluster);
	be32_put(&header.refcount_table_clusters, 1);
	be64_put(&header.incompatible_features, zstd ? INCOMPAT_COMPRESSION : 0);
	be32_put(&header.refcount_order, 4);
	be32_put(&header.header_length, sizeof(header));
	header.compression_type = zstd ? COMPRESSION_ZSTD : COMPRESSION_ZLIB;
	memcpy(image, &header, sizeof(header));
	be64_put(image + cluster, 2 * cluster | ENTRY_COPIED);
	be64_put(image + 2 * cluster, L2_COMPRESSED | data_off |
					      (nb_sectors ? nb_sectors - 1 : 0)
						      << (62 - (cluster_bits - 8)));
	memcpy(image + data_off, in, in_bytes);
	*ret_size = size;
	return image;
}

static void coroutine_fn read_cluster(void *arg)
{
	struct trial *trial = arg;
	const struct image_options options = {0};
	struct image *image;

	if (image_open(&trial->world->disk->opener, WORLD_IMAGE, &options, &image, NULL))
		broken("the image around the data cannot be opened");
	trial->res = image_read(image, 0, trial->ours, trial->cluster_bytes, NULL);
	image_close(image);
}

/* The input as the core finds it: as many whole sectors as the descriptor can say, then zeros. */
static enum verdict inflate_plainly(bool zstd, unsigned skip, const uint8_t *in, size_t in_bytes,
				    uint8_t *out, size_t out_bytes)
{
	size_t room_bytes = (skip + in_bytes + 511) / 512 * 512 - skip;
	size_t limit = 2 * out_bytes - skip;
	enum verdict verdict;
	uint8_t *room;

	if (!in_bytes && !skip)
		room_bytes = 512;
	if (room_bytes > limit)
		room_bytes = limit;
	room = calloc(1, room_bytes);
	if (!room)
		broken("no memory");
	memcpy(room, in, in_bytes < room_bytes ? in_bytes : room_bytes);
	verdict = reference_inflate(zstd, room, room_bytes, out, out_bytes);
	free(room);
	return verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned control = size ? data[0] : 0;
	unsigned bits = CLUSTER_BITS_SMALLEST + (control & 15) % CLUSTER_BITS_NB;
	unsigned skip = (control >> 5) * 73;
	struct trial trial = {.world = world_get(), .cluster_bytes = 1ull << bits};
	bool zstd = control >> 4 & 1;
	size_t image_bytes;
	enum verdict verdict;
	uint8_t *image, *theirs;

	data += size > 0;
	size -= size > 0;
#ifdef NO_ZSTD
	zstd = false;
#endif
	image = build_image(bits, zstd, skip, data, size, &image_bytes);
	trial.ours = calloc(1, trial.cluster_bytes);
	theirs = calloc(1, trial.cluster_bytes);
	if (!trial.ours || !theirs)
		broken("no memory");
	world_put_image(trial.world, image, image_bytes);
	world_run(trial.world, read_cluster, &trial);
	verdict = inflate_plainly(zstd, skip, data, size, theirs, trial.cluster_bytes);
	if (trial.res == 0 && verdict == VERDICT_BAD)
		broken("data from a stream that holds none");
	if (trial.res == 0 && verdict == VERDICT_GOOD &&
	    memcmp(trial.ours, theirs, trial.cluster_bytes) != 0)
		broken("other data");
	world_clear(trial.world);
	free(image);
	free(trial.ours);
	free(theirs);
	return 0;
}
