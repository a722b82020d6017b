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

#include "io/kept.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How often, and how long apart, a file is tried again that somebody has locked. */
#define LOCK_TRIES 100u
#define LOCK_PAUSE_NS 10000000u

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

/* What of `path` is below `directory` (both absolute), NULL if it is not, as it is written. */
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

	if (fd < 0)
		return -errno;
	if (fstatat(fd, base, &st, 0) < 0 || !file_is(holder, &st)) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

/* A name on its way from inside `holder` to a file. */
struct named {
	const struct host_opener *host;
	enum opener_role role;
	const struct file *holder;
	const char *path; /* as it stands there */
	struct file_open_params params;
};

static bool confined(const struct named *named)
{
	uid_t owner = named->holder->uid;

	switch (named->host->policy) {
	case NAMES_BENEATH:
		return true;
	case NAMES_AUTO:
		return named->role == OPENER_DATA || (owner != geteuid() && owner != getuid());
	default:
		return named->role == OPENER_DATA;
	}
}

static int set_outside_error(const struct named *named, struct error **reterr)
{
	bool foreign = named->host->policy == NAMES_AUTO;

	if (named->role == OPENER_DATA)
		return error_set(reterr, ERROR_BACKING, EXDEV,
				 "data file %s is outside the image's directory; give "
				 "-o data_file=PATH",
				 named->path);
	return error_set(reterr, ERROR_BACKING, EXDEV,
			 "backing file %s is outside the image's directory%s; give -o backing=any, "
			 "or -o backing_file=PATH",
			 named->path, foreign ? " and the image belongs to somebody else" : "");
}

/*
 * Whether the name leads to a file that it stands in, or that led to it. Such a loop
 * meets our own lock first, and must not be blamed on another program.
 */
static bool is_loop(const struct named *named)
{
	const struct file *file = named->holder;
	struct stat st;

	if (fstatat(named->params.dirfd, named->params.path, &st, 0) < 0)
		return false;
	while (file && !file_is(file, &st))
		file = file->named_by;
	return file;
}

/* Whether the process has opened this file itself. What it has inherited is no such descriptor. */
static bool is_open_here(const struct stat *wanted)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	bool found = false;
	struct stat st;

	while (dir && !found && (entry = readdir(dir))) {
		int fd = atoi(entry->d_name), flags = fcntl(fd, F_GETFD);

		found = flags >= 0 && (flags & FD_CLOEXEC) && fstat(fd, &st) == 0 &&
			file_stats_are_same(&st, wanted);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* A file that is named twice meets our own lock: nobody else must be blamed. */
static bool is_named_twice(const struct file_open_params *params)
{
	struct stat st;

	return fstatat(params->dirfd, params->path, &st, 0) == 0 && is_open_here(&st);
}

static void coroutine_fn pause_ns(uint64_t ns)
{
	if (co_self())
		co_sleep(ns);
	else
		nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

/*
 * The kernel takes the ring of a killed process apart a little later than the process, and only
 * then gives its locks back: whoever starts anew after it would be told of a program that is gone.
 */
static int coroutine_fn open_patiently(const struct host_opener *host,
				       const struct file_open_params *params,
				       struct file **ret_file, struct error **reterr)
{
	struct error *cause = NULL;
	int ret = file_open(host->reactor, params, ret_file, &cause);

	for (unsigned i = 0; ret < 0 && cause && cause->class == ERROR_LOCKED; i++) {
		if (is_named_twice(params)) {
			error_free(cause);
			return error_set(reterr, ERROR_LOCKED, -ret,
					 "image is in use by this process itself: it is named "
					 "twice; name it once, or read-only");
		}
		if (i == LOCK_TRIES)
			break;
		pause_ns(LOCK_PAUSE_NS);
		error_free(cause);
		cause = NULL;
		ret = file_open(host->reactor, params, ret_file, &cause);
	}
	if (ret < 0 && reterr)
		*reterr = cause;
	else
		error_free(cause);
	return ret;
}

/* Puts the name and the way out around what file_open() says. */
static int set_named_error(const struct named *named, int ret, const struct error *cause,
			   struct error **reterr)
{
	const char *what = role_words[named->role].what, *option = role_words[named->role].option;
	bool locked = cause && cause->class == ERROR_LOCKED;

	if (ret == -EXDEV)
		return set_outside_error(named, reterr);
	if (locked && is_loop(named))
		return error_set(reterr, ERROR_BACKING, ELOOP,
				 "%s %s: the chain of backing files is a loop", what, named->path);
	if (locked)
		return error_set(reterr, ERROR_LOCKED, -ret, "%s %s: %s", what, named->path,
				 cause->msg);
	return error_set(reterr, ERROR_BACKING, -ret, "%s %s: %s; give -o %s=PATH", what,
			 named->path, cause ? cause->msg : strerror(-ret), option);
}

static int coroutine_fn open_params(const struct named *named, struct file **ret_file,
				    struct error **reterr)
{
	struct error *cause = NULL;
	int ret = open_patiently(named->host, &named->params, ret_file, &cause);

	if (ret < 0)
		ret = set_named_error(named, ret, cause, reterr);
	error_free(cause);
	return ret;
}

static int coroutine_fn open_beneath(struct named *named, const char *directory,
				     struct file **ret_file, struct error **reterr)
{
	int dirfd, ret;

	named->params.path = name_beneath(named->path, directory);
	if (!named->params.path)
		return set_outside_error(named, reterr);
	dirfd = open_directory(named->holder, directory);
	if (dirfd < 0)
		return set_named_error(named, dirfd, NULL, reterr);
	named->params.beneath = true;
	named->params.dirfd = dirfd;
	ret = open_params(named, ret_file, reterr);
	close(dirfd);
	return ret;
}

static int coroutine_fn open_named(struct named *named, struct file **ret_file,
				   struct error **reterr)
{
	char *directory = directory_of(named->holder->name);
	char *joined = directory ? join(directory, named->path) : NULL;
	int ret;

	named->params.path = joined;
	if (!joined)
		ret = set_named_error(named, -ENOMEM, NULL, reterr);
	else if (confined(named))
		ret = open_beneath(named, directory, ret_file, reterr);
	else
		ret = open_params(named, ret_file, reterr);
	if (ret == 0) {
		/* Names in this file are relative to where it is, not to what was written. */
		free((*ret_file)->name);
		(*ret_file)->name = joined;
		(*ret_file)->named_by = named->holder;
		joined = NULL;
	}
	free(joined);
	free(directory);
	return ret;
}

/* What was opened before the seal; that it could be locked then is enough. */
static int open_again(const struct host_opener *host, enum opener_role role,
		      const struct file *holder, const char *path, bool writable,
		      struct file **ret_file, struct error **reterr)
{
	int ret = writable ? -EROFS : kept_open(host->kept, role, holder, path, ret_file);

	if (ret == -ENOENT)
		return error_set(reterr, ERROR_OPEN, EPERM,
				 "%s was not opened when the server started", path);
	return ret < 0 ? error_set(reterr, ERROR_SYSTEM, -ret, "%s: %s", path, strerror(-ret)) : 0;
}

static int coroutine_fn open_first(struct host_opener *host, enum opener_role role,
				   const struct file *holder, const char *path, bool writable,
				   enum file_lock lock, struct file **ret_file,
				   struct error **reterr)
{
	struct named named = {
		.host = host,
		.role = role,
		.holder = holder,
		.path = path,
		.params =
			{
				.dirfd = AT_FDCWD,
				.path = path,
				.writable = writable,
				.lock = lock,
				.no_direct = host->no_direct,
				.no_magic_links = role != OPENER_IMAGE,
			},
	};

	if (role == OPENER_IMAGE)
		return open_patiently(host, &named.params, ret_file, reterr);
	assert(holder);
	if (host->policy == NAMES_NONE)
		return error_set(reterr, ERROR_BACKING, EPERM,
				 "%s %s is not followed with -o backing=none; give -o %s=PATH",
				 role_words[role].what, path, role_words[role].option);
	return open_named(&named, ret_file, reterr);
}

static int coroutine_fn host_open(struct opener *opener, enum opener_role role,
				  const struct file *holder, const char *path, bool writable,
				  enum file_lock lock, struct file **ret_file,
				  struct error **reterr)
{
	struct host_opener *host = (struct host_opener *)opener;
	int ret;

	if (host->sealed)
		return open_again(host, role, holder, path, writable, ret_file, reterr);
	ret = open_first(host, role, holder, path, writable, lock, ret_file, reterr);
	if (ret < 0 || !host->keeps)
		return ret;
	ret = kept_add(&host->kept, role, holder, path, *ret_file);
	if (ret < 0) {
		file_close(*ret_file);
		error_set(reterr, ERROR_SYSTEM, -ret, "%s: %s", path, strerror(-ret));
	}
	return ret;
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

void host_opener_seal(struct host_opener *host)
{
	host->sealed = true;
}

void host_opener_finish(struct host_opener *host)
{
	kept_free(host->kept);
	host->kept = NULL;
}
