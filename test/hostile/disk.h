/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * disk: files in memory as an I/O engine and an opener, for trying thousands of
 * images a second. Requests complete inside submit(). A file may claim a size far
 * beyond the bytes that it stores: the rest is a hole. Writing beyond DISK_STORED_MAX
 * fails with ENOSPC, as a full disk does.
 *
 * What must not happen ends the process with a line on standard error: a change of a
 * file that was opened for reading, a wait that nothing can end.
 */
#ifndef QCOW2FS_TEST_HOSTILE_DISK_H
#define QCOW2FS_TEST_HOSTILE_DISK_H

#include "io/engine.h"
#include "io/opener.h"

#define DISK_FILES_MAX 24u
#define DISK_STORED_MAX (48ull << 20)
#define DISK_SIZE_MAX (1ull << 50)

struct disk_file {
	char name[24];
	uint8_t *data; /* `stored` bytes, the rest of `size` reads as zeros */
	uint64_t stored, size;
};

struct disk {
	struct engine engine;
	struct reactor *reactor;
	struct opener opener;
	struct disk_file files[DISK_FILES_MAX];
	unsigned nb_files;
	uint64_t clock_ns;
	bool woken;
};

/* The disk is owned by the reactor that is made with its engine. NULL: no memory. */
struct disk *disk_create(void);
/* Removes all files. None may be open. */
void disk_clear(struct disk *disk);
/* Adds a file with a copy of `data`; it claims `size` >= stored bytes. */
struct disk_file *disk_add(struct disk *disk, const char *name, const void *data, uint64_t stored,
			   uint64_t size);
/* Ends the process: a promise was broken. */
void __attribute__((noreturn, format(printf, 1, 2))) broken(const char *fmt, ...);

#endif
