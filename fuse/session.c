/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * session: see session.h.
 */
#include "fuse/session.h"

#include "fuse/helper.h"
#include "fuse/layout.h"
#include "fuse/log.h"
#include "fuse/mount_words.h"
#include "fuse/mountpoint.h"
#include "fuse/ops.h"
#include "fuse/sandbox.h"
#include "fuse/session_int.h"
#include "fuse/transport_dev.h"
#include "fuse/transport_uring.h"
#include "io/buf.h"
#include "io/engine_uring.h"
#include "io/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define WORKERS_MAX 4u
/* Some more than it takes to wake an idle CPU of a virtual machine; see reactor_params. */
#define BUSY_NS 100000u
/* How often to look whether a file is still open, where nothing else tells. */
#define UNUSED_LOOK_MS 100

/* ---- the mount point ---- */

/* mount(8) with drop_privileges mounts by itself and names the descriptor as /dev/fd/N. */
static bool is_passed_descriptor(const char *mountpoint)
{
	return !strncmp(mountpoint, "/dev/fd/", strlen("/dev/fd/"));
}

static enum exit_status check_mountpoint(struct session *session)
{
	const char *path = session->options->mountpoint;
	struct statfs fs;
	struct stat st;

	if (is_passed_descriptor(path)) {
		/* Who mounted decided about permissions; without their check all may do all. */
		if (session->options->default_permissions ||
		    (!session->options->allow_other && !session->options->allow_root))
			return EXIT_OK;
		log_error("%s: allow_other and drop_privileges need default_permissions, too",
			  path);
		return EXIT_MOUNT;
	}
	/* Attributes of a stale mount may be cached; statfs always asks. */
	if (stat(path, &st) < 0 || (statfs(path, &fs) < 0 && mountpoint_is_stale(errno))) {
		if (mountpoint_is_stale(errno))
			log_error("%s: a mount whose server is gone; remove it with: qcow2fs -u %s",
				  path, path);
		else
			log_error("%s: %s", path, strerror(errno));
		return EXIT_MOUNT;
	}
	session->single_file = S_ISREG(st.st_mode);
	if (!S_ISDIR(st.st_mode) && !session->single_file) {
		log_error("%s: neither a directory nor a regular file", path);
		return EXIT_MOUNT;
	}
	if (session->single_file && session->options->nb_images > 1) {
		log_error("%s: a regular file can show one image only; give a directory", path);
		return EXIT_MOUNT;
	}
	session->mountpoint = realpath(path, NULL);
	if (!session->mountpoint) {
		log_error("%s: %s", path, strerror(errno));
		return EXIT_MOUNT;
	}
	return EXIT_OK;
}

/* ---- reactor and images ---- */

/* Prepares the engine for FUSE over io_uring where that is wanted, or says why not. */
static enum exit_status choose_transport(struct session *session, struct engine *engine)
{
	enum transport_wish wish = session->options->transport;

	if (wish == WISH_DEV)
		return EXIT_OK;
	session->ring_note = transport_uring_obstacle();
	if (!session->ring_note && wish == WISH_AUTO && !transport_uring_is_trusted())
		session->ring_note = "io_uring only with -o transport=uring before Linux 6.18.3";
	if (!session->ring_note && transport_uring_prepare(engine) < 0)
		session->ring_note = "it needs -o io=uring, and memory for the ring";
	if (!session->ring_note || wish == WISH_AUTO)
		return EXIT_OK;
	log_error("-o transport=uring: %s", session->ring_note);
	return EXIT_MOUNT;
}

/* An engine that can be confined, where it is to be. */
static int create_engine(struct session *session, struct engine **ret_engine)
{
	const char *name = session->options->engine;
	int res = engine_create_by_name(name, ret_engine, &session->engine_note);

	if (res < 0 || session->options->no_sandbox || strcmp(name, "auto") ||
	    engine_uring_can_be_confined(*ret_engine))
		return res;
	(*ret_engine)->ops->destroy(*ret_engine);
	res = engine_create_by_name("threads", ret_engine, &session->engine_note);
	session->engine_note = "this kernel cannot confine io_uring";
	return res;
}

/* How many CPUs this process may use. */
static unsigned count_cpus(void)
{
	cpu_set_t cpus;

	/* It fails where there are more of them than the set has room for. */
	return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus)
							      : CPU_SETSIZE;
}

/* Where clients have no other CPU to run on, looking out for them is in their way. */
static uint64_t busy_ns(void)
{
	return count_cpus() > 1 ? BUSY_NS : 0;
}

static enum exit_status start_reactor(struct session *session)
{
	const struct options *options = session->options;
	unsigned nb_cpus = count_cpus();
	struct reactor_params params = {0};
	enum exit_status status;
	int res;

	/*
	 * A server below a loop device must not wait for the very memory that its clients
	 * are writing out. Threads inherit this; it needs CAP_SYS_RESOURCE.
	 */
	if (options->access != ACCESS_READ_ONLY)
		prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);

	res = create_engine(session, &params.engine);
	if (res < 0) {
		log_error("-o io=%s: %s", options->engine, strerror(-res));
		return EXIT_MOUNT;
	}
	status = choose_transport(session, params.engine);
	if (status != EXIT_OK) {
		params.engine->ops->destroy(params.engine);
		return status;
	}
	params.busy_ns = busy_ns();
	params.nb_workers = nb_cpus < WORKERS_MAX ? nb_cpus : WORKERS_MAX;
	res = reactor_create(&params, &session->reactor);
	if (res == 0)
		res = reactor_start(session->reactor);
	if (res < 0) {
		log_error("cannot start: %s", strerror(-res));
		return EXIT_MOUNT;
	}
	host_opener_init(&session->opener, session->reactor, options->names,
			 options->cache == CACHE_WRITEBACK);
	session->opener.keeps = options->snapshots;
	/* A view is opened after the working directory has changed. */
	if (options->backing_file)
		session->backing_file = realpath(options->backing_file, NULL);
	if (options->data_file)
		session->data_file = realpath(options->data_file, NULL);
	session->image_options = (struct image_options){
		.writable = options->access != ACCESS_READ_ONLY,
		.force_share = options->force_share,
		.snapshot = options->snapshot,
		.backing_file =
			session->backing_file ? session->backing_file : options->backing_file,
		.data_file = session->data_file ? session->data_file : options->data_file,
		.l2_cache_bytes = options->l2_cache_bytes,
	};
	return EXIT_OK;
}

/* ---- mounting ---- */

static int create_ring(struct session *session)
{
	const struct transport_uring_params params = {
		.ops = session->ops,
		.reactor = session->reactor,
		.busy_ns = busy_ns(),
		.reads_beside = session->reads_beside,
		.confined = !session->options->no_sandbox,
		.debug = session->options->debug,
		.allow_root = session->options->allow_root,
	};

	if (session->options->transport == WISH_DEV || session->ring_note)
		return 0;
	return transport_uring_create(&params, &session->ring);
}

static enum exit_status create_server(struct session *session)
{
	const struct options *options = session->options;
	const struct ops_params ops_params = {
		.reactor = session->reactor,
		.tree = &session->tree,
		.cache = options->cache,
		.sync = options->sync,
		.grow = options->grow,
		.shrink = options->shrink,
		.discard_keeps_space = options->discard_keeps_space,
	};
	struct transport_dev_params params = {
		.reactor = session->reactor,
		.nb_threads = options->nb_threads ? options->nb_threads : TRANSPORT_DEV_THREADS,
		.writeback_cache = options->cache == CACHE_WRITEBACK,
		.debug = options->debug,
		.allow_root = options->allow_root,
	};
	char *words = mount_words(options, session_any_writable(session));
	unsigned nb_cpus = count_cpus();
	int res = words ? ops_create(&ops_params, &session->ops) : -ENOMEM;

	/* One CPU is the reactor's. */
	if (session->reads_beside)
		params.nb_helpers =
			nb_cpus - 1 < params.nb_threads ? nb_cpus - 1 : params.nb_threads;
	if (res == 0)
		res = create_ring(session);
	if (res == 0)
		res = log_start_thread();
	if (res == 0) {
		params.ops = session->ops;
		params.ring = session->ring;
		params.mount_words = words;
		res = transport_dev_create(&params, &session->transport);
	}
	free(words);
	if (res == 0)
		return EXIT_OK;
	log_error("cannot start the server: %s", strerror(-res));
	return EXIT_MOUNT;
}

static void detach_now(struct session *session)
{
	if (session->mountpoint)
		helper_detach(session->daemon.helper, true);
}

static enum exit_status mount(struct session *session)
{
	const char *mountpoint =
		session->mountpoint ? session->mountpoint : session->options->mountpoint;
	int res = transport_dev_mount(session->transport, mountpoint);

	if (res < 0)
		return EXIT_MOUNT;
	res = helper_note_mount(session->daemon.helper);
	if (res < 0) {
		log_error("%s: cannot be seen after the mount: %s", mountpoint, strerror(-res));
		return EXIT_MOUNT;
	}
	session->ended_fd = eventfd(0, EFD_CLOEXEC);
	res = session->ended_fd < 0 ? -errno : daemon_leave_folder(&session->daemon);
	if (res < 0) {
		log_error("cannot start: %s", strerror(-res));
		detach_now(session);
		return EXIT_MOUNT;
	}
	return EXIT_OK;
}

static void end_at_once(struct session *session) __attribute__((noreturn));

/* The start fails after all: the threads, which serve already, end with the mount. */
static void stop_serving(struct session *session)
{
	session->status = EXIT_MOUNT;
	/* Whoever passed the descriptor has to unmount it, which cannot be waited for. */
	if (!session->mountpoint)
		end_at_once(session);
	helper_detach(session->daemon.helper, true);
	transport_dev_join(session->transport);
}

/* Whose effective ids root takes: those of the owner of all images. */
static void find_owner(const struct session *session, struct sandbox_params *params)
{
	struct stat st;

	for (unsigned i = 0; i < session->nb_images; i++) {
		if (fstat(image_file(session->images[i], 0)->fd, &st) < 0)
			return;
		if (i > 0 && st.st_uid != params->uid) {
			params->uid = 0;
			return;
		}
		params->uid = st.st_uid;
		params->gid = st.st_gid;
	}
}

/* Everything is open, nothing has been served: from here on the server opens nothing. */
static enum exit_status confine(struct session *session)
{
	struct sandbox_params params = {.reactor = session->reactor};
	const char *part;
	int res;

	host_opener_seal(&session->opener);
	if (session->options->no_sandbox)
		return EXIT_OK;
	find_owner(session, &params);
	res = sandbox_enter(&params, &part);
	if (res == 0)
		return EXIT_OK;
	log_error("cannot enter the sandbox (%s: %s); -o sandbox=off goes without", part,
		  strerror(-res));
	detach_now(session);
	return EXIT_MOUNT;
}

/* The first answered request shows that the mount works. */
static enum exit_status begin_service(struct session *session)
{
	int res = transport_dev_start(session->transport, session->ended_fd);

	if (res < 0) {
		log_error("cannot start threads: %s", strerror(-res));
		detach_now(session);
		return EXIT_MOUNT;
	}
	res = helper_try_mount(session->daemon.helper);
	if (res < 0) {
		log_error("%s: mounted, but does not answer: %s", session->mountpoint,
			  strerror(-res));
		stop_serving(session);
		return EXIT_MOUNT;
	}
	return EXIT_OK;
}

/* ---- --verbose ---- */

static void describe_node(const struct session *session, const struct node *node)
{
	const struct image *image = node->disk->image;
	const struct image_info *info = image_info(image);
	const struct file *file;

	text_print(stdout, "%s on %s%s%s", node->disk->host_path,
		   session->mountpoint ? session->mountpoint : session->options->mountpoint,
		   session->single_file ? "" : "/", node->name);
	printf(": %" PRIu64 " bytes, clusters of %u, version %u, %s\n", info->virtual_size,
	       info->cluster_size, info->version, info->writable ? "writable" : "read-only");
	for (unsigned layer = 0; (file = image_file(image, layer)); layer++) {
		text_print(stdout, "  %s %s", layer ? "backed by" : "stored in", file->name);
		printf(" (%s, blocks of %u)\n",
		       file->path == FILE_DIRECT     ? "direct I/O"
		       : file->path == FILE_BUFFERED ? "through the page cache"
						     : "in memory",
		       file->align);
	}
	file = image_data_file(image, 0);
	if (file)
		text_print_line(stdout, "  data in %s", file->name);
}

static void describe(const struct session *session)
{
	const struct options *options = session->options;
	static char buf[BUFSIZ];

	/* Else stdio asks what kind of file it is, by a system call that takes names. */
	setvbuf(stdout, buf, _IOLBF, sizeof(buf));
	for (unsigned i = 0; i < session->tree.nb_nodes; i++) {
		const struct node *node = session->tree.nodes[i];

		if (node->disk && node->disk->image)
			describe_node(session, node);
	}
	printf("I/O engine: %s%s%s\n", reactor_engine(session->reactor)->ops->name,
	       session->engine_note ? ", because " : "",
	       session->engine_note ? session->engine_note : "");
	if (session->ring && transport_uring_is_active(session->ring))
		printf("requests come through io_uring, reads on %u lanes\n",
		       transport_uring_nb_lanes(session->ring));
	else
		printf("requests come through the FUSE device%s%s\n",
		       session->ring_note ? "; " : "",
		       session->ring_note ? session->ring_note : "");
	sandbox_describe(stdout);
	putchar('\n');
	if (!session->by_root && !options->allow_other && !options->allow_root)
		printf("root cannot read this mount (for sudo mount -o loop, say); "
		       "-o allow_root lets it\n");
	fflush(stdout);
}

/* ---- signals, end ---- */

/* As nohup and shells do for what they start, in the foreground, so that it outlives a terminal. */
static bool is_ignored(const struct session *session, int number)
{
	struct sigaction action;

	return session->options->foreground && sigaction(number, NULL, &action) == 0 &&
	       action.sa_handler == SIG_IGN;
}

static int block_signals(struct session *session)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	/* A blocked signal is not ignored. */
	if (!is_ignored(session, SIGINT))
		sigaddset(&set, SIGINT);
	if (!is_ignored(session, SIGHUP))
		sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	/* A file that may not grow is an error of the write, EFBIG, and no reason to die. */
	signal(SIGXFSZ, SIG_IGN);
	if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
		return -EINVAL;
	session->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	return session->signal_fd < 0 ? -errno : 0;
}

/* Everything is unwound, as far as it was built. */
static void end(struct session *session) __attribute__((noreturn));
static void end(struct session *session)
{
	session_close_images(session);
	transport_dev_destroy(session->transport);
	transport_uring_destroy(session->ring);
	ops_destroy(session->ops);
	layout_finish(&session->tree);
	host_opener_finish(&session->opener);
	reactor_destroy(session->reactor);
	buf_trim();
	free(session->images);
	free(session->mountpoint);
	free(session->backing_file);
	free(session->data_file);
	daemon_end(&session->daemon, session->status);
}

/* The threads still wait for requests: they are told that it is over, and left behind. */
static void end_at_once(struct session *session)
{
	session_close_images(session);
	daemon_end(&session->daemon, session->status);
}

/* The first signal unmounts; when somebody is there, the mount vanishes from the tree
 * of files and is served until the last of them has gone. */
static void unmount_for_signal(struct session *session)
{
	int res;

	daemon_notify(&session->daemon, "STOPPING=1");
	session->leaving = !session->mountpoint;
	if (session->leaving)
		return;
	res = helper_detach(session->daemon.helper, false);
	if (res == 0)
		return;
	log_info("%s: %s; detached, served until its last user is gone", session->mountpoint,
		 strerror(-res));
	res = helper_detach(session->daemon.helper, true);
	if (res < 0)
		log_error("%s: cannot be unmounted: %s", session->mountpoint, strerror(-res));
}

/* Of a mount that somebody else has to unmount. Returns as check_idle_ms(). */
static int check_unused_ms(struct session *session)
{
	if (ops_idle_ns(session->ops) == 0)
		return UNUSED_LOOK_MS;
	log_info("%s: told to end; who mounted it has to unmount it", session->options->mountpoint);
	end_at_once(session);
}

/* Unmounts when idle long enough. Returns how long to wait before looking again, -1: for ever. */
static int check_idle_ms(struct session *session)
{
	uint64_t limit_ms = (uint64_t)session->options->idle_timeout_s * 1000u;
	uint64_t idle_ms = ops_idle_ns(session->ops) / 1000000u;

	if (session->leaving)
		return check_unused_ms(session);
	if (!limit_ms || !session->mountpoint)
		return -1;
	if (idle_ms < limit_ms)
		return (int)(limit_ms - idle_ms);
	/* A working directory inside keeps it busy without any request. */
	helper_detach(session->daemon.helper, false);
	return (int)limit_ms;
}

static void serve(struct session *session)
{
	struct pollfd fds[] = {
		{.fd = session->ended_fd, .events = POLLIN},
		{.fd = session->signal_fd, .events = POLLIN},
		{.fd = sandbox_event_fd(), .events = POLLIN},
	};
	struct signalfd_siginfo info;
	unsigned nb_signals = 0;

	for (;;) {
		if (poll(fds, sizeof(fds) / sizeof(fds[0]), check_idle_ms(session)) <= 0)
			continue;
		if (fds[2].revents)
			sandbox_log_refused();
		if (fds[0].revents)
			return;
		if (!fds[1].revents || read(session->signal_fd, &info, sizeof(info)) < 0)
			continue;
		if (nb_signals++ > 0) {
			log_warning("%s: ending while in use", session->options->mountpoint);
			end_at_once(session);
		}
		unmount_for_signal(session);
	}
}

/* ---- start ---- */

static enum exit_status start(struct session *session)
{
	const struct options *options = session->options;
	enum exit_status status;
	int res;

	status = check_mountpoint(session);
	if (status != EXIT_OK)
		return status;
	res = daemon_prepare(&session->daemon, session->mountpoint, options->auto_unmount);
	if (res < 0) {
		log_error("cannot start: %s", strerror(-res));
		return EXIT_MOUNT;
	}
	status = start_reactor(session);
	if (status != EXIT_OK)
		return status;
	status = session_open_images(session);
	if (status == EXIT_OK)
		status = layout_build(&(struct layout){.options = options,
						       .images = session->images,
						       .single_file = session->single_file,
						       .reactor = session->reactor,
						       .opener = &session->opener.opener,
						       .image_options = &session->image_options},
				      &session->tree);
	if (status == EXIT_OK)
		status = create_server(session);
	if (status == EXIT_OK)
		status = mount(session);
	if (status == EXIT_OK)
		status = confine(session);
	if (status == EXIT_OK)
		status = begin_service(session);
	if (status != EXIT_OK)
		return status;
	if (options->verbose)
		describe(session);
	res = daemon_ready(&session->daemon);
	if (res < 0) {
		if (res == -ECANCELED)
			log_error("%s: not mounted after all: who asked for it was killed",
				  options->mountpoint);
		else
			log_error("%s: %s", options->pidfile ? options->pidfile : "/",
				  strerror(-res));
		stop_serving(session);
		return EXIT_MOUNT;
	}
	return EXIT_OK;
}

void session_run(const struct options *options)
{
	struct session session = {
		.options = options, .by_root = geteuid() == 0, .signal_fd = -1, .ended_fd = -1};
	int res;

	res = daemon_begin(&session.daemon, options->foreground, options->ready_fd,
			   options->pidfile);
	if (res < 0)
		daemon_end(&session.daemon, EXIT_MOUNT);
	res = block_signals(&session);
	if (res < 0) {
		log_error("cannot start: %s", strerror(-res));
		daemon_end(&session.daemon, EXIT_MOUNT);
	}
	res = log_open(options->log_file, options->quiet);
	if (res < 0) {
		log_error("%s: %s", options->log_file, strerror(-res));
		daemon_end(&session.daemon, EXIT_MOUNT);
	}
	session.status = start(&session);
	if (session.status == EXIT_OK) {
		serve(&session);
		transport_dev_join(session.transport);
	}
	end(&session);
}
