/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tree: which files a mount shows: their inode numbers, names and attributes.
 *
 * The tree is built before the first request and never changes its shape
 * afterwards, so that any thread may walk it without a lock. What requests do
 * change (sizes, times, owners, permissions) are atomics. Inode 1 is the root: a
 * directory, or the raw file itself when the mount point is a regular file.
 */
#ifndef QCOW2FS_FUSE_TREE_H
#define QCOW2FS_FUSE_TREE_H

#include "core/image.h"
#include "fuse/stats.h"
#include "io/co_sync.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define TREE_ROOT_INO 1u
#define TREE_DEFAULT_NAME "disk.raw"
#define NB_INVALIDATORS 2 /* see ops_invalidate.c */

struct view;

/* What files show, the whole or parts of it: an image, or a state that a snapshot of it kept. */
struct tree_disk {
	/* constant */
	struct image *image;      /* not owned; NULL: a view's */
	struct view *view;        /* a snapshot, which opens an image of its own; not owned */
	const struct image *base; /* the image, or the one that a view belongs to */
	uint32_t cluster_size;
	char *host_path;    /* of the image; whoever adds the file sets it, the tree frees it */
	struct node *whole; /* the file that shows all of it; others follow by next_of_disk */
	struct tree_disk *next;
	pthread_mutex_t write_opens_mutex;
	struct tree_late {
		uint64_t start, end;
	} late[NB_INVALIDATORS]; /* ranges that each has yet to drop, under its mutex */
	/* the reactor's: */
	struct co_mutex size_mutex; /* held while the size changes */
};

struct node {
	/* constant */
	uint64_t ino;
	struct node *parent; /* NULL: the root */
	struct node *next_in_bucket;
	char *name; /* "" for the root */
	bool is_dir;
	bool writable;
	struct tree_disk *disk; /* NULL: a directory */
	struct node *next_of_disk;
	uint64_t start_bytes; /* where on the disk the file begins */

	/* attributes */
	_Atomic uint64_t size_bytes;
	_Atomic uint32_t mode; /* permission bits */
	_Atomic uint32_t uid, gid;
	_Atomic int64_t atime_ns, mtime_ns, ctime_ns; /* since the epoch */

	/* state of the requests, see ops.c */
	_Atomic unsigned nb_cached_opens; /* handles that read through the page cache */
	_Atomic unsigned nb_direct_opens; /* the others, whose private mappings use it, too */
	_Atomic bool maybe_cached;        /* the page cache may hold something */
	_Atomic bool cache_was_read;      /* the kernel has read into it since it was emptied */
	_Atomic uint64_t write_open_ns;   /* when it was last opened for writing */
	unsigned nb_write_opens;          /* under the disk's write_opens_mutex */
	_Atomic(struct stats *) stats;    /* NULL until the first open */
	/* the reactor's: */
	size_t read_bytes; /* held by reads under way */
};

/* Who owns the files and which permissions they get. */
struct tree_owner {
	uid_t uid;
	gid_t gid;
	bool has_umask; /* else readable and writable for the owner alone */
	mode_t umask;
};

struct tree {
	struct tree_owner owner;
	struct node **nodes; /* nodes[ino - 1] */
	unsigned nb_nodes, capacity;
	struct node **buckets; /* by parent and name; twice as many as `capacity` */
	struct tree_disk *disks;
};

/* Begins a tree whose root is a directory. Returns 0 or -ENOMEM. */
int tree_init(struct tree *tree, const struct tree_owner *owner);
/* Begins a tree whose root is a raw file: tree_add_file() is called once, for it. */
void tree_init_single(struct tree *tree, const struct tree_owner *owner);
/* Frees the nodes, not the images and views. */
void tree_finish(struct tree *tree);

/*
 * Adds a file that shows `image`; `host` is the stat of the file that holds it, from
 * which times and permissions are taken. Returns 0, -EEXIST when `parent` has the name, -ENOMEM.
 * parent NULL: the root's place in a tree of tree_init_single().
 */
int tree_add_file(struct tree *tree, struct node *parent, const char *name, struct image *image,
		  const struct stat *host, struct node **ret_node);

/* A directory in the root, for tree_add_view(). 0, -EEXIST or -ENOMEM. */
int tree_add_dir(struct tree *tree, const char *name, struct node **ret_node);
/*
 * Adds a snapshot's file of virtual_size bytes, read-only; the view is not
 * owned. 0, -EEXIST or -ENOMEM.
 */
int tree_add_view(struct tree *tree, struct node *dir, const char *name, struct node *base,
		  uint64_t virtual_size, int64_t time_ns, struct view *view,
		  struct node **ret_node);

/*
 * Adds a file beside `whole` that shows len_bytes of its disk from start_bytes on, which lie
 * inside it. 0, -EEXIST or -ENOMEM.
 */
int tree_add_part(struct tree *tree, struct node *whole, const char *name, uint64_t start_bytes,
		  uint64_t len_bytes);

/* NULL when there is none. [any thread] */
struct node *tree_get(const struct tree *tree, uint64_t ino);
struct node *tree_lookup(const struct tree *tree, const struct node *parent, const char *name);
/* The first entry of `dir` with an inode number of at least `ino`, or NULL. */
struct node *tree_next_child(const struct tree *tree, const struct node *dir, uint64_t ino);

static inline struct node *tree_root(const struct tree *tree)
{
	return tree->nodes[0];
}

/* What stat(2) shows; host_sectors is the image's current estimate. [any thread] */
void node_stat(const struct node *node, uint64_t host_sectors, struct stat *ret_stat);

/* Moves mtime and ctime to now, of all files that show these bytes of `node`. [any thread] */
void node_touch(struct node *node, uint64_t off, uint64_t len_bytes);

/*
 * Does the file show any of these bytes of its disk? The whole disk does, wherever its end is.
 */
static inline bool node_shows(const struct node *node, uint64_t disk_off, uint64_t len_bytes)
{
	uint64_t end = node->start_bytes + node->size_bytes;

	return node == node->disk->whole ||
	       (disk_off < end && len_bytes > 0 && disk_off + len_bytes > node->start_bytes);
}

/*
 * Files that share bytes are not open for writing at the same time. -EBUSY when another one is;
 * else 0, until node_end_writing(). [any thread]
 */
int node_begin_writing(struct node *node);
void node_end_writing(struct node *node);
/*
 * Was it opened for writing less than limit_ns before then_ns, or since? Another thread may have
 * been faster than who asks. [any thread]
 */
static inline bool node_was_opened_within(const struct node *node, uint64_t limit_ns,
					  uint64_t then_ns)
{
	uint64_t opened_ns = node->write_open_ns;

	return opened_ns && (then_ns < opened_ns || then_ns - opened_ns < limit_ns);
}
/* Is it open for writing? [any thread] */
bool node_is_written(const struct node *node);

/* The name of a partition's file: NAME.p1.raw beside NAME.raw, cut where it is too long. To be
 * freed; NULL: no memory. */
char *tree_partition_name(const char *whole_name, unsigned number);

/* The name of a snapshot's file: ID-NAME.raw, without what a file name cannot hold. */
char *tree_snapshot_name(const char *id, const char *snapshot_name);

/*
 * The name of the raw file for an image of several: NAME.raw for NAME=IMAGE, else the
 * image's file name without .qcow2, .qcow or .img. The caller frees it; NULL: no memory.
 */
char *tree_name_for(const char *given_name, const char *path);

/*
 * st_blocks: the estimate, but never 0 while there may be data and always below the
 * size while there may be a hole, because tar and cp draw conclusions from both.
 */
uint64_t tree_clamp_sectors(uint64_t host_sectors, uint64_t size_bytes);

#endif
