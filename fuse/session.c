/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * session: see session.h.
 */
#include "fuse/session.h"

#include "fuse/daemon.h"
#include "fuse/layout.h"
#include "fuse/log.h"
#include "fuse/ops.h"
#include "fuse/overlay.h"
#include "fuse/transport_dev.h"
#include "fuse/transport_uring.h"
#include "fuse/tree.h"
#include "fuse/unmount.h"
#include "fuse/view.h"
#include "io/buf.h"
#include "io/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define WORKERS_MAX 4u
#define READ_AHEAD_KIB 4096u
/* How often to look whether a file is still open, where nothing else tells. */
#define UNUSED_LOOK_MS 100

struct session {
	const struct options *options;
	struct daemon daemon;
	struct reactor *reactor;
	const char *engine_note; /* why io_uring is not used, or NULL */
	struct host_opener opener;
	struct image_options image_options; /* as wished; an image may get less */
	char *backing_file, *data_file;     /* of image_options, absolute */
	struct image **images;
	unsigned nb_images;
	struct tree tree;
	struct ops *ops;
	struct transport_dev *transport;
	struct transport_uring *ring; /* NULL: the device alone */
	const char *ring_note;        /* why not, or NULL */
	char *mountpoint; /* absolute; NULL: somebody else mounted and passed a descriptor */
	bool single_file; /* the mount point is a regular file */
	bool leaving;     /* told to end while nothing can be unmounted */
	int signal_fd, ended_fd;
	enum exit_status status;
};

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

static enum exit_status start_reactor(struct session *session)
{
	const struct options *options = session->options;
	long nb_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct reactor_params params = {0};
	enum exit_status status;
	int res;

	/*
	 * A server below a loop device must not wait for the very memory that its clients
	 * are writing out. Threads inherit this; it needs CAP_SYS_RESOURCE.
	 */
	if (options->access != ACCESS_READ_ONLY)
		prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);

	res = engine_create_by_name(options->engine, &params.engine, &session->engine_note);
	if (res < 0) {
		log_error("-o io=%s: %s", options->engine, strerror(-res));
		return EXIT_MOUNT;
	}
	status = choose_transport(session, params.engine);
	if (status != EXIT_OK) {
		params.engine->ops->destroy(params.engine);
		return status;
	}
	params.nb_workers = nb_cpus > (long)WORKERS_MAX ? WORKERS_MAX : nb_cpus > 1 ? nb_cpus : 1;
	res = reactor_create(&params, &session->reactor);
	if (res == 0)
		res = reactor_start(session->reactor);
	if (res < 0) {
		log_error("cannot start: %s", strerror(-res));
		return EXIT_MOUNT;
	}
	host_opener_init(&session->opener, session->reactor, options->names,
			 options->cache == CACHE_WRITEBACK);
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

static bool any_writable(const struct session *session)
{
	for (unsigned i = 0; i < session->nb_images; i++) {
		if (image_info(session->images[i])->writable)
			return true;
	}
	return false;
}

/* ---- mounting ---- */

/* Appends a word, with commas and backslashes in its value escaped. */
static void put_word(FILE *out, const char *word, const char *value)
{
	fprintf(out, ",%s", word);
	for (; *value; value++) {
		if (*value == ',' || *value == '\\')
			fputc('\\', out);
		fputc(*value, out);
	}
}

/* The -o list for libfuse; the caller frees it. */
static char *mount_words(const struct session *session)
{
	const struct options *options = session->options;
	char *source = realpath(options->images[0].path, NULL);
	char *words = NULL;
	size_t len;
	FILE *out = open_memstream(&words, &len);

	if (out) {
		fprintf(out, "%s,default_permissions,nosuid,nodev",
			any_writable(session) ? "rw" : "ro");
		if (!options->has_subtype)
			put_word(out, "subtype=", "qcow2fs");
		if (!options->has_fsname)
			put_word(out, "fsname=", source ? source : options->images[0].path);
		if (options->kernel_words)
			fprintf(out, ",%s", options->kernel_words);
		if (fclose(out) != 0) {
			free(words);
			words = NULL;
		}
	}
	free(source);
	return words;
}

static int create_ring(struct session *session)
{
	const struct transport_uring_params params = {
		.ops = session->ops,
		.reactor = session->reactor,
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
	char *words = mount_words(session);
	int res = words ? ops_create(&ops_params, &session->ops) : -ENOMEM;

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

static enum exit_status mount_and_start(struct session *session)
{
	const char *mountpoint =
		session->mountpoint ? session->mountpoint : session->options->mountpoint;
	int res = transport_dev_mount(session->transport, mountpoint);

	if (res < 0) {
		log_error("%s: mount failed", mountpoint);
		return EXIT_MOUNT;
	}
	session->ended_fd = eventfd(0, EFD_CLOEXEC);
	res = session->ended_fd < 0 ? -errno
				    : transport_dev_start(session->transport, session->ended_fd);
	if (res < 0) {
		log_error("cannot start threads: %s", strerror(-res));
		if (session->mountpoint)
			mountpoint_detach(session->mountpoint, true);
		return EXIT_MOUNT;
	}
	return EXIT_OK;
}

/*
 * The mount's read-ahead lets one sequential reader keep several large requests under way.
 * Only root may set it, and nothing depends on it.
 */
static void raise_read_ahead(dev_t dev)
{
	char path[96];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev));
	file = fopen(path, "we");
	if (!file)
		return;
	fprintf(file, "%u\n", READ_AHEAD_KIB);
	fclose(file);
}

static void end_at_once(struct session *session) __attribute__((noreturn));

/* The start fails after all: the threads, which serve already, end with the mount. */
static void stop_serving(struct session *session)
{
	session->status = EXIT_MOUNT;
	/* Whoever passed the descriptor has to unmount it, which cannot be waited for. */
	if (!session->mountpoint)
		end_at_once(session);
	mountpoint_detach(session->mountpoint, true);
	transport_dev_join(session->transport);
}

/* The first answered request shows that the mount works. */
static enum exit_status try_mount(struct session *session)
{
	struct stat st;

	if (!session->mountpoint)
		return EXIT_OK;
	if (stat(session->mountpoint, &st) < 0) {
		log_error("%s: mounted, but does not answer: %s", session->mountpoint,
			  strerror(errno));
		stop_serving(session);
		return EXIT_MOUNT;
	}
	raise_read_ahead(st.st_dev);
	return EXIT_OK;
}

/* ---- --verbose ---- */

static void describe_node(const struct session *session, const struct node *node)
{
	const struct image *image = node->disk->image;
	const struct image_info *info = image_info(image);
	const struct file *file;

	printf("%s on %s%s%s: %" PRIu64 " bytes, clusters of %u, version %u, %s\n",
	       node->disk->host_path,
	       session->mountpoint ? session->mountpoint : session->options->mountpoint,
	       session->single_file ? "" : "/", node->name, info->virtual_size, info->cluster_size,
	       info->version, info->writable ? "writable" : "read-only");
	for (unsigned layer = 0; (file = image_file(image, layer)); layer++)
		printf("  %s %s (%s, blocks of %u)\n", layer ? "backed by" : "stored in",
		       file->name,
		       file->path == FILE_DIRECT     ? "direct I/O"
		       : file->path == FILE_BUFFERED ? "through the page cache"
						     : "in memory",
		       file->align);
	file = image_data_file(image);
	if (file)
		printf("  data in %s\n", file->name);
}

static void describe(const struct session *session)
{
	const struct options *options = session->options;

	for (unsigned i = 0; i < session->tree.nb_nodes; i++) {
		const struct node *node = session->tree.nodes[i];

		if (node->disk && node->disk->image)
			describe_node(session, node);
	}
	printf("I/O engine: %s%s%s\n", reactor_engine(session->reactor)->ops->name,
	       session->engine_note ? ", because " : "",
	       session->engine_note ? session->engine_note : "");
	if (session->ring && transport_uring_is_active(session->ring))
		printf("requests come through io_uring\n");
	else
		printf("requests come through the FUSE device%s%s\n",
		       session->ring_note ? "; " : "",
		       session->ring_note ? session->ring_note : "");
	if (geteuid() != 0 && !options->allow_other && !options->allow_root)
		printf("root cannot read this mount (for sudo mount -o loop, say); "
		       "-o allow_root lets it\n");
	fflush(stdout);
}

/* ---- signals, end ---- */

static int block_signals(struct session *session)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	/* A file that may not grow is an error of the write, EFBIG, and no reason to die. */
	signal(SIGXFSZ, SIG_IGN);
	if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
		return -EINVAL;
	session->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	return session->signal_fd < 0 ? -errno : 0;
}

/* Writes back and closes the images: after this their locks are gone. */
static void finish_images(struct session *session)
{
	if (session->ops)
		ops_drain(session->ops);
	if (session->nb_images > 0)
		reactor_run(session->reactor, close_images, session);
}

/* Everything is unwound, as far as it was built. */
static void end(struct session *session) __attribute__((noreturn));
static void end(struct session *session)
{
	finish_images(session);
	transport_dev_destroy(session->transport);
	transport_uring_destroy(session->ring);
	ops_destroy(session->ops);
	layout_finish(&session->tree);
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
	finish_images(session);
	daemon_end(&session->daemon, session->status);
}

/* The first signal unmounts; when somebody is there, the mount vanishes from the tree
 * of files and is served until the last of them has gone. */
static void unmount_for_signal(struct session *session)
{
	int res;

	daemon_notify("STOPPING=1");
	session->leaving = !session->mountpoint;
	if (session->leaving)
		return;
	res = mountpoint_detach(session->mountpoint, false);
	if (res == 0)
		return;
	log_info("%s: %s; detached, served until its last user is gone", session->mountpoint,
		 strerror(-res));
	res = mountpoint_detach(session->mountpoint, true);
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
	mountpoint_detach(session->mountpoint, false);
	return (int)limit_ms;
}

static void serve(struct session *session)
{
	struct pollfd fds[] = {
		{.fd = session->ended_fd, .events = POLLIN},
		{.fd = session->signal_fd, .events = POLLIN},
	};
	struct signalfd_siginfo info;
	unsigned nb_signals = 0;

	for (;;) {
		if (poll(fds, sizeof(fds) / sizeof(fds[0]), check_idle_ms(session)) <= 0)
			continue;
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
	if (status == EXIT_OK)
		status = start_reactor(session);
	if (status != EXIT_OK)
		return status;
	session->images = calloc(options->nb_images, sizeof(struct image *));
	if (!session->images) {
		log_error("out of memory");
		return EXIT_MOUNT;
	}
	reactor_run(session->reactor, open_images, session);
	status = session->status;
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
		status = mount_and_start(session);
	if (status == EXIT_OK)
		status = try_mount(session);
	if (status != EXIT_OK)
		return status;
	if (options->verbose)
		describe(session);
	res = daemon_ready(&session->daemon);
	if (res < 0) {
		log_error("%s: %s", options->pidfile ? options->pidfile : "/", strerror(-res));
		stop_serving(session);
		return EXIT_MOUNT;
	}
	return EXIT_OK;
}

void session_run(const struct options *options)
{
	struct session session = {.options = options, .signal_fd = -1, .ended_fd = -1};
	int res;

	res = daemon_begin(&session.daemon, options->foreground, options->ready_fd,
			   options->pidfile);
	if (res == 0)
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
