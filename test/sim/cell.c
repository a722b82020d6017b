/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* cell: the matrix, and building and loading its images. See cell.h. */
#include "test/sim/cell.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CELLS_MAX 128u

static const char *const feature_names[] = {
	"v2",       "v3",   "extl2",   "lazy", "backing", "compressed",
	"snapshot", "data", "dataraw", "zstd", "grown",   "extl2c",
};

static struct cell cells[CELLS_MAX];
static unsigned nb_cells;
static char folder[512] = "build/sim-images";

static const char *why_illegal(uint32_t cluster_size, unsigned bits, enum cell_feature feature)
{
	if (feature == CELL_V2 && bits != 16)
		return "version 2 has 16-bit refcounts";
	if (feature == CELL_EXTENDED_L2 && cluster_size < 16384)
		return "extended L2 entries need 16 KiB clusters";
	if (feature == CELL_SNAPSHOT && bits == 1)
		return "a 1-bit refcount cannot count a shared cluster";
	return NULL;
}

static void add_cell(uint32_t cluster_size, unsigned bits, enum cell_feature feature)
{
	struct cell *cell = &cells[nb_cells++];
	char size[16];

	if (cluster_size < 1024)
		snprintf(size, sizeof(size), "c%u", cluster_size);
	else
		snprintf(size, sizeof(size), "c%uk", cluster_size / 1024);
	snprintf(cell->name, sizeof(cell->name), "%s-r%u-%s", size, bits, feature_names[feature]);
	cell->cluster_size = cluster_size;
	cell->refcount_bits = bits;
	cell->feature = feature;
	cell->illegal = why_illegal(cluster_size, bits, feature);
	cell->nb_clusters = cluster_size == 512     ? 128
			    : cluster_size == 4096  ? 24
			    : cluster_size == 16384 ? 12
						    : 8;
	if (feature == CELL_GROWN)
		cell->nb_clusters = 4096;
	/* With 512-byte clusters, 2 MiB is where the L1 table of one cluster ends. */
	cell->max_sectors = cluster_size == 512 ? 4608 : 2 * cell_nb_sectors(cell);
}

const struct cell *cell_list(unsigned *ret_nb)
{
	static const uint32_t sizes[] = {512, 4096, 16384, 65536};
	static const unsigned widths[] = {1, 8, 16, 64};

	if (nb_cells == 0) {
		for (unsigned f = 0; f < CELL_MATRIX_FEATURES; f++) {
			for (unsigned s = 0; s < 4; s++) {
				for (unsigned w = 0; w < 4; w++)
					add_cell(sizes[s], widths[w], f);
			}
		}
		add_cell(512, 16, CELL_DATA_FILE);
		add_cell(4096, 16, CELL_DATA_FILE);
		add_cell(512, 16, CELL_DATA_RAW);
		add_cell(65536, 16, CELL_DATA_RAW);
		add_cell(4096, 16, CELL_ZSTD);
		add_cell(65536, 1, CELL_ZSTD);
		add_cell(512, 64, CELL_GROWN);
		add_cell(16384, 16, CELL_EXTENDED_L2_COMPRESSED);
	}
	*ret_nb = nb_cells;
	return cells;
}

const struct cell *cell_find(const char *name)
{
	unsigned nb;
	const struct cell *list = cell_list(&nb);

	for (unsigned i = 0; i < nb; i++) {
		if (strcmp(list[i].name, name) == 0)
			return &list[i];
	}
	return NULL;
}

void cell_set_folder(const char *path)
{
	snprintf(folder, sizeof(folder), "%s", path);
}

/* ---- commands and files ---- */

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int run(const char *fmt, ...)
{
	char command[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	return system(command) == 0 ? 0 : -EIO;
}

static int save_file(const char *path, const void *data, uint64_t size)
{
	FILE *out = fopen(path, "wb");
	bool ok;

	if (!out)
		return -errno;
	ok = fwrite(data, 1, size, out) == size;
	return fclose(out) == 0 && ok ? 0 : -EIO;
}

static int load_file(const char *path, struct sim_bytes *bytes)
{
	FILE *in = fopen(path, "rb");
	struct stat st;
	bool ok;

	if (!in)
		return -errno;
	if (fstat(fileno(in), &st) < 0) {
		fclose(in);
		return -EIO;
	}
	sim_bytes_resize(bytes, (uint64_t)st.st_size);
	ok = fread(bytes->data, 1, bytes->size, in) == bytes->size;
	fclose(in);
	return ok ? 0 : -EIO;
}

/* ---- building ---- */

/* What the guest sees in `sector`, and whether the image itself holds it. */
static content_t initial_content(const struct cell *cell, unsigned sector)
{
	unsigned per_cluster = cell->cluster_size / SIM_SECTOR;
	unsigned cluster = sector / per_cluster, nb_sectors = cell_nb_sectors(cell);
	bool own = cluster < 2 || cluster == cell->nb_clusters - 1;

	if (sector >= nb_sectors)
		return CONTENT_ZERO;
	if (cell->feature == CELL_GROWN)
		own = cluster < 3900;
	else if (cluster == 2)
		own = cell->feature == CELL_V2;
	/* Of cluster 1, extended L2 holds the first quarter alone. */
	if (cell->feature == CELL_EXTENDED_L2 && cluster == 1)
		own = sector % per_cluster < per_cluster / 4;
	if (own)
		return (content_t)CONTENT_ID_IMAGE << 32;
	if (cell->feature == CELL_BACKING && cluster != 2 &&
	    sector < nb_sectors - per_cluster - (per_cluster + 1) / 2)
		return (content_t)CONTENT_ID_BACKING << 32;
	return CONTENT_ZERO;
}

static int make_payload_file(const struct cell *cell, const char *path, uint32_t id)
{
	unsigned nb = cell_nb_sectors(cell);
	uint8_t *data = malloc((size_t)nb * SIM_SECTOR);
	int err;

	if (!data)
		return -ENOMEM;
	if (id == CONTENT_ID_BACKING)
		nb -= cell->cluster_size / SIM_SECTOR + (cell->cluster_size / SIM_SECTOR + 1) / 2;
	for (unsigned i = 0; i < nb; i++)
		payload_fill(data + (size_t)i * SIM_SECTOR, i, (content_t)id << 32);
	err = save_file(path, data, (uint64_t)nb * SIM_SECTOR);
	free(data);
	return err;
}

static int create_image(const struct cell *cell, const char *dir)
{
	char options[256];
	int n = snprintf(options, sizeof(options), "compat=%s,cluster_size=%u",
			 cell->feature == CELL_V2 ? "0.10" : "1.1", cell->cluster_size);

	if (cell->feature != CELL_V2 || cell->refcount_bits != 16)
		n += snprintf(options + n, sizeof(options) - (size_t)n, ",refcount_bits=%u",
			      cell->refcount_bits);
	switch (cell->feature) {
	case CELL_EXTENDED_L2:
	case CELL_EXTENDED_L2_COMPRESSED:
		strcat(options, ",extended_l2=on");
		break;
	case CELL_LAZY:
		strcat(options, ",lazy_refcounts=on");
		break;
	case CELL_ZSTD:
		strcat(options, ",compression_type=zstd");
		break;
	case CELL_DATA_FILE:
		strcat(options, ",data_file=" CELL_DATA_NAME);
		break;
	case CELL_DATA_RAW:
		strcat(options, ",data_file=" CELL_DATA_NAME ",data_file_raw=on");
		break;
	default:
		break;
	}
	return run("cd '%s' && qemu-img create -q -f qcow2 -o %s %s " CELL_IMAGE_NAME
		   " %llu >/dev/null 2>&1",
		   dir, options,
		   cell->feature == CELL_BACKING ? "-b " CELL_BASE_NAME " -F raw -u" : "",
		   (unsigned long long)cell->nb_clusters * cell->cluster_size);
}

static bool is_compressed(const struct cell *cell)
{
	return cell->feature == CELL_COMPRESSED || cell->feature == CELL_ZSTD ||
	       cell->feature == CELL_EXTENDED_L2_COMPRESSED;
}

static int fill_image(const struct cell *cell, const char *dir)
{
	const char *how = is_compressed(cell) ? "-c" : "";
	unsigned cs = cell->cluster_size;
	char commands[1024];
	int n = 0;

	/* One qemu-io command per cluster: -s takes the bytes from the start of a file. */
	for (unsigned i = 0; i < 3; i++) {
		unsigned cluster = i < 2 ? i : cell->nb_clusters - 1;
		unsigned len = cell->feature == CELL_EXTENDED_L2 && cluster == 1 ? cs / 4 : cs;

		if (cell->feature == CELL_GROWN)
			len = i == 0 ? 3900 * cs : cs;
		if (cell->feature == CELL_GROWN && i > 0)
			break;
		n += snprintf(commands + n, sizeof(commands) - (size_t)n,
			      " -c 'write -q %s -s part%u %llu %u'", how, i,
			      (unsigned long long)cluster * cs, len);
		if (run("cd '%s' && dd if=payload of=part%u bs=%u skip=%u count=%u 2>/dev/null",
			dir, i, cs, cluster, (len + cs - 1) / cs))
			return -EIO;
	}
	if (cell->feature == CELL_V2) {
		snprintf(commands + n, sizeof(commands) - (size_t)n,
			 " -c 'write -q -s part3 %u %u'", 2 * cs, cs);
		if (run("cd '%s' && dd if=payload of=part3 bs=%u skip=2 count=1 2>/dev/null", dir,
			cs))
			return -EIO;
	} else if (cell->feature != CELL_GROWN) {
		snprintf(commands + n, sizeof(commands) - (size_t)n, " -c 'write -q -z %u %u'",
			 2 * cs, cs);
	}
	return run("cd '%s' && qemu-io -f qcow2 %s " CELL_IMAGE_NAME " >/dev/null 2>&1", dir,
		   commands);
}

static int build(const struct cell *cell, const char *dir)
{
	char path[1024];
	int err;

	if (run("mkdir -p '%s'", dir))
		return -EIO;
	snprintf(path, sizeof(path), "%s/" CELL_BASE_NAME, dir);
	if (cell->feature == CELL_BACKING) {
		err = make_payload_file(cell, path, CONTENT_ID_BACKING);
		if (err)
			return err;
	}
	snprintf(path, sizeof(path), "%s/payload", dir);
	err = make_payload_file(cell, path, CONTENT_ID_IMAGE);
	if (!err)
		err = create_image(cell, dir);
	if (!err)
		err = fill_image(cell, dir);
	if (!err && cell->feature == CELL_SNAPSHOT)
		err = run("cd '%s' && qemu-img snapshot -c one " CELL_IMAGE_NAME " >/dev/null 2>&1",
			  dir);
	if (!err)
		err = run("cd '%s' && rm -f part? payload && touch done", dir);
	return err;
}

/* Several processes may want the same image: the first one's stays. */
static int build_aside(const struct cell *cell, const char *dir)
{
	char aside[1100];
	int err;

	snprintf(aside, sizeof(aside), "%s.%d", dir, (int)getpid());
	err = build(cell, aside);
	if (!err && rename(aside, dir) != 0 && errno != EEXIST && errno != ENOTEMPTY)
		err = -errno;
	run("rm -rf '%s'", aside);
	return err;
}

bool cell_is_refused(const struct cell *cell)
{
	char dir[1024];
	int err;

	snprintf(dir, sizeof(dir), "%s/%s.refused", folder, cell->name);
	err = build(cell, dir);
	run("rm -rf '%s'", dir);
	return err != 0;
}

/* ---- loading ---- */

int cell_load(const struct cell *cell, struct cell_image *ret_image)
{
	char dir[1024], path[1100];
	int err;

	*ret_image = (struct cell_image){.cell = cell};
	snprintf(dir, sizeof(dir), "%s/%s", folder, cell->name);
	snprintf(path, sizeof(path), "%s/done", dir);
	if (access(path, F_OK) != 0) {
		err = build_aside(cell, dir);
		if (err)
			return err;
	}
	snprintf(path, sizeof(path), "%s/" CELL_IMAGE_NAME, dir);
	err = load_file(path, &ret_image->image);
	if (!err && cell->feature == CELL_BACKING) {
		snprintf(path, sizeof(path), "%s/" CELL_BASE_NAME, dir);
		err = load_file(path, &ret_image->base);
	}
	if (!err && (cell->feature == CELL_DATA_FILE || cell->feature == CELL_DATA_RAW)) {
		snprintf(path, sizeof(path), "%s/" CELL_DATA_NAME, dir);
		err = load_file(path, &ret_image->data);
	}
	ret_image->initial = calloc(cell->max_sectors, sizeof(content_t));
	for (unsigned i = 0; i < cell->max_sectors && ret_image->initial; i++)
		ret_image->initial[i] = initial_content(cell, i);
	return err;
}

void cell_unload(struct cell_image *image)
{
	sim_bytes_free(&image->image);
	sim_bytes_free(&image->base);
	sim_bytes_free(&image->data);
	free(image->initial);
	*image = (struct cell_image){0};
}

void cell_install(const struct cell_image *image, struct sim_disk *disk, struct model *model)
{
	const struct cell *cell = image->cell;

	sim_add_file(disk, CELL_IMAGE_NAME, image->image.data, image->image.size, false);
	if (cell->feature == CELL_BACKING)
		sim_add_file(disk, CELL_BASE_NAME, image->base.data, image->base.size, true);
	if (cell->feature == CELL_DATA_FILE || cell->feature == CELL_DATA_RAW)
		sim_add_file(disk, CELL_DATA_NAME, image->data.data, image->data.size, false);
	model_init(model, cell_nb_sectors(cell), cell->max_sectors);
	for (unsigned i = 0; i < cell->max_sectors; i++)
		model_set_initial(model, i, image->initial[i]);
}

int cell_dump(const struct sim_disk *disk, const char *dir)
{
	char path[1100];
	int err = run("mkdir -p '%s'", dir);

	for (unsigned i = 0; i < disk->nb_files && !err; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, disk->files[i].name);
		err = save_file(path, disk->files[i].bytes.data, disk->files[i].bytes.size);
	}
	return err;
}
