/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tee: goes between a server and its I/O engine, and between the server and the core, by
 * -Wl,--wrap (sim.mk), and logs all that changes the image. The image is the only file that
 * is open for writing. Everything happens on the reactor's thread.
 */
#include "test/tee/log.h"

#include "core/image.h"
#include "io/engine.h"
#include "io/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static FILE *out;
static char out_buf[BUFSIZ];
static uint32_t nb_ids;

static void put(struct tee_record record)
{
	if (out && fwrite(&record, sizeof(record), 1, out) != 1)
		abort();
}

static void put_bytes(const void *bytes, size_t nb)
{
	if (out && nb && fwrite(bytes, 1, nb, out) != nb)
		abort();
}

/* ---- the engine ---- */

/* A request under way. */
struct pending {
	struct pending *next;
	struct io_req *req;
	void (*done)(struct io_req *req); /* the owner's */
	uint32_t id;
};

struct tee {
	struct engine engine;
	struct engine_ops ops; /* with the inner engine's name */
	struct engine *inner;
};

static struct pending *all_pending;

static struct engine *inner_of(struct engine *engine)
{
	return ((struct tee *)engine)->inner;
}

static int tee_attach(struct engine *engine, struct reactor *reactor)
{
	return inner_of(engine)->ops->attach(inner_of(engine), reactor);
}

static int tee_add_file(struct engine *engine, struct file *file)
{
	return inner_of(engine)->ops->add_file(inner_of(engine), file);
}

static void tee_remove_file(struct engine *engine, struct file *file)
{
	inner_of(engine)->ops->remove_file(inner_of(engine), file);
}

static void tee_done(struct io_req *req)
{
	struct pending **link = &all_pending, *pending;

	while ((*link)->req != req)
		link = &(*link)->next;
	pending = *link;
	*link = pending->next;
	put((struct tee_record){.kind = TEE_DONE, .id = pending->id, .result = req->result});
	req->done = pending->done;
	free(pending);
	req->done(req);
}

static void tee_submit(struct engine *engine, struct io_req *req)
{
	struct pending *pending;

	if (req->op == IO_READ || !req->file->writable) {
		inner_of(engine)->ops->submit(inner_of(engine), req);
		return;
	}
	pending = malloc(sizeof(*pending));
	if (!pending)
		abort();
	*pending = (struct pending){all_pending, req, req->done, nb_ids++};
	all_pending = pending;
	put((struct tee_record){.kind = TEE_ISSUE,
				.op = req->op,
				.tag = req->tag,
				.id = pending->id,
				.off = req->host_off,
				.len = req->len_bytes,
				.nb_bytes = req->op == IO_WRITE ? req->len_bytes : 0});
	for (int i = 0; i < req->nb_iov && req->op == IO_WRITE; i++)
		put_bytes(req->iov[i].iov_base, req->iov[i].iov_len);
	req->done = tee_done;
	inner_of(engine)->ops->submit(inner_of(engine), req);
}

static void tee_wait(struct engine *engine, uint64_t timeout_ns)
{
	inner_of(engine)->ops->wait(inner_of(engine), timeout_ns);
}

static void tee_wake(struct engine *engine)
{
	inner_of(engine)->ops->wake(inner_of(engine));
}

static void tee_watch(struct engine *engine, struct engine_watch *watch)
{
	inner_of(engine)->ops->watch(inner_of(engine), watch);
}

static uint64_t tee_now_ns(struct engine *engine)
{
	return inner_of(engine)->ops->now_ns(inner_of(engine));
}

static void tee_destroy(struct engine *engine)
{
	inner_of(engine)->ops->destroy(inner_of(engine));
	free(engine);
	if (out && fclose(out) != 0)
		abort();
	out = NULL;
}

int __real_engine_create_by_name(const char *name, struct engine **ret_engine, const char **why);
int __wrap_engine_create_by_name(const char *name, struct engine **ret_engine, const char **why);

int __wrap_engine_create_by_name(const char *name, struct engine **ret_engine, const char **why)
{
	struct tee *tee = calloc(1, sizeof(*tee));
	int err = tee ? __real_engine_create_by_name(name, &tee->inner, why) : -ENOMEM;

	if (err) {
		free(tee);
		return err;
	}
	if (getenv(TEE_LOG_VARIABLE)) {
		out = fopen(getenv(TEE_LOG_VARIABLE), "wb");
		if (!out)
			abort();
		/* Else stdio asks what kind of file it is, which the sandbox refuses. */
		setvbuf(out, out_buf, _IOFBF, sizeof(out_buf));
	}
	tee->ops = (struct engine_ops){
		.name = tee->inner->ops->name,
		.attach = tee_attach,
		.add_file = tee_add_file,
		.remove_file = tee_remove_file,
		.submit = tee_submit,
		.wait = tee_wait,
		.wake = tee_wake,
		.watch = tee->inner->ops->watch ? tee_watch : NULL,
		.now_ns = tee_now_ns,
		.destroy = tee_destroy,
	};
	tee->engine.ops = &tee->ops;
	*ret_engine = &tee->engine;
	return 0;
}

/* ---- the guest ---- */

static uint32_t guest_begin(enum tee_guest op, uint64_t off, uint64_t len, const void *bytes)
{
	put((struct tee_record){.kind = TEE_GUEST_BEGIN,
				.op = op,
				.id = nb_ids,
				.off = off,
				.len = len,
				.nb_bytes = bytes ? len : 0});
	if (bytes)
		put_bytes(bytes, len);
	return nb_ids++;
}

static int guest_end(uint32_t id, int result)
{
	put((struct tee_record){.kind = TEE_GUEST_END, .id = id, .result = result});
	return result;
}

int coroutine_fn __real_image_write(struct image *image, uint64_t guest_off, const void *buf,
				    size_t len_bytes);
int coroutine_fn __wrap_image_write(struct image *image, uint64_t guest_off, const void *buf,
				    size_t len_bytes);
int coroutine_fn __real_image_zero(struct image *image, uint64_t guest_off, uint64_t len_bytes,
				   bool keep_space);
int coroutine_fn __wrap_image_zero(struct image *image, uint64_t guest_off, uint64_t len_bytes,
				   bool keep_space);
int coroutine_fn __real_image_discard(struct image *image, uint64_t guest_off, uint64_t len_bytes);
int coroutine_fn __wrap_image_discard(struct image *image, uint64_t guest_off, uint64_t len_bytes);
int coroutine_fn __real_image_resize(struct image *image, uint64_t virtual_size);
int coroutine_fn __wrap_image_resize(struct image *image, uint64_t virtual_size);
int coroutine_fn __real_image_flush(struct image *image);
int coroutine_fn __wrap_image_flush(struct image *image);

int coroutine_fn __wrap_image_write(struct image *image, uint64_t guest_off, const void *buf,
				    size_t len_bytes)
{
	uint32_t id = guest_begin(TEE_GUEST_WRITE, guest_off, len_bytes, buf);

	return guest_end(id, __real_image_write(image, guest_off, buf, len_bytes));
}

int coroutine_fn __wrap_image_zero(struct image *image, uint64_t guest_off, uint64_t len_bytes,
				   bool keep_space)
{
	uint32_t id = guest_begin(TEE_GUEST_ZERO, guest_off, len_bytes, NULL);

	return guest_end(id, __real_image_zero(image, guest_off, len_bytes, keep_space));
}

int coroutine_fn __wrap_image_discard(struct image *image, uint64_t guest_off, uint64_t len_bytes)
{
	uint32_t id = guest_begin(TEE_GUEST_ZERO, guest_off, len_bytes, NULL);

	return guest_end(id, __real_image_discard(image, guest_off, len_bytes));
}

int coroutine_fn __wrap_image_resize(struct image *image, uint64_t virtual_size)
{
	uint32_t id = guest_begin(TEE_GUEST_RESIZE, virtual_size, 0, NULL);

	return guest_end(id, __real_image_resize(image, virtual_size));
}

int coroutine_fn __wrap_image_flush(struct image *image)
{
	uint32_t id = guest_begin(TEE_GUEST_FLUSH, 0, 0, NULL);

	return guest_end(id, __real_image_flush(image));
}
