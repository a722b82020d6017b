/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bare_fuse: the smallest useful FUSE server over a raw file, as a limit to measure against.
 *
 *   bare_fuse [--direct] [--read-ahead-kb=N] FILE MOUNTPOINT
 *
 * presents FILE as MOUNTPOINT/disk.raw and stays in the foreground until it is unmounted.
 * Eight threads each read a request from their own clone of the device, do it with one
 * blocking system call on FILE and answer it. There is no mapping, no lock and no memory
 * allocation on the way, so what a client sees is the cost of FUSE itself.
 *
 * It is given everything that is known to help: requests of 1 MiB, many of them in
 * flight, direct handles with parallel direct writes for clients that ask for O_DIRECT,
 * and a page cache that survives reopening for all others. --direct opens FILE with
 * O_DIRECT, as the servers do on a real disk; payloads that libfuse hands over at an odd
 * address are then copied to an aligned buffer first.
 */
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <linux/fuse.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
	FILE_INO = 2,
	NB_THREADS = 8,
	MAX_IO_BYTES = 1024 * 1024,
	DIO_ALIGN = 4096,
	TIMEOUT_S = 3600,
};

static const char file_name[] = "disk.raw";

/* Set before the first request and constant from then on. */
static int backing_fd;
static struct stat backing_stat;
static bool backing_direct;

/* One buffer per thread; it is large enough for a request that is widened at both ends. */
static alignas(DIO_ALIGN) __thread char bounce[MAX_IO_BYTES + 2 * DIO_ALIGN];

static void attr_fill(fuse_ino_t ino, struct stat *st)
{
	*st = (struct stat){.st_ino = ino, .st_uid = getuid(), .st_gid = getgid()};
	if (ino == FILE_INO) {
		st->st_mode = S_IFREG | 0600;
		st->st_nlink = 1;
		st->st_size = backing_stat.st_size;
		st->st_blocks = backing_stat.st_blocks;
		st->st_blksize = 65536;
		st->st_mtim = backing_stat.st_mtim;
	} else {
		st->st_mode = S_IFDIR | 0700;
		st->st_nlink = 2;
	}
}

static void bare_init(void *userdata, struct fuse_conn_info *conn)
{
	/* The clock of the backing file must not drop the page cache of the view. */
	conn->want &= ~FUSE_CAP_AUTO_INVAL_DATA;
	conn->want |= conn->capable & (FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS);
	conn->max_write = MAX_IO_BYTES;
	conn->max_readahead = 8 * MAX_IO_BYTES;
	conn->max_background = 256;
	conn->congestion_threshold = 192;
}

static void bare_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {
		.ino = FILE_INO, .attr_timeout = TIMEOUT_S, .entry_timeout = TIMEOUT_S};

	if (parent != FUSE_ROOT_ID || strcmp(name, file_name) != 0) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	attr_fill(FILE_INO, &entry.attr);
	fuse_reply_entry(req, &entry);
}

static void bare_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	attr_fill(ino, &st);
	fuse_reply_attr(req, &st, TIMEOUT_S);
}

/* Sizes and times are constant here; answering keeps open(O_TRUNC) and utimes() quiet. */
static void bare_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
			 struct fuse_file_info *fi)
{
	bare_getattr(req, ino, fi);
}

/* libfuse 3.14 cannot express parallel direct writes in fuse_reply_open(). */
static void bare_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_open_out out = {.open_flags = FOPEN_KEEP_CACHE};

	if (fi->flags & O_DIRECT)
		out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
	fuse_reply_buf(req, (const char *)&out, sizeof(out));
}

static void bare_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		      struct fuse_file_info *fi)
{
	off_t start = off & ~(off_t)(DIO_ALIGN - 1);
	size_t skip = off - start;
	size_t want = (skip + size + DIO_ALIGN - 1) & ~(size_t)(DIO_ALIGN - 1);
	ssize_t n;

	if (size > MAX_IO_BYTES) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	n = pread(backing_fd, bounce, want, start);
	if (n < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	n = n > (ssize_t)skip ? n - (ssize_t)skip : 0;
	fuse_reply_buf(req, bounce + skip, n < (ssize_t)size ? (size_t)n : size);
}

static void bare_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	ssize_t n;

	if (size > sizeof(bounce)) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (backing_direct && (uintptr_t)buf % DIO_ALIGN != 0)
		buf = memcpy(bounce, buf, size);
	n = pwrite(backing_fd, buf, size, off);
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, n);
}

static void bare_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	fuse_reply_err(req, fdatasync(backing_fd) < 0 ? errno : 0);
}

static void bare_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
		       struct fuse_file_info *fi)
{
	off_t found = lseek(backing_fd, off, whence);

	if (found < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_lseek(req, found);
}

static const struct fuse_lowlevel_ops bare_ops = {
	.init = bare_init,
	.lookup = bare_lookup,
	.getattr = bare_getattr,
	.setattr = bare_setattr,
	.open = bare_open,
	.read = bare_read,
	.write = bare_write,
	.fsync = bare_fsync,
	.lseek = bare_lseek,
};

static int backing_open(const char *path)
{
	backing_fd = open(path, O_RDWR | O_CLOEXEC | (backing_direct ? O_DIRECT : 0));
	if (backing_fd < 0 || fstat(backing_fd, &backing_stat) < 0) {
		fprintf(stderr, "bare_fuse: %s: %s\n", path, strerror(errno));
		return -1;
	}
	return 0;
}

/* The mount's read-ahead; only root may set it, and the default serves otherwise. */
static void read_ahead_set(const char *mountpoint, const char *kb)
{
	char path[64];
	struct stat st;
	FILE *f;

	if (!kb || stat(mountpoint, &st) < 0)
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(st.st_dev),
		 minor(st.st_dev));
	f = fopen(path, "w");
	if (!f)
		return;
	fputs(kb, f);
	fclose(f);
}

/* stat() of a fresh mount waits for the server, so the setting needs a process of its own. */
static void read_ahead_set_beside(const char *mountpoint, const char *kb)
{
	if (!kb || fork() != 0)
		return;
	read_ahead_set(mountpoint, kb);
	_exit(0);
}

static int serve(const char *mountpoint, const char *read_ahead_kb)
{
	char *argv[] = {"bare_fuse", "-ofsname=bare_fuse,subtype=bare", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(2, argv);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	struct fuse_session *session = fuse_session_new(&args, &bare_ops, sizeof(bare_ops), NULL);
	int ret = -1;

	if (!session || !config)
		goto out;
	fuse_loop_cfg_set_clone_fd(config, 1);
	fuse_loop_cfg_set_max_threads(config, NB_THREADS);
	fuse_loop_cfg_set_idle_threads(config, NB_THREADS);
	if (fuse_set_signal_handlers(session) < 0)
		goto out;
	if (fuse_session_mount(session, mountpoint) < 0)
		goto out_signals;
	read_ahead_set_beside(mountpoint, read_ahead_kb);
	ret = fuse_session_loop_mt(session, config);
	fuse_session_unmount(session);
out_signals:
	fuse_remove_signal_handlers(session);
out:
	if (session)
		fuse_session_destroy(session);
	if (config)
		fuse_loop_cfg_destroy(config);
	return ret;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"direct", no_argument, NULL, 'D'},
		{"read-ahead-kb", required_argument, NULL, 'a'},
		{0},
	};
	const char *read_ahead_kb = NULL;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'D')
			backing_direct = true;
		else if (opt == 'a')
			read_ahead_kb = optarg;
		else
			return 1;
	}
	if (argc - optind != 2) {
		fprintf(stderr,
			"usage: bare_fuse [--direct] [--read-ahead-kb=N] FILE MOUNTPOINT\n");
		return 1;
	}
	if (backing_open(argv[optind]) < 0)
		return 1;
	return serve(argv[optind + 1], read_ahead_kb) == 0 ? 0 : 1;
}
