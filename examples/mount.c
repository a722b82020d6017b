/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * mount IMAGE MOUNTPOINT [FUSE OPTIONS]: a small qcow2fs. The mount holds one file, disk.raw,
 * which is the disk; libfuse's threads call the blocking functions of the library.
 */
#define FUSE_USE_VERSION 31
#include <err.h>
#include <errno.h>
#include <fuse.h>
#include <qcow2fs.h>
#include <stdlib.h>
#include <string.h>

static const char name[] = "/disk.raw";
static struct qf_context *context;
static struct qf_image *image;
static const char *image_path;

static uint64_t disk_bytes(void)
{
	struct qf_info info = {.size = sizeof(info)};

	qf_get_info(image, &info);
	return info.virtual_size;
}

/* The library's thread belongs to this process: after libfuse has become a daemon. */
static void *fs_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
	struct qf_open_options options = {.size = sizeof(options), .flags = QF_OPEN_WRITABLE};
	char *message;

	(void)conn;
	config->kernel_cache = 1;
	if (qf_context_create(NULL, &context) < 0)
		errx(1, "cannot start");
	if (qf_open(context, image_path, &options, &image, &message) < 0)
		errx(1, "%s: %s", image_path, message);
	return NULL;
}

static void fs_destroy(void *data)
{
	int ret = qf_close(image);

	(void)data;
	if (ret)
		warnx("%s: write-back failed: %s", image_path, strerror(-ret));
	qf_context_destroy(context);
}

static int fs_getattr(const char *path, struct stat *st, struct fuse_file_info *file)
{
	(void)file;
	*st = (struct stat){.st_mode = S_IFDIR | 0700, .st_nlink = 2};
	if (!strcmp(path, "/"))
		return 0;
	*st = (struct stat){.st_mode = S_IFREG | 0600, .st_nlink = 1, .st_size = disk_bytes()};
	return strcmp(path, name) ? -ENOENT : 0;
}

static int fs_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t off,
		      struct fuse_file_info *file, enum fuse_readdir_flags flags)
{
	(void)path, (void)off, (void)file, (void)flags;
	return fill(buf, name + 1, NULL, 0, 0) ? -ENOMEM : 0;
}

static int fs_read(const char *path, char *buf, size_t len_bytes, off_t off,
		   struct fuse_file_info *file)
{
	uint64_t end = disk_bytes();
	int ret;

	(void)path, (void)file;
	if ((uint64_t)off >= end)
		return 0;
	if (len_bytes > end - off)
		len_bytes = end - off;
	ret = qf_pread(image, buf, len_bytes, off);
	return ret ? ret : (int)len_bytes;
}

static int fs_write(const char *path, const char *buf, size_t len_bytes, off_t off,
		    struct fuse_file_info *file)
{
	int ret = qf_pwrite(image, buf, len_bytes, off);

	(void)path, (void)file;
	return ret ? ret : (int)len_bytes;
}

static int fs_fsync(const char *path, int datasync, struct fuse_file_info *file)
{
	(void)path, (void)datasync, (void)file;
	return qf_flush(image);
}

int main(int argc, char **argv)
{
	static const struct fuse_operations operations = {
		.init = fs_init,
		.destroy = fs_destroy,
		.getattr = fs_getattr,
		.readdir = fs_readdir,
		.read = fs_read,
		.write = fs_write,
		.fsync = fs_fsync,
	};

	if (argc < 3 || argv[1][0] == '-')
		errx(1, "usage: mount IMAGE MOUNTPOINT [FUSE OPTIONS]");
	image_path = realpath(argv[1], NULL); /* a daemon's folder is the root */
	if (!image_path)
		err(1, "%s", argv[1]);
	argv[1] = argv[0];
	return fuse_main(argc - 1, argv + 1, &operations, NULL);
}
