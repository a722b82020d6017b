/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * layout: see layout.h.
 */
#include "fuse/layout.h"

#include "fuse/log.h"
#include "fuse/partitions.h"
#include "fuse/view.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAW_SUFFIX ".raw"

static char *file_name(const struct layout *layout, const struct image_argument *argument)
{
	const struct options *options = layout->options;

	if (layout->single_file)
		return strdup("");
	if (options->nb_images > 1 || argument->name)
		return tree_name_for(argument->name, argument->path);
	return strdup(options->name ? options->name : TREE_DEFAULT_NAME);
}

/* "snapshots" for one image, NAME.snapshots beside NAME.raw for each of several. */
static char *snapshots_name(const struct layout *layout, const struct node *node)
{
	char *name;

	if (layout->options->nb_images == 1)
		return strdup("snapshots");
	if (asprintf(&name, "%.*s.snapshots", (int)(strlen(node->name) - strlen(RAW_SUFFIX)),
		     node->name) < 0)
		return NULL;
	return name;
}

/* For an image or a snapshot; one whose table cannot be read is shown as a whole all the same. */
static int add_partitions(const struct layout *layout, struct tree *tree, struct node *whole)
{
	const char *path = whole->disk->host_path;
	struct partition_list *list = malloc(sizeof(*list));
	int res = list ? partitions_read(layout->reactor, whole->disk, list) : -ENOMEM;

	if (res < 0 && res != -ENOMEM) {
		log_warning("%s: %s: the partition table cannot be read: %s", path, whole->name,
			    strerror(-res));
		res = 0;
	} else if (res == 0 && !list->has_table) {
		log_warning("%s: %s: no partition table", path, whole->name);
	}
	for (unsigned i = 0; list && res == 0 && i < list->nb; i++) {
		const struct partition *partition = &list->partitions[i];
		char *name = tree_partition_name(whole->name, partition->number);

		res = name ? tree_add_part(tree, whole, name, partition->start_bytes,
					   partition->len_bytes)
			   : -ENOMEM;
		if (res == -EEXIST)
			log_error("%s: the name %s is taken; give NAME=IMAGE", path, name);
		free(name);
	}
	free(list);
	return res;
}

static int add_view(const struct layout *layout, struct tree *tree, struct node *dir,
		    struct node *base, const struct image_snapshot *snapshot)
{
	const char *path = base->disk->host_path;
	char *name = tree_snapshot_name(snapshot->id, snapshot->name);
	int64_t time_ns = (int64_t)snapshot->date_sec * 1000000000 + snapshot->date_nsec;
	struct node *node;
	struct view *view;
	int res;

	if (!name)
		return -ENOMEM;
	view = view_create(layout->opener, path, snapshot->id, layout->image_options);
	res = -ENOMEM;
	if (view)
		res = tree_add_view(tree, dir, name, base, snapshot->virtual_size, time_ns, view,
				    &node);
	if (res == 0) {
		/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): an image has a path */
		node->disk->host_path = strdup(path);
		res = node->disk->host_path ? 0 : -ENOMEM;
	} else {
		view_destroy(view);
	}
	/* Only a damaged table has an id twice; the other one cannot be told apart. */
	if (res == -EEXIST) {
		log_warning("%s: there are two snapshots %s", path, name);
		res = 0;
	} else if (res == 0 && layout->options->partitions) {
		res = add_partitions(layout, tree, node);
	}
	free(name);
	return res;
}

/* Those of the image that was named, not of an overlay above it. */
static int add_snapshots(const struct layout *layout, struct tree *tree, struct node *node)
{
	const struct image *image =
		layout->options->overlay ? image_backing(node->disk->image) : node->disk->image;
	unsigned nb = image_nb_snapshots(image);
	char *name = snapshots_name(layout, node);
	struct node *dir;
	int res = name ? tree_add_dir(tree, name, &dir) : -ENOMEM;

	for (unsigned i = 0; res == 0 && i < nb; i++) {
		struct image_snapshot snapshot;

		image_get_snapshot(image, i, &snapshot);
		res = add_view(layout, tree, dir, node, &snapshot);
	}
	if (res == -ENAMETOOLONG)
		log_error("%s: too long for the name of a folder; give NAME=IMAGE",
			  node->disk->host_path);
	if (res == -EEXIST)
		log_error("%s: the name %s is taken", node->disk->host_path, name);
	free(name);
	return res;
}

/* A throw-away overlay is as old as the image below it, which it makes writable. */
static int stat_host(const struct options *options, const struct image *image,
		     struct stat *ret_stat)
{
	bool throw_away = options->overlay && !options->overlay_file;

	if (fstat(image_file(image, throw_away ? 1 : 0)->fd, ret_stat) < 0)
		return -errno;
	if (throw_away)
		ret_stat->st_mode |= 0600;
	return 0;
}

static int add_image(const struct layout *layout, struct tree *tree, unsigned i)
{
	const struct image_argument *argument = &layout->options->images[i];
	struct image *image = layout->images[i];
	struct node *parent = layout->single_file ? NULL : tree_root(tree);
	char *name = file_name(layout, argument);
	struct node *node;
	struct stat host;
	int res;

	if (!name)
		return -ENOMEM;
	res = stat_host(layout->options, image, &host);
	if (res == 0)
		res = tree_add_file(tree, parent, name, image, &host, &node);
	if (res == -EEXIST)
		log_error("%s: the name %s is taken by another image; give NAME=IMAGE",
			  argument->path, name);
	if (res == -ENAMETOOLONG)
		log_error("%s: too long for the name of a raw file; give NAME=IMAGE",
			  argument->path);
	free(name);
	if (res == 0) {
		char *path = realpath(argument->path, NULL);

		/* /dev/fd/N of a file that has no name (any more) leads nowhere else. */
		if (!path)
			path = strdup(argument->path);
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): set where res is 0 */
		node->disk->host_path = path;
		res = path ? 0 : -ENOMEM;
	}
	if (res == 0 && layout->options->partitions)
		res = add_partitions(layout, tree, node);
	if (res == 0 && layout->options->snapshots)
		res = add_snapshots(layout, tree, node);
	return res;
}

enum exit_status layout_build(const struct layout *layout, struct tree *ret_tree)
{
	const struct options *options = layout->options;
	struct tree_owner owner = {
		.uid = options->has_uid ? options->uid : geteuid(),
		.gid = options->has_gid ? options->gid : getegid(),
		.has_umask = options->has_umask,
		.umask = options->umask,
	};
	int res = 0;

	if (layout->single_file && (options->snapshots || options->partitions)) {
		log_error(
			"%s: a regular file cannot show snapshots or partitions; give a directory",
			options->mountpoint);
		return EXIT_USAGE;
	}
	if (layout->single_file)
		tree_init_single(ret_tree, &owner);
	else
		res = tree_init(ret_tree, &owner);
	for (unsigned i = 0; res == 0 && i < options->nb_images; i++)
		res = add_image(layout, ret_tree, i);
	if (res == 0)
		return EXIT_OK;
	if (res == -EEXIST || res == -ENAMETOOLONG)
		return EXIT_USAGE;
	log_error("cannot build the tree of files: %s", strerror(-res));
	return EXIT_MOUNT;
}

void layout_finish(struct tree *tree)
{
	for (const struct tree_disk *disk = tree->disks; disk; disk = disk->next)
		view_destroy(disk->view);
	tree_finish(tree);
}
