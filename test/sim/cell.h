/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cell: the matrix of image kinds that everything is tried on.
 *
 * Axes: cluster size × refcount width × feature. Legal combinations get an image,
 * made by qemu-img and qemu-io (so that the reader's and the writer's idea of the
 * format is not its own judge), kept in a folder and loaded from there. Illegal ones
 * have a reason, and are shown to be refused. A few cells beside the matrix cover
 * external data files, zstd, an image just below the growth of its refcount table, and
 * compressed clusters where entries have subclusters.
 *
 * Clusters of every image: 0, 1 and the last hold payloads (of the kind that the
 * feature says), 2 is a zero cluster (v2: payloads), the others are unallocated, or
 * backed where there is a backing file. That one is shorter than its overlay.
 */
#ifndef QCOW2FS_TEST_SIM_CELL_H
#define QCOW2FS_TEST_SIM_CELL_H

#include "test/sim/model.h"

enum cell_feature {
	CELL_V2,
	CELL_V3,
	CELL_EXTENDED_L2,
	CELL_LAZY,
	CELL_BACKING,
	CELL_COMPRESSED,
	CELL_SNAPSHOT,
	CELL_MATRIX_FEATURES,
	/* beside the matrix */
	CELL_DATA_FILE = CELL_MATRIX_FEATURES,
	CELL_DATA_RAW,
	CELL_ZSTD,
	CELL_GROWN,
	CELL_EXTENDED_L2_COMPRESSED,
};

struct cell {
	char name[32]; /* "c512-r16-v3" */
	uint32_t cluster_size;
	unsigned refcount_bits;
	enum cell_feature feature;
	const char *illegal;  /* why, or NULL */
	unsigned nb_clusters; /* of the virtual disk */
	unsigned max_sectors; /* it may be grown to that */
};

/* All cells, matrix first. */
const struct cell *cell_list(unsigned *ret_nb);
const struct cell *cell_find(const char *name);
static inline unsigned cell_nb_sectors(const struct cell *cell)
{
	return (unsigned)((uint64_t)cell->nb_clusters * cell->cluster_size / SIM_SECTOR);
}
static inline bool cell_has_snapshot(const struct cell *cell)
{
	return cell->feature == CELL_SNAPSHOT;
}

#define CELL_IMAGE_NAME "image.qcow2"
#define CELL_BASE_NAME "base.img"
#define CELL_DATA_NAME "data.img"

/* The files of a cell and what they mean. */
struct cell_image {
	const struct cell *cell;
	struct sim_bytes image, base, data; /* base and data: empty where there is none */
	content_t *initial;                 /* of each sector, max_sectors of them */
};

/* Folder below which images are kept; made if missing. */
void cell_set_folder(const char *path);
/* Loads a cell's image, making it first where needed. 0 or -errno. */
int cell_load(const struct cell *cell, struct cell_image *ret_image);
void cell_unload(struct cell_image *image);
/* Puts the files on the disk, which must be empty, and the contents into the model. */
void cell_install(const struct cell_image *image, struct sim_disk *disk, struct model *model);

/* Shows that qemu-img refuses an illegal cell too: true when it did. */
bool cell_is_refused(const struct cell *cell);

/* Writes the disk's files into `folder`. 0 or -errno. */
int cell_dump(const struct sim_disk *disk, const char *folder);

#endif
