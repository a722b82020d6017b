/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * opener: the host's opener and its policy for names that stand inside images.
 *
 * Whoever made an image chose the names in it. When that is not the caller, they
 * reach nothing outside the image's own directory: root may mount a user's image
 * without showing that user's names the rest of the system.
 *
 * The confinement is file_resolve()'s (RESOLVE_BENEATH from a descriptor of the
 * directory); here the directory is found, and it is checked that the descriptor is of
 * the directory that really holds the image: its owner may exchange it meanwhile.
 */
#include "io/opener.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a role is called in messages, and the option that names such a file. */
struct role_words {
	const char *what, *option;
};

static const struct role_words role_words[] = {
	[OPENER_BACKING] = {"backing file", "backing_file"},
	[OPENER_DATA] = {"data file", "data_file"},
};

/* The directory part of `name`, "." if there is none. To be freed. */
static char *directory_of(const char *name)
{
	const char *slash = strrchr(name, '/');

	if (!slash)
		return strdup(".");
	return strndup(name, slash == name ? 1 : (size_t)(slash - name));
}

static char *join(const char *directory, const char *path)
{
	size_t len = strlen(directory);
	char *joined;

	if (path[0] == '/' || !strcmp(directory, "."))
		return strdup(path);
	joined = malloc(len + strlen(path) + 2);
	if (!joined)
		return NULL;
	memcpy(joined, directory, len);
	if (len && directory[len - 1] != '/')
		joined[len++] = '/';
	strcpy(joined + len, path);
	return joined;
}

/* The rest of `path` below `directory` (both absolute), NULL if it is not below as it is written.
 */
static const char *strip_directory(const char *path, const char *directory)
{
	size_t len = strlen(directory);

	while (len && directory[len - 1] == '/')
		len--;
	if (strncmp(path, directory, len) || path[len] != '/')
		return NULL;
	path += strspn(path + len, "/") + len;
	return *path ? path : NULL;
}

/* Makes an absolute name relative to the holder's directory; NULL if it lies elsewhere. */
static const char *name_beneath(const char *path, const char *directory)
{
	const char *rest = NULL;
	char *absolute;

	if (path[0] != '/')
		return path;
	if (directory[0] == '/')
		rest = strip_directory(path, directory);
	if (!rest && (absolute = realpath(directory, NULL))) {
		rest = strip_directory(path, absolute);
		free(absolute);
	}
	return rest;
}

/* A descriptor of the directory, in which the holder's name still leads to the holder. */
static int open_directory(const struct file *holder, const char *directory)
{
	const char *slash = strrchr(holder->name, '/');
	const char *base = slash ? slash + 1 : holder->name;
	int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat st;
	bool same;

	if (fd < 0)
		return -errno;
	same = fstatat(fd, base, &st, 0) == 0 &&
	       (holder->is_block_device ? S_ISBLK(st.st_mode) && st.st_rdev == holder->dev
					: st.st_dev == holder->dev && st.st_ino == holder->ino);
	if (!same) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

/* Puts the file's name and the way out around an error of file_open(). */
static int set_role_error(const struct role_words *words, const char *path, int ret,
			  struct error *cause, struct error **reterr)
{
	if (cause && cause->class == ERROR_LOCKED)
		error_set(reterr, ERROR_LOCKED, -ret, "%s %s: %s", words->what, path, cause->msg);
	else
		error_set(reterr, ERROR_BACKING, -ret, "%s %s: %s; give -o %s=PATH", words->what,
			  path, cause ? cause->msg : strerror(-ret), words->option);
	error_free(cause);
	return ret;
}

static bool callers_own(const struct file *holder)
{
	return holder->uid == geteuid() || holder->uid == getuid();
}

static bool confined(const struct host_opener *host, enum opener_role role,
		     const struct file *holder)
{
	return role == OPENER_DATA || host->policy == NAMES_BENEATH ||
	       (host->policy == NAMES_AUTO && !callers_own(holder));
}

static int set_outside_error(const struct host_opener *host, enum opener_role role,
			     const char *path, struct error **reterr)
{
	if (role == OPENER_DATA)
		return error_set(reterr, ERROR_BACKING, EXDEV,
				 "data file %s is outside the image's directory; give "
				 "-o data_file=PATH",
				 path);
	return error_set(
		reterr, ERROR_BACKING, EXDEV,
		"backing file %s is outside the image's directory%s; give -o backing=any, "
		"or -o backing_file=PATH",
		path, host->policy == NAMES_AUTO ? " and the image belongs to somebody else" : "");
}

/* Opens a name of `holder` beneath its directory only. */
static int open_beneath(struct host_opener *host, enum opener_role role, const struct file *holder,
			const char *path, const char *directory, struct file_open_params *params,
			struct file **ret_file, struct error **reterr)
{
	struct error *cause = NULL;
	int ret;

	params->path = name_beneath(path, directory);
	if (!params->path)
		return set_outside_error(host, role, path, reterr);
	params->beneath = true;
	params->dirfd = ret = open_directory(holder, directory);
	if (ret >= 0) {
		ret = file_open(host->reactor, params, ret_file, &cause);
		close(params->dirfd);
	}
	if (ret == -EXDEV) {
		error_free(cause);
		return set_outside_error(host, role, path, reterr);
	}
	return ret < 0 ? set_role_error(&role_words[role], path, ret, cause, reterr) : 0;
}

/* Opens a name that stands inside `holder`. */
static int open_named(struct host_opener *host, enum opener_role role, const struct file *holder,
		      const char *path, struct file_open_params *params, struct file **ret_file,
		      struct error **reterr)
{
	const struct role_words *words = &role_words[role];
	struct error *cause = NULL;
	char *directory = directory_of(holder->name);
	char *joined = directory ? join(directory, path) : NULL;
	int ret = -ENOMEM;

	if (!joined) {
		set_role_error(words, path, ret, NULL, reterr);
	} else if (confined(host, role, holder)) {
		ret = open_beneath(host, role, holder, path, directory, params, ret_file, reterr);
	} else {
		params->path = joined;
		ret = file_open(host->reactor, params, ret_file, &cause);
		if (ret < 0)
			set_role_error(words, path, ret, cause, reterr);
	}
	if (ret == 0) {
		/* Names in this file are relative to where it is, not to what was written. */
		free((*ret_file)->name);
		(*ret_file)->name = joined;
		joined = NULL;
	}
	free(joined);
	free(directory);
	return ret;
}

static int host_open(struct opener *opener, enum opener_role role, const struct file *holder,
		     const char *path, bool writable, enum file_lock lock, struct file **ret_file,
		     struct error **reterr)
{
	struct host_opener *host = (struct host_opener *)opener;
	struct file_open_params params = {
		.dirfd = AT_FDCWD,
		.path = path,
		.writable = writable,
		.lock = lock,
		.no_direct = host->no_direct,
		.no_magic_links = role != OPENER_IMAGE,
	};

	if (role == OPENER_IMAGE)
		return file_open(host->reactor, &params, ret_file, reterr);
	assert(holder);
	if (host->policy == NAMES_NONE)
		return error_set(reterr, ERROR_BACKING, EPERM,
				 "%s %s is not followed with -o backing=none; give -o %s=PATH",
				 role_words[role].what, path, role_words[role].option);
	return open_named(host, role, holder, path, &params, ret_file, reterr);
}

void host_opener_init(struct host_opener *host, struct reactor *reactor, enum names_policy policy,
		      bool no_direct)
{
	*host = (struct host_opener){
		.opener = {.open = host_open},
		.reactor = reactor,
		.policy = policy,
		.no_direct = no_direct,
	};
}
