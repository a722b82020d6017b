/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * judge: is this state of the files sound?
 *
 * In order: the image opens for writing with no manual step, and opening writes
 * nothing unless the image is marked dirty; the disk's size and every sector are
 * legal to the model; a snapshot shows what it always showed; the check finds no
 * corruption; a repair of leaks leaves none, changes no guest byte, and a second one
 * writes nothing. A sample is judged by qemu-img as well.
 *
 * The disk must be in SIM_DIRECT mode; the caller takes the changes back.
 */
#ifndef QCOW2FS_TEST_SIM_JUDGE_H
#define QCOW2FS_TEST_SIM_JUDGE_H

#include "test/sim/run.h"

#include "core/check.h"

struct judge {
	struct sim *sim;
	const struct cell *cell;
	const struct cell_image *initial; /* for the snapshot's contents; NULL: not judged */
	const struct model *model;
	uint64_t now, floor; /* see model_judge_sector() */
	bool contents_only;  /* the same bytes have passed all but the guest's view before */
	bool ask_qemu;
	const char *scratch_folder; /* for qemu-img */

	/* results */
	content_t *contents; /* of every sector, model->max_sectors of them; the caller's */
	unsigned nb_sectors;
	uint64_t nb_leaks;
	uint64_t live_bytes; /* up to the last cluster in use */
};

/* True when sound; else the verdict says why. */
bool judge_files(struct judge *judge);

/* Runs check_run() on a file of the disk, opened for writing when it repairs. 0 or -errno. */
int coroutine_fn judge_check_file(struct sim_disk *disk, const char *name,
				  const struct check_options *options, struct check_report *report,
				  struct error **reterr);

#endif
