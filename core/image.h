/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * image: the public interface of the core: a qcow2 image with its backing chain,
 * seen as one flat disk of virtual_size bytes.
 *
 * Thread model: everything marked coroutine_fn runs in a coroutine of the reactor
 * that the image's files were opened for. Plain functions that read constant facts
 * (image_info()) may be called from any thread after image_open() returned, and so may
 * what is marked [any thread]; the others belong to the reactor's thread.
 */
#ifndef QCOW2FS_CORE_IMAGE_H
#define QCOW2FS_CORE_IMAGE_H

#include "io/error.h"
#include "io/opener.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct image;

struct image_options {
	bool writable;        /* open for writing; fails with -EACCES/-EROFS where not allowed */
	bool force_share;     /* read beside a writer; excludes writable */
	const char *snapshot; /* id or name: that state, read-only; NULL: the active state */
	const char *backing_file; /* path instead of the name in the image (of the top layer) */
	const char *data_file;    /* likewise for the external data file */
	uint64_t l2_cache_bytes;  /* 0: what covers the image, up to 128 MiB */
	bool no_backing;          /* open the top layer alone (tools) */
	bool raw;                 /* not qcow2: the file's bytes are the disk's; read-only */
};

/*
 * Opens the image at `path` and its chain: locks, validates every bound, reads the
 * header. Writes nothing, except that a writable open of an image marked dirty
 * rebuilds its refcounts. Returns 0 or -errno with *reterr set.
 */
int coroutine_fn image_open(struct opener *opener, const char *path,
			    const struct image_options *options, struct image **ret_image,
			    struct error **reterr);

/*
 * Opens the file that is below `above`, an image that was opened without its backing file, as an
 * image of its own, and by the same rules as in a chain. Of the options only writable,
 * force_share, no_backing, l2_cache_bytes and backing_file (instead of the name in `above`)
 * count. A raw file to be written becomes *ret_raw, the caller's; where there is no backing file
 * both are NULL. 0 or -errno.
 */
int coroutine_fn image_open_below(struct opener *opener, struct image *above,
				  const struct image_options *options, struct image **ret_image,
				  struct file **ret_raw, struct error **reterr);

/*
 * Opens the qcow2 image in `file`, writable and locked already, above `base`, whatever backing
 * file it names: an image that is open read-only, of a snapshot too. Both belong to the new
 * image; after a failure `file` is closed, and `base` is still the caller's.
 */
int coroutine_fn image_open_overlay(struct opener *opener, struct file *file, struct image *base,
				    uint64_t l2_cache_bytes, struct image **ret_image,
				    struct error **reterr);

/*
 * Waits for requests under way, writes back, flushes, drops the locks and frees.
 * Returns 0 or -errno of the last write-back; the image is gone in either case.
 */
int coroutine_fn image_close(struct image *image);

/* Constant facts, valid until image_close(). virtual_size moves with image_resize() alone. */
struct image_info {
	const char *path;
	uint64_t virtual_size;
	uint32_t cluster_size;
	uint32_t block_size; /* direct-I/O alignment, the largest over the files of the chain */
	unsigned version;    /* 2 or 3 */
	unsigned refcount_bits;
	bool extended_l2, zstd, lazy_refcounts;
	bool writable;
	bool rebuilt;   /* was marked dirty: opening it for writing has rebuilt its refcounts */
	unsigned depth; /* files in the chain, this one included */
	const char *backing_name;   /* as recorded in the image, or NULL */
	const char *backing_format; /* likewise */
	const char *data_name;      /* external data file as recorded, or NULL */
};
const struct image_info *image_info(const struct image *image);

/* The next layer, NULL at the end of the chain or where it is a raw file. */
const struct image *image_backing(const struct image *image);

/* Host file of a layer (0 = the image itself, then each backing file), NULL beyond
 * the chain's end; its external data file or NULL. */
const struct file *image_file(const struct image *image, unsigned layer);
const struct file *image_data_file(const struct image *image, unsigned layer);

/* ---- reading ---- */

/*
 * What a read found: consecutive pieces of the range; iov_base NULL stands for
 * zeros (answer it from a zero page). The others point into the caller's buffer.
 */
#define READ_PIECES_MAX 64
struct read_pieces {
	unsigned nb;
	struct iovec iov[READ_PIECES_MAX];
};

/*
 * Reads [guest_off, guest_off + len_bytes) which lies inside the disk into `buf`
 * (any alignment; aligned to block_size is fastest). With `pieces`, zero ranges are
 * reported there and their part of buf is left undefined; without, they are written
 * to buf. Any number of reads may run at once. 0 or -errno.
 */
int coroutine_fn image_read(struct image *image, uint64_t guest_off, void *buf, size_t len_bytes,
			    struct read_pieces *pieces);

/*
 * The same, but where all of it is one run of data, which a thread of ours reads, `sequel` gets it
 * on that thread, before this returns; sequel->ran tells. Then buf is undefined.
 */
int coroutine_fn image_read_then(struct image *image, uint64_t guest_off, void *buf,
				 size_t len_bytes, struct read_pieces *pieces,
				 struct io_sequel *sequel);

/*
 * Prepares for the next three: reads remember where they find clusters, and those around them.
 * False: none of the files answers at once, or there is no memory for it. Nobody else may have the
 * image open for writing (force_share). [before the first read]
 */
bool image_publish(struct image *image);
/*
 * The same as image_read(), beside the reactor and without waiting, where an earlier read has found
 * the cluster, or one near it, and its host file answers at once. False: so it is not, or the
 * mapping has just changed; buf is undefined then, and image_read() knows. The image stays open
 * meanwhile, and the range lay inside the disk when its size was looked at. [any thread]
 */
bool image_read_beside(struct image *image, uint64_t guest_off, void *buf, size_t len_bytes);
/* The same on the reactor's thread. It does not yield. [reactor] */
bool image_read_at_once(struct image *image, uint64_t guest_off, void *buf, size_t len_bytes);
/* Is it known where the cluster is, so that they may succeed? [any thread] */
bool image_fits_beside(const struct image *image, uint64_t guest_off, size_t len_bytes);

enum map_kind {
	MAP_HOLE,       /* no layer has it: reads as zeros */
	MAP_ZERO,       /* a zero cluster */
	MAP_DATA,       /* uncompressed data */
	MAP_COMPRESSED, /* compressed data */
};
struct map_extent {
	uint64_t guest_off, len_bytes;
	enum map_kind kind;
	unsigned depth; /* 0: the image itself (for MAP_HOLE: the deepest layer looked at) */
	bool has_host_off;
	uint64_t host_off; /* in the file of that layer (data file when external) */
	bool beyond_end;   /* MAP_HOLE: that layer is a backing file that ends before */
	bool host_hole;    /* MAP_DATA: zeros, for the host file has a hole there (preallocation) */
};
/*
 * The extent at guest_off through the whole chain, at most max_bytes long; longer
 * runs may take several calls. guest_off < virtual_size. 0 or -errno.
 */
int coroutine_fn image_map(struct image *image, uint64_t guest_off, uint64_t max_bytes,
			   struct map_extent *ret_extent);

/*
 * SEEK_DATA / SEEK_HOLE as lseek(2) defines them, in a disk that ends at end_off (or earlier): 0
 * with *ret_off, -ENXIO, or -errno.
 */
int coroutine_fn image_seek(struct image *image, uint64_t guest_off, uint64_t end_off, bool data,
			    uint64_t *ret_off);

/* ---- writing (image_info()->writable) ---- */

/* Writes inside the disk; -ENOSPC past its end (callers clamp nothing). 0 or -errno. */
int coroutine_fn image_write(struct image *image, uint64_t guest_off, const void *buf,
			     size_t len_bytes);
/* The range reads as zeros afterwards. With keep_space its host clusters stay reserved. */
int coroutine_fn image_zero(struct image *image, uint64_t guest_off, uint64_t len_bytes,
			    bool keep_space);
/* Gives clusters back; the range reads as zeros afterwards (partial clusters are zeroed). */
int coroutine_fn image_discard(struct image *image, uint64_t guest_off, uint64_t len_bytes);
/* Makes sure that the range has host clusters of its own; contents unchanged. */
int coroutine_fn image_allocate(struct image *image, uint64_t guest_off, uint64_t len_bytes);
/* Sets the virtual size (rounded up to 512). Shrinking discards what is cut off. */
int coroutine_fn image_resize(struct image *image, uint64_t virtual_size);
/* Everything that completed before is durable afterwards (rule I10). 0 or -errno; sticky after a
 * failed fdatasync. */
int coroutine_fn image_flush(struct image *image);

/* ---- internal snapshots ---- */
struct image_snapshot {
	const char *id, *name;
	uint64_t virtual_size;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	uint64_t vm_state_bytes;
};
unsigned image_nb_snapshots(const struct image *image);
void image_get_snapshot(const struct image *image, unsigned index, struct image_snapshot *ret);

/* ---- observing ---- */
struct image_stats {
	uint64_t nb_reads, nb_writes, nb_flushes, nb_discards;
	uint64_t nb_reads_beside; /* among the reads */
	uint64_t read_bytes, written_bytes;
	uint64_t l2_hits, l2_misses; /* hits: also reads of published places */
	uint64_t refcount_hits, refcount_misses;
	uint64_t nb_inflated, nb_inflate_hits;
	uint64_t nb_allocated_clusters, nb_freed_clusters;
	uint64_t metadata_bytes; /* cached now */
};
void image_get_stats(const struct image *image, struct image_stats *ret_stats);

/*
 * Gives memory back that holds clean metadata and decompressed clusters, of all layers; what is
 * needed again is read again. Between coroutines or in one.
 */
void image_trim(struct image *image);

/* Estimate of allocated bytes in 512-byte units over the chain, for st_blocks. [any thread] */
uint64_t image_host_sectors(const struct image *image);

#endif
