/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * transport_uring: see transport_uring.h.
 *
 * The kernel has a queue for every possible CPU, and sends a request to the queue of the CPU
 * it is made on. Each queue has QUEUE_DEPTH entries, each a header and a payload. An entry
 * is a command in flight while the kernel has it; when the command completes, the entry holds a
 * request, until the command that commits the answer gives it back and fetches the next.
 *
 * A payload is page-aligned: images are read straight into it and written straight from
 * it. Its memory is used as requests touch it, and the kernel hands out the entry first
 * that it got back last, so that few entries stay in use where few requests are under way.
 *
 * Where an image can be read beside the reactor, queues belong to lanes (lanes.h), which
 * answer such reads and hand everything else to the reactor. Whoever gives an entry back
 * gets the next request in it. So entries wander to the reactor with what only it can do; now and
 * then it leaves a read to the lane, which keeps the entry where nothing but reads follow.
 *
 * Invariants:
 *   T1  An entry is either the kernel's (its command is in flight or queued) or holds
 *       one request that ops has.
 *   T2  Commands are submitted by the reactor, or by the lane of the entry's queue, in their rings;
 *       answers from other threads go to the reactor first.
 *   T3  A command that fails is not repeated: the connection is gone, or the kernel has
 *       just turned to the device (a failed REGISTER makes it). `nb_alive` counts the others.
 */
#include "fuse/transport_uring.h"

#include "fuse/lanes.h"
#include "fuse/log.h"
#include "fuse/message.h"
#include "fuse/ops.h"
#include "fuse/uring_abi.h"
#include "io/co_sync.h"
#include "io/engine_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#define QUEUE_DEPTH 32u
/* All payloads together, as long as each has at least PAYLOAD_MIN_BYTES. */
#define PAYLOADS_BYTES (64u << 20)
#define PAYLOAD_MIN_BYTES (128u << 10)
#define PAYLOAD_MAX_BYTES (1u << 20)
/* Of so many requests that a lane could have answered, the reactor leaves one to it. */
#define LANES_EACH 64u
/* The copy of a longer answer is made by a thread of the kernel, not by the reactor. */
#define COMMIT_INLINE_BYTES (64u << 10)

#define PARAMETER "/sys/module/fuse/parameters/enable_uring"
#define POSSIBLE_CPUS "/sys/devices/system/cpu/possible"

/* How long destroy() waits for entries: the connection has ended, so they are coming. */
#define DRAIN_MS 5000u

struct entry {
	struct fuse_uring_req_header header;
	struct uring_cmd cmd;
	struct fuse_uring_cmd_req args;
	struct iovec iov[2]; /* header and payload, for REGISTER */
	char *payload;
	struct transport_uring *ring;
	struct lane *lane;       /* of its queue; NULL: it is the reactor's alone */
	struct request *request; /* on its way from the one to the other */
	struct task task; /* takes an answer to the reactor, or a request to either of them */
};

enum ring_state { RING_IDLE, RING_ACTIVE, RING_FAILED };

struct transport_uring {
	struct transport transport;
	struct transport_uring_params params;
	struct engine *engine;
	struct lanes *lanes; /* NULL: the reactor has all entries */
	struct transport *device;
	unsigned nb_queues, nb_entries;
	size_t payload_bytes;
	uid_t owner;
	struct entry *entries;
	char *payloads;
	unsigned nb_for_lanes;     /* requests that have come to the reactor */
	_Atomic unsigned nb_alive; /* T3 */
	_Atomic int state;
};

/* ---- whether, and how many ---- */

const char *transport_uring_obstacle(void)
{
	FILE *file = fopen(PARAMETER, "re");
	int answer, fd;

	if (!file) {
		/* The module may not have been needed yet. */
		fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
		if (fd >= 0)
			close(fd);
		file = fopen(PARAMETER, "re");
	}
	if (!file)
		return "this kernel has no FUSE over io_uring (Linux 6.14 or later has)";
	answer = fgetc(file);
	fclose(file);
	if (answer != 'Y' && answer != '1')
		return "FUSE over io_uring is switched off; root can switch it on with: "
		       "echo Y > " PARAMETER;
	return NULL;
}

/* FUSE over io_uring was young before Linux 6.18.3: there it is taken when asked for. */
bool transport_uring_is_trusted(void)
{
	unsigned major, minor, patch = 0;
	struct utsname name;

	if (uname(&name) < 0 || sscanf(name.release, "%u.%u.%u", &major, &minor, &patch) < 2)
		return false;
	if (major != 6)
		return major > 6;
	return minor > 18 || (minor == 18 && patch >= 3);
}

/* The number of CPUs in a list such as 0-3,8-11; 0 when it cannot be read. */
static unsigned count_possible_cpus(void)
{
	FILE *file = fopen(POSSIBLE_CPUS, "re");
	unsigned nb_cpus = 0, first, last;

	if (!file)
		return 0;
	while (fscanf(file, "%u", &first) == 1) {
		last = first;
		if (fscanf(file, "-%u", &last) < 0 || last < first)
			last = first;
		nb_cpus += last - first + 1;
		if (fgetc(file) != ',')
			break;
	}
	fclose(file);
	return nb_cpus;
}

static size_t choose_payload_bytes(unsigned nb_entries)
{
	size_t bytes = PAYLOAD_MAX_BYTES;

	while (bytes > PAYLOAD_MIN_BYTES && bytes * nb_entries > PAYLOADS_BYTES)
		bytes /= 2;
	return bytes;
}

int transport_uring_prepare(struct engine *engine)
{
	unsigned nb_queues = count_possible_cpus();

	return nb_queues ? engine_uring_reserve_cmds(engine, nb_queues * QUEUE_DEPTH) : -ENXIO;
}

unsigned transport_uring_payload_bytes(const struct transport_uring *ring)
{
	return (unsigned)ring->payload_bytes;
}

/* ---- answers ---- */

static bool is_lane(const struct lane *lane)
{
	return lane && reactor_is_current(lane_reactor(lane));
}

/* T2: the reactor or the lane, whichever the caller is; NULL: neither of them. */
static struct reactor *who_is_here(const struct entry *entry)
{
	struct reactor *reactor = entry->ring->params.reactor;

	if (is_lane(entry->lane))
		return lane_reactor(entry->lane);
	return reactor_is_current(reactor) ? reactor : NULL;
}

static void coroutine_fn commit_posted(void *arg)
{
	struct entry *entry = arg;

	engine_uring_submit_cmd(entry->ring->engine, &entry->cmd);
}

/* Gives the entry back with its answer: error or the first len_bytes of the payload. T2 */
static void commit(struct entry *entry, int error, size_t len_bytes)
{
	struct reactor *here = who_is_here(entry);
	struct fuse_out_header *out = (struct fuse_out_header *)entry->header.in_out;

	*out = (struct fuse_out_header){
		.len = (uint32_t)(sizeof(*out) + len_bytes),
		.error = error,
		.unique = entry->args.commit_id,
	};
	entry->header.ring_ent_in_out.payload_sz = (uint32_t)len_bytes;
	entry->cmd.in_worker = len_bytes > COMMIT_INLINE_BYTES;
	if (here) {
		engine_uring_submit_cmd(reactor_engine(here), &entry->cmd);
	} else {
		entry->task = (struct task){.fn = commit_posted, .arg = entry};
		reactor_post(entry->ring->params.reactor, &entry->task);
	}
}

static int uring_reply(struct request *request, int error, const struct iovec *iov, int nb_iov)
{
	struct entry *entry = request->token;
	size_t room = entry->ring->payload_bytes, used = 0;

	for (int i = 0; i < nb_iov && !error; i++) {
		if (iov[i].iov_len > room - used) {
			error = -EIO;
			break;
		}
		/* What was read into the payload is where it belongs. */
		if (iov[i].iov_base != entry->payload + used)
			memmove(entry->payload + used, iov[i].iov_base, iov[i].iov_len);
		used += iov[i].iov_len;
	}
	commit(entry, error, error ? 0 : used);
	return 0;
}

static int uring_invalidate(struct transport *transport, uint64_t ino, uint64_t off,
			    uint64_t len_bytes)
{
	struct transport *device = ((struct transport_uring *)transport)->device;

	return device->invalidate(device, ino, off, len_bytes);
}

/* ---- requests ---- */

static void count(const struct entry *entry)
{
	struct lanes *lanes = entry->ring->lanes;

	if (is_lane(entry->lane))
		lane_count(entry->lane);
	else if (lanes)
		lanes_count_elsewhere(lanes);
}

static void coroutine_fn dispatch_posted(void *arg)
{
	const struct entry *entry = arg;

	count(entry);
	ops_dispatch(entry->request);
}

/* Who is to dispatch a request that the caller has got: the reactor or a lane. */
static struct reactor *choose(const struct entry *entry, const struct request *request)
{
	struct transport_uring *ring = entry->ring;

	if (is_lane(entry->lane))
		return request->op == REQUEST_READ ? lane_reactor(entry->lane)
						   : ring->params.reactor;
	if (!entry->lane || !ops_fits_beside(request) || ++ring->nb_for_lanes % LANES_EACH != 0)
		return ring->params.reactor;
	return lane_reactor(entry->lane);
}

static void dispatch(struct entry *entry, struct request *request)
{
	struct reactor *reactor = choose(entry, request);

	if (reactor_is_current(reactor)) {
		ops_dispatch(request);
		return;
	}
	entry->request = request;
	entry->task = (struct task){.fn = dispatch_posted, .arg = entry};
	reactor_post(reactor, &entry->task);
}

static void serve(struct entry *entry)
{
	struct transport_uring *ring = entry->ring;
	const struct fuse_in_header *in = (const void *)entry->header.in_out;
	uint32_t payload_bytes = entry->header.ring_ent_in_out.payload_sz;
	const struct message message = {
		.unique = in->unique,
		.opcode = in->opcode,
		.node_id = in->nodeid,
		.uid = in->uid,
		.head = entry->header.op_in,
		.head_bytes = sizeof(entry->header.op_in),
		.payload = entry->payload,
		.payload_bytes =
			payload_bytes < ring->payload_bytes ? payload_bytes : ring->payload_bytes,
	};
	struct request *request = request_get(ring->params.ops);
	size_t zero_bytes = 0;
	int res;

	entry->args.commit_id = entry->header.ring_ent_in_out.commit_id;
	if (ring->params.debug)
		message_print(&message, "ring");
	if (!request) {
		commit(entry, -ENOMEM, 0);
		return;
	}
	if (ring->params.allow_root && message_is_kept_out(&message, ring->owner)) {
		request_drop(request);
		commit(entry, -EACCES, 0);
		return;
	}
	request->transport = &ring->transport;
	request->token = entry;
	request->area = entry->payload;
	request->area_bytes = ring->payload_bytes;
	res = message_parse(&message, request, &zero_bytes);
	if (res == 0) {
		dispatch(entry, request);
		return;
	}
	request_drop(request);
	memset(entry->payload, 0, zero_bytes);
	commit(entry, res < 0 ? res : 0, zero_bytes);
}

static void give_up(struct transport_uring *ring, int error)
{
	if (atomic_exchange(&ring->state, RING_FAILED) != RING_FAILED)
		log_warning("FUSE over io_uring cannot be set up (%s); requests come through "
			    "the device",
			    strerror(-error));
}

static void cmd_done(struct uring_cmd *cmd, int result)
{
	struct entry *entry = (struct entry *)((char *)cmd - offsetof(struct entry, cmd));
	struct transport_uring *ring = entry->ring;
	bool registering = cmd->op == FUSE_IO_URING_CMD_REGISTER;

	cmd->op = FUSE_IO_URING_CMD_COMMIT_AND_FETCH;
	cmd->iov = NULL;
	cmd->nb_iov = 0;
	if (result >= 0) {
		count(entry);
		serve(entry);
		return;
	}
	/* T3 */
	atomic_fetch_sub(&ring->nb_alive, 1);
	if (result == -ENOTCONN || result == -ECONNABORTED || result == -ECANCELED)
		return; /* unmounted */
	if (!registering)
		log_error("FUSE over io_uring: an answer was not taken: %s", strerror(-result));
	else
		give_up(ring, result);
}

/* ---- life ---- */

struct device_setting {
	struct engine *engine;
	int fd;
	bool registered;
};

static void coroutine_fn set_device_here(void *arg)
{
	struct device_setting *setting = arg;

	setting->registered = engine_uring_set_cmd_file(setting->engine, setting->fd);
}

static bool set_device(struct reactor *reactor, int fd)
{
	struct device_setting setting = {.engine = reactor_engine(reactor), .fd = fd};

	reactor_run(reactor, set_device_here, &setting);
	return setting.registered;
}

bool transport_uring_set_device(struct transport_uring *ring, int fd)
{
	bool good = set_device(ring->params.reactor, fd);

	for (unsigned i = 0; i < lanes_count(ring->lanes); i++)
		good &= set_device(lane_reactor(lane_at(ring->lanes, i)), fd);
	if (good || !ring->params.confined)
		return true;
	set_device(ring->params.reactor, -1);
	give_up(ring, -ENOMEM);
	return false;
}

static void coroutine_fn register_queue(void *arg)
{
	struct entry *first = arg;
	struct engine *engine = reactor_engine(who_is_here(first));

	for (unsigned i = 0; i < QUEUE_DEPTH; i++)
		engine_uring_submit_cmd(engine, &first[i].cmd);
}

/* The kernel turns to the ring when the last queue begins. */
void transport_uring_start(struct transport_uring *ring, struct transport *device)
{
	ring->device = device;
	ring->nb_alive = ring->nb_entries;
	ring->state = RING_ACTIVE;
	for (unsigned i = 0; i < ring->nb_entries; i += QUEUE_DEPTH) {
		struct entry *first = &ring->entries[i];

		first->task = (struct task){.fn = register_queue, .arg = first};
		reactor_post(first->lane ? lane_reactor(first->lane) : ring->params.reactor,
			     &first->task);
	}
}

bool transport_uring_is_active(const struct transport_uring *ring)
{
	return ring->state == RING_ACTIVE;
}

unsigned transport_uring_nb_lanes(const struct transport_uring *ring)
{
	return lanes_count(ring->lanes);
}

static void entry_init(struct transport_uring *ring, unsigned index)
{
	struct entry *entry = &ring->entries[index];

	entry->ring = ring;
	entry->payload = ring->payloads + index * ring->payload_bytes;
	entry->iov[0] = (struct iovec){&entry->header, sizeof(entry->header)};
	entry->iov[1] = (struct iovec){entry->payload, ring->payload_bytes};
	entry->args.qid = (uint16_t)(index / QUEUE_DEPTH);
	if (ring->lanes)
		entry->lane = lane_of_queue(ring->lanes, entry->args.qid);
	entry->cmd = (struct uring_cmd){
		.op = FUSE_IO_URING_CMD_REGISTER,
		.iov = entry->iov,
		.nb_iov = 2,
		.args = &entry->args,
		.args_bytes = sizeof(entry->args),
		.done = cmd_done,
	};
}

static int alloc_entries(struct transport_uring *ring)
{
	size_t bytes = ring->nb_entries * ring->payload_bytes;
	void *payloads;

	/* NOLINTNEXTLINE(clang-analyzer-optin.portability.UnixAPI): every machine has a CPU */
	ring->entries = calloc(ring->nb_entries, sizeof(*ring->entries));
	if (!ring->entries)
		return -ENOMEM;
	payloads = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (payloads == MAP_FAILED)
		return -errno;
	ring->payloads = payloads;
	/* Small requests touch little of each payload: that shall be all that they cost. */
	madvise(payloads, bytes, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < ring->nb_entries; i++)
		entry_init(ring, i);
	return 0;
}

struct ring_check {
	struct engine *engine;
	bool good;
};

static void coroutine_fn check_ring(void *arg)
{
	struct ring_check *check = arg;

	check->good = engine_uring_takes_cmds(check->engine);
}

/* Without them everything works, too. */
static void create_lanes(struct transport_uring *ring)
{
	const struct lanes_params params = {
		.nb_queues = ring->nb_queues,
		.nb_cmds_per_queue = QUEUE_DEPTH,
		.busy_ns = ring->params.busy_ns,
		.confined = ring->params.confined,
	};

	if (lanes_create(&params, &ring->lanes) < 0)
		ring->lanes = NULL;
}

static void free_ring(struct transport_uring *ring)
{
	lanes_destroy(ring->lanes);
	if (ring->payloads)
		munmap(ring->payloads, ring->nb_entries * ring->payload_bytes);
	free(ring->entries);
	free(ring);
}

int transport_uring_create(const struct transport_uring_params *params,
			   struct transport_uring **ret_ring)
{
	struct transport_uring *ring = calloc(1, sizeof(*ring));
	struct ring_check check = {.engine = reactor_engine(params->reactor)};
	int res;

	if (!ring)
		return -ENOMEM;
	ring->transport = (struct transport){
		.name = "uring",
		.reply_inline_bytes = SIZE_MAX,
		.reply = uring_reply,
		.invalidate = uring_invalidate,
	};
	ring->params = *params;
	ring->owner = getuid();
	ring->engine = check.engine;
	ring->nb_queues = count_possible_cpus();
	ring->nb_entries = ring->nb_queues * QUEUE_DEPTH;
	ring->payload_bytes = choose_payload_bytes(ring->nb_entries);
	/* Once INIT has accepted the ring, nothing works without it: look before. */
	reactor_run(params->reactor, check_ring, &check);
	res = check.good ? 0 : -ENXIO;
	if (res == 0 && params->reads_beside && params->busy_ns)
		create_lanes(ring);
	if (res == 0)
		res = alloc_entries(ring);
	if (res < 0) {
		free_ring(ring);
		return res;
	}
	*ret_ring = ring;
	return 0;
}

static void coroutine_fn drain(void *arg)
{
	const struct transport_uring *ring = arg;

	for (unsigned ms = 0; ring->nb_alive > 0 && ms < DRAIN_MS; ms++)
		co_sleep(1000000);
}

void transport_uring_destroy(struct transport_uring *ring)
{
	if (!ring)
		return;
	if (ring->nb_alive > 0)
		reactor_run(ring->params.reactor, drain, ring);
	/* Where somebody still holds a mount that was taken away, the process' end does the rest.
	 */
	if (ring->nb_alive > 0) {
		lanes_stop(ring->lanes);
		return;
	}
	free_ring(ring);
}
