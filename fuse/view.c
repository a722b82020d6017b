/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * view: see view.h.
 */
#include "fuse/view.h"

#include "fuse/log.h"

#include <stdlib.h>
#include <string.h>

struct view {
	struct opener *opener;
	const struct image_options *options;
	char *path, *id;
	struct co_mutex mutex; /* held while the image is opened or closed */
	unsigned nb_users;
	struct image *image;
};

struct view *view_create(struct opener *opener, const char *path, const char *id,
			 const struct image_options *options)
{
	struct view *view = calloc(1, sizeof(*view));

	if (!view)
		return NULL;
	view->opener = opener;
	view->options = options;
	view->path = strdup(path);
	view->id = strdup(id);
	if (view->path && view->id)
		return view;
	view_destroy(view);
	return NULL;
}

void view_destroy(struct view *view)
{
	if (!view)
		return;
	free(view->path);
	free(view->id);
	free(view);
}

/*
 * The server itself may have the image open for writing. That is no danger: what a
 * snapshot refers to is never written again while the snapshot exists.
 */
int coroutine_fn view_acquire(struct view *view)
{
	struct image_options options = *view->options;
	struct error *error = NULL;
	int res = 0;

	options.snapshot = view->id;
	options.writable = false;
	options.force_share = true;
	co_mutex_lock(&view->mutex);
	if (!view->image)
		res = image_open(view->opener, view->path, &options, &view->image, &error);
	if (res == 0)
		view->nb_users++;
	co_mutex_unlock(&view->mutex);
	if (res < 0)
		log_error("%s: snapshot %s: %s", view->path, view->id,
			  error ? error->msg : strerror(-res));
	error_free(error);
	return res;
}

void coroutine_fn view_close(struct view *view)
{
	struct image *image = view->image;

	view->nb_users = 0;
	view->image = NULL;
	if (image)
		image_close(image);
}

void coroutine_fn view_release(struct view *view)
{
	co_mutex_lock(&view->mutex);
	if (--view->nb_users == 0)
		view_close(view);
	co_mutex_unlock(&view->mutex);
}

struct image *view_image(const struct view *view)
{
	return view->image;
}
