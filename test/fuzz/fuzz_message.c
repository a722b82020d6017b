/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fuzz_message: the input is a list of messages of the kernel's FUSE protocol, as they lie in
 * an entry of the ring: the ring's transport takes each apart and serves it, with the
 * operations of the server and a tree of one writable and one read-only image behind it.
 *
 * Each record: opcode (1 byte), node (1), length of the payload (2), the operation's structure
 * (RECORD_HEAD_BYTES, the rest zeros), payload (at most RECORD_PAYLOAD_MAX).
 *
 * What counts: nothing dies, and each message is answered exactly once, by as much as fits.
 *
 * The transport's file is included, for its entries are its own affair; the engine's part of
 * it is played here.
 */
#define engine_uring_submit_cmd fuzz_submit_cmd
#define engine_uring_reserve_cmds fuzz_reserve_cmds
#define engine_uring_takes_cmds fuzz_takes_cmds
#include "fuse/transport_uring.c"

#include "test/fuzz/world.h"

#include "fuse/tree.h"
#include "test/hostile/seed.h"

#include <sched.h>

#define RECORD_HEAD_BYTES 48u
#define RECORD_PAYLOAD_MAX 4096u
#define MESSAGES_MAX 24u
#define PAYLOAD_BYTES (128u << 10)
/* The kernel opens a file before it sends what needs one. */

#define NB_IMAGES 2u

static _Atomic unsigned nb_answers;

int fuzz_reserve_cmds(struct engine *engine, unsigned nb_cmds)
{
	return 0;
}

bool fuzz_takes_cmds(struct engine *engine)
{
	return true;
}

void fuzz_submit_cmd(struct engine *engine, struct uring_cmd *cmd)
{
	atomic_fetch_add(&nb_answers, 1);
}

struct server {
	struct world *world;
	struct image *images[NB_IMAGES];
	struct tree tree;
	struct ops *ops;
	struct transport_uring ring;
	struct transport device;
	struct entry entry;
	uint8_t payload[PAYLOAD_BYTES] __attribute__((aligned(4096)));
};

static int forget_pages(struct transport *transport, uint64_t ino, uint64_t off, uint64_t len_bytes)
{
	return 0;
}

/* ---- life of the server ---- */

static void coroutine_fn open_images(void *arg)
{
	struct server *server = arg;

	for (unsigned i = 0; i < NB_IMAGES; i++) {
		const struct image_options options = {.writable = i == 0};

		if (image_open(&server->world->disk->opener, i ? "second" : WORLD_IMAGE, &options,
			       &server->images[i], NULL))
			broken("an image cannot be opened");
	}
}

static void coroutine_fn close_images(void *arg)
{
	struct server *server = arg;

	for (unsigned i = 0; i < NB_IMAGES; i++)
		image_close(server->images[i]);
}

static void add_images(struct world *world)
{
	static struct seed seed;

	if (!seed.data)
		seed_build(seed_kind_find("all"), &seed);
	world_put_image(world, seed.data, seed.stored);
	disk_add(world->disk, "second", seed.data, seed.stored, seed.stored);
}

static void build_tree(struct server *server)
{
	static const struct tree_owner owner = {.uid = 1, .gid = 1};
	static const struct stat host = {.st_mode = S_IFREG | 0600};
	struct node *node;

	if (tree_init(&server->tree, &owner))
		broken("no memory");
	for (unsigned i = 0; i < NB_IMAGES; i++)
		if (tree_add_file(&server->tree, tree_root(&server->tree), i ? "b.raw" : "a.raw",
				  server->images[i], &host, &node))
			broken("no memory");
}

static void start_server(struct server *server, unsigned flags)
{
	const struct ops_params params = {
		.reactor = server->world->reactor,
		.tree = &server->tree,
		.cache = flags & 1 ? CACHE_NONE : CACHE_AUTO,
		.sync = flags & 2,
		.grow = flags & 4,
		.shrink = flags & 8,
		.discard_keeps_space = flags & 16,
	};
	struct entry *entry = &server->entry;

	add_images(server->world);
	world_run(server->world, open_images, server);
	build_tree(server);
	if (ops_create(&params, &server->ops))
		broken("no memory");
	server->device = (struct transport){.name = "device", .invalidate = forget_pages};
	server->ring = (struct transport_uring){
		.transport = {.name = "uring",
			      .reply_inline_bytes = SIZE_MAX,
			      .reply = uring_reply,
			      .invalidate = uring_invalidate},
		.params = {.ops = server->ops, .reactor = server->world->reactor},
		.device = &server->device,
		.payload_bytes = PAYLOAD_BYTES,
	};
	*entry = (struct entry){.payload = (char *)server->payload, .ring = &server->ring};
}

static void stop_server(struct server *server)
{
	ops_drain(server->ops);
	ops_destroy(server->ops);
	world_run(server->world, close_images, server);
	tree_finish(&server->tree);
	world_clear(server->world);
}

/* ---- messages ---- */

static void lay_down(struct server *server, struct bytes *bytes, unsigned number)
{
	struct entry *entry = &server->entry;
	struct fuse_in_header in = {.opcode = bytes_take(bytes, 1), .nodeid = bytes_take(bytes, 1)};
	size_t payload_bytes = bytes_take(bytes, 2), n;

	in.unique = number + 1;
	memset(&entry->header, 0, sizeof(entry->header));
	memcpy(entry->header.in_out, &in, sizeof(in));
	n = bytes->left < RECORD_HEAD_BYTES ? bytes->left : RECORD_HEAD_BYTES;
	memcpy(entry->header.op_in, bytes->data, n);
	bytes->data += n;
	bytes->left -= n;
	entry->header.ring_ent_in_out.commit_id = in.unique;
	/* Whatever length the kernel says; what is laid down is less. */
	entry->header.ring_ent_in_out.payload_sz = (uint32_t)payload_bytes * 4;
	if (payload_bytes > RECORD_PAYLOAD_MAX)
		payload_bytes = RECORD_PAYLOAD_MAX;
	n = bytes->left < payload_bytes ? bytes->left : payload_bytes;
	memcpy(server->payload, bytes->data, n);
	if (payload_bytes < RECORD_PAYLOAD_MAX)
		entry->header.ring_ent_in_out.payload_sz = (uint32_t)payload_bytes;
	bytes->data += n;
	bytes->left -= n;
}

static void coroutine_fn wait_for_answer(void *arg)
{
	while (!nb_answers) {
		co_sleep(1000);
		sched_yield();
	}
}

static void check_answer(const struct server *server)
{
	const struct fuse_out_header *out = (const void *)server->entry.header.in_out;

	if (nb_answers != 1)
		broken("a message is answered %u times", nb_answers);
	if (out->unique != server->entry.args.commit_id)
		broken("the answer is another message's");
	if (out->error > 0 || out->error < -4095)
		broken("error %d", out->error);
	if (out->len != sizeof(*out) + server->entry.header.ring_ent_in_out.payload_sz ||
	    out->len > sizeof(*out) + PAYLOAD_BYTES || (out->error && out->len != sizeof(*out)))
		broken("an answer of %u bytes", out->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct server server;
	struct bytes bytes = {data, size};

	server.world = world_get();
	start_server(&server, bytes_take(&bytes, 1));
	for (unsigned i = 0; i < MESSAGES_MAX && bytes.left; i++) {
		lay_down(&server, &bytes, i);
		nb_answers = 0;
		serve(&server.entry);
		world_run(server.world, wait_for_answer, NULL);
		check_answer(&server);
	}
	stop_server(&server);
	return 0;
}
