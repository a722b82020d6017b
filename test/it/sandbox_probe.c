/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * sandbox_probe ENGINE: enters the sandbox as the server does, and then tries what an
 * intruder would: from the first thread, from the reactor, from a thread started later, and through
 * a ring that was confined in the same way. Prints what was permitted; exits with 0 when that was
 * nothing, 1, or 77 where the sandbox is not whole.
 */
#include "fuse/sandbox.h"
#include "io/engine_uring.h"
#include "io/uring_setup.h"
#include "io/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NB_OPCODES 64

static unsigned nb_permitted, nb_probes;

struct probe {
	const char *name;
	long nr, args[6];
};

#define P(name, ...)                \
	{                           \
#name, SYS_##name,  \
		{                   \
			__VA_ARGS__ \
		}                   \
	}
#define TEXT(text) ((long)(uintptr_t)(text))

static char page[4096];

static const struct probe probes[] = {
#ifdef SYS_open
	P(open, TEXT("/etc/passwd"), O_RDONLY),
	P(creat, TEXT("/tmp/probe"), 0600),
	P(stat, TEXT("/etc/passwd"), TEXT(page)),
	P(fork, 0),
	P(vfork, 0),
	P(unlink, TEXT("/tmp/none")),
	P(dup2, 1, 100),
#endif
	P(openat, AT_FDCWD, TEXT("/etc/passwd"), O_RDONLY),
	P(openat, AT_FDCWD, TEXT("/proc/self/mem"), O_RDWR),
	P(openat2, AT_FDCWD, TEXT("/etc/passwd"), TEXT(page), 24),
	P(name_to_handle_at, AT_FDCWD, TEXT("/etc"), TEXT(page), TEXT(page + 256), 0),
	P(open_by_handle_at, 0, TEXT(page), O_RDONLY),
	P(newfstatat, AT_FDCWD, TEXT("/etc/passwd"), TEXT(page), 0),
	P(statx, AT_FDCWD, TEXT("/etc/passwd"), 0, 0xfff, TEXT(page)),
	P(readlinkat, AT_FDCWD, TEXT("/proc/self/exe"), TEXT(page), 100),
	P(faccessat, AT_FDCWD, TEXT("/etc/passwd"), 0),
	P(getdents64, 0, TEXT(page), 4096),
	P(unlinkat, AT_FDCWD, TEXT("/tmp/none"), 0),
	P(mkdirat, AT_FDCWD, TEXT("/tmp/none"), 0700),
	P(linkat, AT_FDCWD, TEXT("/a"), AT_FDCWD, TEXT("/b"), 0),
	P(renameat2, AT_FDCWD, TEXT("/a"), AT_FDCWD, TEXT("/b"), 0),
	P(memfd_create, TEXT("x"), 0),
	P(chdir, TEXT("/")),
	P(chroot, TEXT("/")),
	P(execve, TEXT("/bin/true"), 0, 0),
	P(execveat, AT_FDCWD, TEXT("/bin/true"), 0, 0, 0),
	P(clone, SIGCHLD),
	P(clone, CLONE_VM | CLONE_VFORK | SIGCHLD),
	P(unshare, CLONE_NEWUSER),
	P(setns, 0, 0),
	P(socket, AF_INET, SOCK_STREAM, 0),
	P(socket, AF_UNIX, SOCK_DGRAM, 0),
	P(socketpair, AF_UNIX, SOCK_STREAM, 0, TEXT(page)),
	P(connect, 0, TEXT(page), 16),
	P(sendmsg, 0, TEXT(page), 0),
	P(recvmsg, 0, TEXT(page), 0),
	P(ptrace, PTRACE_TRACEME, 0, 0, 0),
	P(process_vm_readv, 1, TEXT(page), 0, TEXT(page), 0, 0),
	P(process_vm_writev, 1, TEXT(page), 0, TEXT(page), 0, 0),
	P(pidfd_open, 1, 0),
	P(pidfd_getfd, 0, 0, 0),
	P(kill, 1, 0),
	P(tgkill, 1, 1, 0),
	P(tkill, 1, 0),
	P(mount, TEXT("none"), TEXT("/"), TEXT("tmpfs"), 0, 0),
	P(umount2, TEXT("/none"), 0),
	P(pivot_root, TEXT("/"), TEXT("/")),
	P(open_tree, AT_FDCWD, TEXT("/"), 0),
	P(fsopen, TEXT("tmpfs"), 0),
	P(move_mount, 0, TEXT(""), 0, TEXT(""), 0),
	P(bpf, 0, TEXT(page), 16),
	P(perf_event_open, TEXT(page), 0, -1, -1, 0),
	P(userfaultfd, 0),
	P(init_module, TEXT(page), 16, TEXT("")),
	P(finit_module, 0, TEXT(""), 0),
	P(add_key, TEXT("user"), TEXT("x"), TEXT("y"), 1, -3),
	P(keyctl, 0, 0),
	P(setresuid, 0, 0, 0),
	P(setresgid, 0, 0, 0),
	P(setgroups, 0, 0),
	P(capset, TEXT(page), TEXT(page)),
	P(seccomp, 0, 0, 0),
	P(prctl, PR_SET_DUMPABLE, 1),
	P(prctl, PR_SET_SECCOMP, 0),
	P(personality, -1),
	P(mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
	P(mprotect, TEXT(page), 4096, PROT_READ | PROT_EXEC),
	P(fcntl, 0, F_SETOWN, 1),
	P(fcntl, 0, F_SETFL, O_ASYNC),
	P(ioctl, 0, TIOCSTI, TEXT("x")),
	P(ioctl, 0, FIOASYNC, TEXT("\1\0\0")),
	P(rt_sigaction, SIGSYS, 0, TEXT(page), 8),
	P(io_uring_setup, 8, TEXT(page)),
	P(io_uring_register, 0, 0 /* buffers */, TEXT(page), 1),
	P(io_uring_register, 0, 9 /* personality */, 0, 0),
	P(copy_file_range, 0, 0, 1, 0, 1, 0),
	P(splice, 0, 0, 1, 0, 1, 0),
	P(sendfile, 1, 0, 0, 1),
	P(shmget, 0, 4096, 01600),
	P(prlimit64, 0, 7, TEXT(page), 0),
};

static void note(bool permitted, const char *where, const char *what, int number)
{
	nb_probes++;
	if (!permitted)
		return;
	nb_permitted++;
	printf("permitted %s: %s (%d)\n", where, what, number);
}

static void try_all(const char *where)
{
	for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++) {
		const struct probe *p = &probes[i];
		long res = syscall(p->nr, p->args[0], p->args[1], p->args[2], p->args[3],
				   p->args[4], p->args[5]);

		note(res != -1 || errno != EPERM, where, p->name, (int)i);
	}
}

static void try_in_worker(void *arg)
{
	try_all("in a thread that was started later");
}

static void coroutine_fn try_in_reactor(void *arg)
{
	try_all("in the reactor");
	worker_run(try_in_worker, NULL);
}

/* ---- a ring ---- */

static bool is_listed(int opcode)
{
	static const int listed[] = {IORING_OP_READ,    IORING_OP_WRITE, IORING_OP_READV,
				     IORING_OP_WRITEV,  IORING_OP_FSYNC, IORING_OP_FALLOCATE,
				     IORING_OP_POLL_ADD};

	for (size_t i = 0; i < sizeof(listed) / sizeof(listed[0]); i++) {
		if (listed[i] == opcode)
			return true;
	}
	return false;
}

static int submit(struct io_uring *ring, int opcode, unsigned flags)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int res;

	if (!sqe)
		abort();
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = (uint8_t)opcode;
	sqe->flags = (uint8_t)flags;
	sqe->poll32_events = opcode == IORING_OP_POLL_ADD ? 4 : 0;
	io_uring_submit_and_wait(ring, 1);
	if (io_uring_peek_cqe(ring, &cqe) < 0)
		return -ENODATA;
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return res;
}

static void try_ring(struct io_uring *ring)
{
	static const unsigned flags[] = {0, IOSQE_FIXED_FILE, IOSQE_FIXED_FILE | IOSQE_ASYNC,
					 IOSQE_FIXED_FILE | IOSQE_IO_LINK,
					 IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT};

	for (int opcode = 0; opcode < NB_OPCODES; opcode++) {
		for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
			bool wanted = is_listed(opcode) && (i == 1 || i == 2);
			int res = submit(ring, opcode, flags[i]);
			/* What the kernel does not know it refuses even earlier. */
			bool denied = res == -EACCES || res == -EINVAL || res == -EOPNOTSUPP;

			note(!wanted && !denied, "through the ring, opcode", "", opcode);
			if (wanted && res == -EACCES) {
				printf("the ring refuses opcode %d, which an engine needs\n",
				       opcode);
				nb_permitted++;
			}
		}
	}
}

static void prepare_ring(struct io_uring *ring)
{
	int fd = eventfd(1, EFD_NONBLOCK);

	if (uring_setup(ring, 64, false, true) || io_uring_register_files(ring, &fd, 1) ||
	    uring_confine(ring, false)) {
		puts("no confined ring");
		exit(1);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	struct sandbox_params params = {0};
	struct reactor_params reactor_params = {.nb_workers = 1};
	bool with_ring = argc > 1 && strcmp(argv[1], "threads");
	struct io_uring ring;
	const char *text;
	int res;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (engine_create_by_name(argc > 1 ? argv[1] : "auto", &reactor_params.engine, &text) < 0 ||
	    reactor_create(&reactor_params, &params.reactor) < 0 ||
	    reactor_start(params.reactor) < 0)
		return 77;
	if (with_ring)
		prepare_ring(&ring);
	res = sandbox_enter(&params, &text);
	if (res < 0) {
		printf("cannot enter: %s: %s\n", text, strerror(-res));
		return 1;
	}
	sandbox_describe(stdout);
	puts("");
	if (with_ring)
		try_ring(&ring);
	if (!sandbox_is_whole())
		return nb_permitted ? 1 : 77;
	try_all("in the first thread");
	reactor_run(params.reactor, try_in_reactor, NULL);
	reactor_destroy(params.reactor);
	printf("%u probes, %u permitted\n", nb_probes, nb_permitted);
	return nb_permitted != 0;
}
