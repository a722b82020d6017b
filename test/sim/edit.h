/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * edit: changes to a whole image (snapshots, another backing file, formatting, repairs) on
 * the simulated disk: every crash state of theirs, every request and allocation of theirs failing.
 *
 * What can be seen of an image is a picture: what the guest sees, what each snapshot shows,
 * and the name of the backing file. An edit leads from one picture to another; every state
 * in between must show one of the two, and the second one as soon as the edit has
 * returned success. Besides, in each state:
 *
 *  - the check finds no corruption (a damaged image: no more than before), or, for version
 *    2, which cannot be marked dirty, nothing but COPIED flags that are out of date;
 *  - everything can be written over, and the snapshots stay what they are;
 *  - a repair leaves nothing to be found, the picture as it was, and a second one writes nothing.
 */
#ifndef QCOW2FS_TEST_SIM_EDIT_H
#define QCOW2FS_TEST_SIM_EDIT_H

#include "test/sim/lab.h"

#define PICTURE_VIEWS_MAX 4u
#define PICTURE_TEXT_MAX 1200u

struct picture {
	unsigned nb_views; /* the guest's, then one for each snapshot */
	struct sim_bytes views[PICTURE_VIEWS_MAX];
	char text[PICTURE_TEXT_MAX]; /* names of the snapshots, of the backing file and its format
				      */
};

struct edit {
	struct lab *lab;
	/* One of the two: of an image that is opened and closed around it, or of the bare file. */
	int coroutine_fn (*change)(struct image *image);
	int coroutine_fn (*change_file)(struct file *file);
	bool damaged;   /* the image is to be repaired, and does not get worse before */
	bool unmarked;  /* version 2 */
	bool formatted; /* until it has returned, there may be no image at all */

	/* Damage that was found at first. */
	uint64_t nb_corruptions;
	/* COPIED flags that a repair may leave wrong for a while, if the image tells (version 2
	 * cannot). */
	uint64_t nb_flags;

	/* of the edit's last run */
	int result, close_result;
	uint64_t t_done;
	uint64_t nb_requests;
	/* Failed writes of tables, in the last edit_inject(), that left no dirty mark behind. */
	unsigned nb_undone;
	/* the edit's own */
	bool starves; /* its allocation number missing_at (from 0) fails */
	uint64_t missing_at;
	struct sim_bytes start;
	struct picture before, after;
};

/* Takes the image that is on the lab's disk as the one to begin with. */
void edit_init(struct edit *edit, struct lab *lab);
void edit_finish(struct edit *edit);

/* Performs it without faults, `seed` choosing the order of things, and judges its crash states. */
void edit_explore(struct edit *edit, uint64_t seed);

/*
 * Lets each request of the edit fail with `err` in turn. Where the image could be closed
 * cleanly and shows what it did before, no cluster may be leaked (I12).
 */
void edit_inject(struct edit *edit, int err);

/*
 * Lets each memory allocation of the edit fail in turn, the image's opening and closing included.
 * Returns how many times it was refused for that.
 */
unsigned edit_starve(struct edit *edit);

/* What is on the disk now; nothing is written. To be released with picture_free(). */
void picture_take(struct lab *lab, struct picture *picture);
void picture_free(struct picture *picture);

#endif
