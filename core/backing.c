/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * backing: see backing.h. The rules for names, against images that others made:
 * plain paths only; a file without a recorded format is probed among raw and qcow2
 * alone, and what was probed may refer to nothing further, so that a guest that writes
 * a qcow2 header into its raw disk reaches no file of the host.
 */
#include "core/backing.h"

#include "core/layer.h"

#include <errno.h>

bool backing_name_is_plain(const char *name)
{
	const char *end = name + strcspn(name, ":/");

	if (!*name || *end == ':')
		return false;
	for (; *name; name++)
		if ((unsigned char)*name < 0x20 || *name == 0x7f)
			return false;
	return true;
}

static int refuse_name(const char *what, const char *name, const char *option,
		       struct error **reterr)
{
	return error_set(reterr, ERROR_BACKING, EACCES,
			 "%s \"%.255s\" is not a plain path and is not followed; give -o %s=PATH",
			 what, name, option);
}

static bool is_same(const struct file *a, const struct file *b)
{
	if (a == b)
		return true;
	/* Some simulated files have no identity; depth bounds them. */
	return (a->fd >= 0 || a->ino) && a->dev == b->dev && a->ino == b->ino;
}

/* Refuses a file that is in the chain already: what `what` calls it. */
static int check_loop(const struct image *chain, const struct file *file, const char *what,
		      struct error **reterr)
{
	for (const struct image *layer = chain; layer; layer = layer->backing)
		if (is_same(file, layer->file) ||
		    (has_data_file(layer) && is_same(file, layer->data_file)))
			return error_set(reterr, ERROR_BACKING, ELOOP,
					 "%s %s: the chain of backing files is a loop", what,
					 file->name);
	return 0;
}

static enum file_lock lock_for(const struct chain *chain, bool writable)
{
	return writable                      ? FILE_LOCK_WRITE
	       : chain->options->force_share ? FILE_LOCK_SHARED
					     : FILE_LOCK_READ;
}

/* Opens what the user, and not an image, has named. `what` and `option` are for the message. */
static int coroutine_fn open_given(const struct chain *chain, const char *what, const char *option,
				   const char *name, bool writable, enum file_lock lock,
				   struct file **ret_file, struct error **reterr)
{
	struct error *cause = NULL;
	int ret = chain->opener->open(chain->opener, OPENER_IMAGE, NULL, name, writable, lock,
				      ret_file, &cause);

	if (ret && cause && cause->class == ERROR_LOCKED)
		error_set(reterr, ERROR_LOCKED, -ret, "%s %s: %s", what, name, cause->msg);
	else if (ret)
		error_set(reterr, ERROR_BACKING, -ret, "%s %s: %s; give -o %s=PATH", what, name,
			  cause ? cause->msg : strerror(-ret), option);
	error_free(cause);
	return ret;
}

int coroutine_fn backing_open_data_file(struct image *image, const struct chain *chain,
					bool writable, struct error **reterr)
{
	const char *name = image->header.data_name;
	const char *given = chain->top ? NULL : chain->options->data_file;
	enum file_lock lock = lock_for(chain, writable);
	struct file *file;
	int ret;

	if (given) {
		ret = open_given(chain, "data file", "data_file", given, writable, lock, &file,
				 reterr);
	} else if (image->probed) {
		return error_set(
			reterr, ERROR_BACKING, EACCES,
			"backing file %s has no recorded format and refers to a data file; record "
			"its format with qemu-img rebase -u -F",
			image->path);
	} else if (!name) {
		return error_set(reterr, ERROR_BACKING, ENOENT,
				 "the name of the external data file is not recorded; give -o "
				 "data_file=PATH");
	} else if (!backing_name_is_plain(name)) {
		return refuse_name("data file", name, "data_file", reterr);
	} else {
		ret = chain->opener->open(chain->opener, OPENER_DATA, image->file, name, writable,
					  lock, &file, reterr);
	}
	if (ret)
		return ret;
	/* Guest data would be written over the metadata. */
	ret = check_loop(image, file, "data file", reterr);
	if (!ret)
		ret = check_loop(chain->top, file, "data file", reterr);
	if (ret)
		file_close(file);
	else
		image->data_file = file;
	return ret;
}

int backing_refuse_data_file(const struct chain *chain, struct error **reterr)
{
	if (chain->top || !chain->options->data_file)
		return 0;
	return error_set(reterr, ERROR_BACKING, EINVAL,
			 "it has no external data file: leave out -o data_file=%s",
			 chain->options->data_file);
}

/* Which format the next layer has: as recorded, or by its magic number. */
static int coroutine_fn find_format(const char *format, struct file *file, bool *ret_raw,
				    bool *ret_probed, struct error **reterr)
{
	uint8_t magic[4] = {0};
	int ret;

	*ret_probed = false;
	if (format) {
		*ret_raw = !strcmp(format, "raw");
		if (!*ret_raw && strcmp(format, "qcow2") != 0)
			return error_set(
				reterr, ERROR_UNSUPPORTED, ENOTSUP,
				"unsupported feature: backing file %s of a format other than raw "
				"and qcow2; convert it with qemu-img",
				file->name);
		return 0;
	}
	ret = file_read(file, 0, magic, sizeof(magic), IO_TAG_HEADER);
	if (ret)
		return error_set(reterr, ERROR_BACKING, -ret, "backing file %s: %s", file->name,
				 strerror(-ret));
	*ret_raw = be32_get(magic) != QCOW2_MAGIC;
	*ret_probed = true;
	return 0;
}

/* What the next layer is made of. */
struct below {
	const char *name;
	struct file *file; /* NULL: the chain ends here */
	bool raw;
	bool probed; /* nobody has recorded that */
};

static int coroutine_fn open_file_below(const struct image *image, struct chain *chain,
					bool writable, struct below *ret_below,
					struct error **reterr)
{
	struct below below = {.name = image->header.backing_name};
	const char *given = image == chain->top ? chain->options->backing_file : NULL;
	enum file_lock lock = lock_for(chain, writable);
	int ret;

	/* Writing a part of a cluster would copy the rest of it in from a file that is not below.
	 */
	if (given && !below.name)
		return error_set(reterr, ERROR_BACKING, EINVAL,
				 "no backing file is recorded in it: leave out -o backing_file=%s, "
				 "or record one with qemu-img rebase -u -b",
				 given);
	if (given)
		below.name = given;
	*ret_below = below;
	if (!below.name)
		return 0;
	if (!given && image->probed)
		return error_set(
			reterr, ERROR_BACKING, EACCES,
			"backing file %s has no recorded format and refers to a further file; "
			"record its format with qemu-img rebase -u -F",
			image->path);
	if (!given && !backing_name_is_plain(below.name))
		return refuse_name("backing file", below.name, "backing_file", reterr);
	if (chain->depth >= CHAIN_DEPTH_MAX)
		return error_set(reterr, ERROR_BACKING, ELOOP,
				 "backing file %s: the chain has more than %u files", below.name,
				 CHAIN_DEPTH_MAX);
	if (given)
		ret = open_given(chain, "backing file", "backing_file", given, writable, lock,
				 &below.file, reterr);
	else
		ret = chain->opener->open(chain->opener, OPENER_BACKING, image->file, below.name,
					  writable, lock, &below.file, reterr);
	if (ret)
		return ret;
	ret = check_loop(chain->top, below.file, "backing file", reterr);
	if (!ret)
		ret = find_format(image->header.backing_format, below.file, &below.raw,
				  &below.probed, reterr);
	if (ret) {
		file_close(below.file);
		return ret;
	}
	chain->depth++;
	*ret_below = below;
	return 0;
}

/* What makes an image no image makes a backing file a useless one: another class. */
static void blame_backing_file(const char *name, struct error **reterr)
{
	if (reterr && *reterr && (*reterr)->class == ERROR_OPEN)
		(*reterr)->class = ERROR_BACKING;
	error_prefix(reterr, "backing file %s", name);
}

int coroutine_fn backing_open_below(const struct image *image, struct chain *chain, bool writable,
				    struct image **ret_layer, struct file **ret_raw,
				    struct error **reterr)
{
	struct below below = {0};
	int ret = open_file_below(image, chain, writable, &below, reterr);

	*ret_layer = NULL;
	if (ret || !below.file)
		return ret;
	if (below.raw && writable) {
		*ret_raw = below.file;
		return 0;
	}
	if (below.raw)
		return layer_create_raw(below.file, ret_layer, reterr);
	ret = layer_open(below.file, chain, writable, below.probed, ret_layer, reterr);
	if (ret)
		blame_backing_file(below.name, reterr);
	return ret;
}

int coroutine_fn backing_open_chain(struct image *image, struct chain *chain, struct error **reterr)
{
	int ret = 0;

	while (image && !image->raw && !ret) {
		struct image *layer = NULL;

		ret = backing_open_below(image, chain, false, &layer, NULL, reterr);
		image->backing = layer;
		image = layer;
	}
	return ret;
}
