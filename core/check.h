/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check: is an image sound, and can it be made so again?
 *
 * This is a second, independent reading of the format. It shares no code with
 * the reader and the writer (only core/format.h), because it is their judge: the
 * crash states of the simulated disk, the damaged images of the tests and the
 * images of users all pass through it. It counts what `qemu-img check` counts,
 * finding by finding, and looks for one thing more: metadata that somebody else
 * uses too although the refcounts agree with that.
 *
 * Bounds: memory and time follow the size of the file, never a number that
 * stands in it. An offset beyond the end of the file costs nothing and counts as
 * a corruption. Every L2 table is read once, however many L1 tables name it.
 *
 * Thread model: a coroutine of the file's reactor. Nobody else may use the image
 * meanwhile; a repair needs a writable file.
 */
#ifndef QCOW2FS_CORE_CHECK_H
#define QCOW2FS_CORE_CHECK_H

#include "io/error.h"
#include "io/file.h"

#include <stdbool.h>
#include <stdint.h>

enum check_repair {
	CHECK_ONLY,         /* writes nothing */
	CHECK_REPAIR_LEAKS, /* lowers refcounts that are too high */
	CHECK_REPAIR_ALL,   /* repairs everything that needs no guess about guest data */
};

struct check_options {
	enum check_repair repair;
	/* One line of text, without newline, for each finding; NULL: silent. */
	void (*say)(void *ctx, const char *line);
	void *ctx;
};

/* The numbers of `qemu-img check --output=json`, and the state of two header bits. */
struct check_report {
	uint64_t leaks, corruptions; /* what is there now (after a repair: what is left) */
	/* of the corruptions: those that qemu-img does not look for */
	uint64_t overlaps;     /* metadata that is used twice */
	uint64_t misplaced;    /* clusters that are elsewhere in an external data file */
	uint64_t check_errors; /* places that could not be looked at */
	uint64_t leaks_fixed, corruptions_fixed;
	uint64_t image_end_offset; /* bytes: behind the last cluster in use */
	uint64_t total_clusters;   /* of the virtual disk */
	uint64_t allocated_clusters, fragmented_clusters, compressed_clusters;
	bool dirty, corrupt; /* header bits as they are now */
};

/*
 * Checks the image in `file`, and repairs what `options` asks for. A repair keeps
 * the ordering law: raised refcounts are durable before anything relies on them,
 * pointers are gone before refcounts fall, new refcount structures replace the old
 * ones by one write inside one sector, the dirty and corrupt bits are cleared last
 * and only when nothing is wrong any more. It changes no guest byte that was
 * readable. A repair that finds nothing to do writes nothing.
 *
 * Returns 0 when the check was carried out, whatever it found; -errno with *reterr
 * set when the image is no qcow2 image that can be opened at all (ERROR_OPEN,
 * ERROR_UNSUPPORTED, ERROR_CORRUPT), or an I/O error or lack of memory stopped it
 * (ERROR_SYSTEM); *ret_report is then undefined.
 */
int coroutine_fn check_run(struct file *file, const struct check_options *options,
			   struct check_report *ret_report, struct error **reterr);

/*
 * For a writable open of an image that is marked dirty: makes the refcounts agree
 * with the references and clears the bit. Fails with ERROR_CORRUPT, the bit left
 * set, when something is wrong beyond that.
 */
int coroutine_fn check_rebuild_refcounts(struct file *file, struct error **reterr);

#endif
