/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * session_int: what the parts of a session share. Only the main thread touches it, and the
 * reactor while it opens and closes images, which the main thread waits for.
 */
#ifndef QCOW2FS_FUSE_SESSION_INT_H
#define QCOW2FS_FUSE_SESSION_INT_H

#include "core/image.h"
#include "fuse/daemon.h"
#include "fuse/options.h"
#include "fuse/tree.h"
#include "io/opener.h"
#include "io/reactor.h"

struct session {
	const struct options *options;
	struct daemon daemon;
	struct reactor *reactor;
	const char *engine_note; /* why io_uring is not used, or NULL */
	struct host_opener opener;
	struct image_options image_options; /* as wished; an image may get less */
	char *backing_file, *data_file;     /* of image_options, absolute */
	struct image **images;
	unsigned nb_images;
	bool reads_beside; /* of one of them reads may be answered beside the reactor */
	struct tree tree;
	struct ops *ops;
	struct transport_dev *transport;
	struct transport_uring *ring; /* NULL: the device alone */
	const char *ring_note;        /* why not, or NULL */
	char *mountpoint; /* absolute; NULL: somebody else mounted and passed a descriptor */
	bool single_file; /* the mount point is a regular file */
	bool leaving;     /* told to end while nothing can be unmounted */
	bool by_root;
	int signal_fd, ended_fd;
	enum exit_status status;
};

/* Opens the images of the command line. Returns the exit status; complaints have been logged. */
enum exit_status session_open_images(struct session *session);
bool session_any_writable(const struct session *session);
/* Writes back and closes the images: after this their locks are gone. */
void session_close_images(struct session *session);

#endif
