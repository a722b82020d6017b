/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * mountpoint: which mount lies at a mount point, and detaching it. Nothing here asks a server,
 * which may not answer (yet, or any more).
 */
#ifndef QCOW2FS_FUSE_MOUNTPOINT_H
#define QCOW2FS_FUSE_MOUNTPOINT_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Whether an error of a system call on a mount point means that its server is gone. Right after
 * a server was killed, requests under way are aborted (ECONNABORTED), later ones not accepted.
 */
static inline bool mountpoint_is_stale(int err)
{
	return err == ENOTCONN || err == ECONNABORTED;
}

/*
 * Tells one mount from all others. Since Linux 6.8 a number that is never given again; before, one
 * that may be when the mount is gone.
 */
struct mount_id {
	uint64_t number;
	uint32_t dev_major, dev_minor;
};

/* Of what lies on top there. 0 or -errno. */
int mountpoint_identify(const char *mountpoint, struct mount_id *ret_id);

/*
 * Unmounts by system call, or through fusermount3 where that is not permitted. With
 * lazy, at once and even while in use. Returns 0, -EBUSY, or another -errno.
 */
int mountpoint_detach(const char *mountpoint, bool lazy);

/*
 * The same for this very mount: -EINVAL when it does not lie on top there. (fusermount3 knows
 * only names: another mount of the same user that came in this very moment would be taken for it.)
 */
int mountpoint_detach_mount(const char *mountpoint, const struct mount_id *id, bool lazy);

#endif
