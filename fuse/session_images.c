/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * session_images: opening the images of a mount, and closing them.
 */
#include "fuse/session_int.h"

#include "fuse/log.h"
#include "fuse/ops.h"
#include "fuse/overlay.h"
#include "fuse/view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool may_not_write(int res)
{
	return res == -EACCES || res == -EROFS || res == -EPERM;
}

/* Read-only where the image may not be written and nobody insisted: *ret_why is not 0 then. */
static int coroutine_fn open_present(struct session *session, const char *path,
				     struct image **ret_image, int *ret_why, struct error **reterr)
{
	struct image_options how = session->image_options;
	struct opener *opener = &session->opener.opener;
	int res = image_open(opener, path, &how, ret_image, reterr);

	if (!may_not_write(res) || session->options->access != ACCESS_AUTO)
		return res;
	error_free(*reterr);
	*reterr = NULL;
	*ret_why = res;
	how.writable = false;
	return image_open(opener, path, &how, ret_image, reterr);
}

static int coroutine_fn open_below_overlay(struct session *session, const char *path,
					   struct image **ret_image, struct error **reterr)
{
	struct image_options how = session->image_options;
	const struct overlay_params params = {
		.opener = &session->opener.opener,
		.reactor = session->reactor,
		.path = session->options->overlay_file,
		.base_path = path,
		.l2_cache_bytes = how.l2_cache_bytes,
	};
	struct image *base;
	int res;

	how.writable = false;
	res = image_open(params.opener, path, &how, &base, reterr);
	if (res < 0)
		return res;
	res = overlay_open(&params, base, ret_image, reterr);
	if (res < 0)
		image_close(base);
	return res;
}

static enum exit_status coroutine_fn open_image(struct session *session, const char *path,
						struct image **ret_image)
{
	struct error *error = NULL;
	int res, why = 0;

	if (session->options->overlay)
		res = open_below_overlay(session, path, ret_image, &error);
	else
		res = open_present(session, path, ret_image, &why, &error);
	if (res < 0) {
		enum exit_status status = error ? options_status_of(error->class) : EXIT_MOUNT;

		log_error("%s: %s", path, error ? error->msg : strerror(-res));
		error_free(error);
		return status;
	}
	if (why)
		log_warning("%s: cannot be written (%s); mounted read-only", path, strerror(-why));
	if (image_info(*ret_image)->rebuilt)
		log_warning("%s: was marked dirty by a writer that did not end well; its refcounts "
			    "have been rebuilt",
			    path);
	/* What another writer changes is learnt late, and is to be learnt everywhere at once. */
	if (!session->options->force_share && image_publish(*ret_image))
		session->reads_beside = true;
	return EXIT_OK;
}

static void coroutine_fn open_images(void *arg)
{
	struct session *session = arg;
	const struct options *options = session->options;

	while (session->status == EXIT_OK && session->nb_images < options->nb_images) {
		const char *path = options->images[session->nb_images].path;

		session->status = open_image(session, path, &session->images[session->nb_images]);
		if (session->status == EXIT_OK)
			session->nb_images++;
	}
}

enum exit_status session_open_images(struct session *session)
{
	session->images = calloc(session->options->nb_images, sizeof(struct image *));
	if (!session->images) {
		log_error("out of memory");
		return EXIT_MOUNT;
	}
	reactor_run(session->reactor, open_images, session);
	return session->status;
}

bool session_any_writable(const struct session *session)
{
	for (unsigned i = 0; i < session->nb_images; i++) {
		if (image_info(session->images[i])->writable)
			return true;
	}
	return false;
}

static void coroutine_fn close_images(void *arg)
{
	struct session *session = arg;

	for (const struct tree_disk *disk = session->tree.disks; disk; disk = disk->next) {
		if (disk->view)
			view_close(disk->view);
	}
	while (session->nb_images > 0) {
		const char *path = session->options->images[--session->nb_images].path;
		int res = image_close(session->images[session->nb_images]);

		if (res < 0) {
			log_error("%s: write-back failed: %s", path, strerror(-res));
			session->status = EXIT_WRITE_BACK;
		}
	}
}

void session_close_images(struct session *session)
{
	if (session->ops)
		ops_drain(session->ops);
	if (session->nb_images > 0)
		reactor_run(session->reactor, close_images, session);
}
