/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * kept: see kept.h.
 */
#include "io/kept.h"

#include "io/file_open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct kept {
	struct kept *next; /* the one before it: what was opened last is found first */
	enum opener_role role;
	char *holder;      /* its name, "" for the command line */
	char *path;        /* as it stood there */
	char *absolute;    /* or NULL */
	struct file *file; /* never given to an engine */
};

static void free_one(struct kept *kept)
{
	if (kept->file) {
		close(kept->file->fd);
		free(kept->file->name);
		free(kept->file);
	}
	free(kept->holder);
	free(kept->path);
	free(kept->absolute);
	free(kept);
}

static const char *name_of(const struct file *holder)
{
	return holder ? holder->name : "";
}

/* A copy with a descriptor of its own. */
static int copy_file(const struct file *file, struct file **ret_file)
{
	struct file *copy = calloc(1, sizeof(*copy));
	int fd;

	if (!copy)
		return -ENOMEM;
	fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0) {
		free(copy);
		return -errno;
	}
	*copy = (struct file){
		.reactor = file->reactor,
		.engine = file->engine,
		.name = strdup(file->name),
		.fd = fd,
		.path = file->path,
		.align = file->align,
	};
	*ret_file = copy;
	return copy->name ? 0 : -ENOMEM;
}

int kept_add(struct kept **list, enum opener_role role, const struct file *holder, const char *path,
	     const struct file *file)
{
	struct kept *kept = calloc(1, sizeof(*kept));
	int ret;

	if (!kept)
		return -ENOMEM;
	kept->role = role;
	kept->holder = strdup(name_of(holder));
	kept->path = strdup(path);
	kept->absolute = holder ? NULL : realpath(path, NULL);
	ret = copy_file(file, &kept->file);
	if (ret == 0 && (!kept->holder || !kept->path))
		ret = -ENOMEM;
	if (ret < 0) {
		free_one(kept);
		return ret;
	}
	kept->next = *list;
	*list = kept;
	return 0;
}

static bool matches(const struct kept *kept, enum opener_role role, const struct file *holder,
		    const char *path)
{
	return kept->role == role && !strcmp(kept->holder, name_of(holder)) &&
	       (!strcmp(kept->path, path) || (kept->absolute && !strcmp(kept->absolute, path)));
}

int kept_open(const struct kept *list, enum opener_role role, const struct file *holder,
	      const char *path, struct file **ret_file)
{
	const struct kept *kept = list;
	int ret;

	while (kept && !matches(kept, role, holder, path))
		kept = kept->next;
	if (!kept)
		return -ENOENT;
	ret = file_open_shared(kept->file, ret_file);
	if (ret == 0)
		(*ret_file)->named_by = holder;
	return ret;
}

void kept_free(struct kept *list)
{
	while (list) {
		struct kept *next = list->next;

		free_one(list);
		list = next;
	}
}
