/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * overlay: see overlay.h.
 */
#include "fuse/overlay.h"

#include "core/backing.h"
#include "core/create.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define THROW_AWAY_FOLDER "/var/tmp"
#define FORMAT "qcow2"

/* ---- names ---- */

/* The folder of a file that need not exist, links followed; to be freed. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder, *resolved;

	if (!slash)
		return realpath(".", NULL);
	folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
	resolved = folder ? realpath(folder, NULL) : NULL;
	free(folder);
	return resolved;
}

/* How many bytes of two resolved paths are the same folders, their last slash included. */
static size_t common_bytes(const char *folder, const char *path)
{
	size_t common = 0, i;

	for (i = 0; folder[i] && folder[i] == path[i]; i++) {
		if (path[i] == '/')
			common = i + 1;
	}
	/* The whole folder leads to the path. */
	if (!folder[i] && path[i] == '/')
		common = i + 1;
	return common;
}

/* The way from one resolved path, a folder, to another. To be freed. */
static char *relative_name(const char *folder, const char *path)
{
	size_t common = common_bytes(folder, path), len;
	unsigned nb_up = 0;
	char *name = NULL;
	FILE *out;

	if (common <= strlen(folder)) {
		for (const char *rest = folder + common; *rest; rest++)
			nb_up += *rest == '/';
		nb_up += folder[common] != '\0';
	}
	out = open_memstream(&name, &len);
	if (!out)
		return NULL;
	/* QEMU takes what stands before a colon for a protocol. */
	if (nb_up == 0 && strchr(path + common, ':'))
		fputs("./", out);
	while (nb_up-- > 0)
		fputs("../", out);
	fputs(path + common, out);
	if (fclose(out) == 0)
		return name;
	free(name);
	return NULL;
}

char *overlay_backing_name(const char *path, const char *base_path)
{
	char *base = realpath(base_path, NULL), *folder, *name;

	if (!base || base_path[0] == '/')
		return base;
	folder = folder_of(path);
	name = folder ? relative_name(folder, base) : NULL;
	free(folder);
	free(base);
	return name;
}

/* ---- making one ---- */

static int coroutine_fn format(struct file *file, const struct image *base,
			       const char *backing_name, struct error **reterr)
{
	struct create_params params = CREATE_DEFAULTS;

	params.virtual_size = image_info(base)->virtual_size;
	params.backing_name = backing_name;
	params.backing_format = FORMAT;
	return create_format(file, NULL, &params, reterr);
}

static int coroutine_fn open_formatted(const struct overlay_params *params, const char *path,
				       struct file *file, struct image *base,
				       const char *backing_name, struct image **ret_image,
				       struct error **reterr)
{
	int ret = format(file, base, backing_name, reterr);

	if (ret < 0)
		file_close(file);
	else
		ret = image_open_overlay(params->opener, file, base, params->l2_cache_bytes,
					 ret_image, reterr);
	if (ret < 0)
		error_prefix(reterr, "%s", path);
	return ret;
}

/* A file in a folder for temporary ones, whose name is gone as soon as it is open. */
static int open_throw_away(struct reactor *reactor, char *path, struct file **ret_file,
			   struct error **reterr)
{
	const struct file_open_params params = {
		.dirfd = AT_FDCWD,
		.path = path,
		.writable = true,
		.throw_away = true,
		/* What never has to reach the disk stays in memory as long as there is some. */
		.no_direct = true,
	};
	int fd = mkostemp(path, O_CLOEXEC), ret;

	if (fd < 0)
		return error_set(reterr, ERROR_SYSTEM, errno, "%s", strerror(errno));
	ret = file_open(reactor, &params, ret_file, reterr);
	unlink(path);
	close(fd);
	return ret;
}

static int coroutine_fn create_throw_away(const struct overlay_params *params, struct image *base,
					  struct image **ret_image, struct error **reterr)
{
	const char *folder = getenv("TMPDIR");
	char path[PATH_MAX];
	struct file *file = NULL;
	int ret;

	if (!folder || !*folder)
		folder = THROW_AWAY_FOLDER;
	if (snprintf(path, sizeof(path), "%s/qcow2fs-XXXXXX", folder) >= (int)sizeof(path))
		return error_set(reterr, ERROR_SYSTEM, ENAMETOOLONG,
				 "TMPDIR: the name is too long");
	ret = open_throw_away(params->reactor, path, &file, reterr);
	if (ret < 0) {
		error_prefix(reterr, "cannot make an overlay in %s, see TMPDIR", folder);
		return ret;
	}
	/* Nobody follows the name; it only says that there is a backing file. */
	return open_formatted(params, folder, file, base, "image", ret_image, reterr);
}

/* Others see of an overlay no more than they see of its image. */
static int create_file(const char *path, const struct image *base, struct error **reterr)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
		      (image_file(base, 0)->mode & 0666) | 0600);

	if (fd < 0)
		return error_set(reterr, ERROR_OPEN, errno, "%s: cannot be created: %s", path,
				 strerror(errno));
	close(fd);
	return 0;
}

static int coroutine_fn open_kept_file(const struct overlay_params *params, struct file **ret_file,
				       struct error **reterr)
{
	int ret = params->opener->open(params->opener, OPENER_IMAGE, NULL, params->path, true,
				       FILE_LOCK_WRITE, ret_file, reterr);

	if (ret < 0)
		error_prefix(reterr, "%s", params->path);
	return ret;
}

static int coroutine_fn create_kept(const struct overlay_params *params, struct image *base,
				    struct image **ret_image, struct error **reterr)
{
	char *backing_name = overlay_backing_name(params->path, params->base_path);
	struct file *file;
	int ret;

	if (!backing_name)
		return error_set(reterr, ERROR_OPEN, errno, "%s: %s", params->path,
				 strerror(errno));
	ret = create_file(params->path, base, reterr);
	if (ret == 0) {
		ret = open_kept_file(params, &file, reterr);
		if (ret == 0)
			ret = open_formatted(params, params->path, file, base, backing_name,
					     ret_image, reterr);
		if (ret < 0)
			unlink(params->path);
	}
	free(backing_name);
	return ret;
}

/* ---- taking one that exists ---- */

/* Our own locks would blame another program for it. */
static int check_not_in_chain(const char *path, const struct stat *st, const struct image *base,
			      const char *base_path, struct error **reterr)
{
	const struct file *file;

	for (unsigned i = 0; (file = image_file(base, i)); i++) {
		if (file_is(file, st))
			return error_set(reterr, ERROR_OPEN, EINVAL,
					 "%s: belongs to %s itself; give another file to "
					 "-o overlay=",
					 path, base_path);
	}
	return 0;
}

/* Where the name that stands in the overlay leads. */
static bool names_base(const char *path, const char *name, const struct image *base)
{
	const char *slash = strrchr(path, '/');
	int folder_bytes = slash && *name != '/' ? (int)(slash + 1 - path) : 0;
	struct stat st;
	char *joined;
	bool same;

	if (asprintf(&joined, "%.*s%s", folder_bytes, path, name) < 0)
		return false;
	same = stat(joined, &st) == 0 && file_is(image_file(base, 0), &st);
	free(joined);
	return same;
}

static int check_records(const struct overlay_params *params, const struct image *overlay,
			 const struct image *base, struct error **reterr)
{
	const struct image_info *info = image_info(overlay);
	const char *name = info->backing_name;
	bool plain = name && backing_name_is_plain(name);

	if (plain && names_base(params->path, name, base) &&
	    (!info->backing_format || !strcmp(info->backing_format, FORMAT)))
		return 0;
	return error_set(reterr, ERROR_OPEN, EINVAL,
			 "%s: not an overlay of %s (its backing file: %s); give another file to "
			 "-o overlay=",
			 params->path, params->base_path,
			 !name   ? "none"
			 : plain ? name
				 : "not a plain path");
}

/* Looks before anything is written there, by a repair for instance. */
static int coroutine_fn check_kept(const struct overlay_params *params, const struct image *base,
				   struct error **reterr)
{
	const struct image_options options = {.no_backing = true};
	struct image *image;
	int ret = image_open(params->opener, params->path, &options, &image, reterr);

	if (ret < 0) {
		error_prefix(reterr, "%s", params->path);
		return ret;
	}
	ret = check_records(params, image, base, reterr);
	image_close(image);
	return ret;
}

static int coroutine_fn open_kept(const struct overlay_params *params, struct image *base,
				  struct image **ret_image, struct error **reterr)
{
	struct file *file = NULL;
	int ret = check_kept(params, base, reterr);

	if (ret == 0)
		ret = open_kept_file(params, &file, reterr);
	if (ret < 0)
		return ret;
	ret = image_open_overlay(params->opener, file, base, params->l2_cache_bytes, ret_image,
				 reterr);
	if (ret < 0)
		error_prefix(reterr, "%s", params->path);
	return ret;
}

int coroutine_fn overlay_open(const struct overlay_params *params, struct image *base,
			      struct image **ret_image, struct error **reterr)
{
	struct stat st;
	int ret;

	if (!params->path)
		return create_throw_away(params, base, ret_image, reterr);
	if (stat(params->path, &st) < 0) {
		if (errno == ENOENT)
			return create_kept(params, base, ret_image, reterr);
		return error_set(reterr, ERROR_OPEN, errno, "%s: %s", params->path,
				 strerror(errno));
	}
	ret = check_not_in_chain(params->path, &st, base, params->base_path, reterr);
	if (ret < 0)
		return ret;
	return open_kept(params, base, ret_image, reterr);
}
