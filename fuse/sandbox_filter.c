/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * sandbox_filter: see sandbox_filter.h.
 *
 * A small program for the kernel, made of one table. What takes a name is not in it: a
 * filter cannot see names. Calls whose arguments decide have a condition on one of them,
 * of which the lower 32 bits count: the kernel looks at no more of these.
 */
#include "fuse/sandbox_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__x86_64__) && defined(__LP64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#ifdef ARCHITECTURE

#define REGISTER_FILES_UPDATE 6 /* of io_uring_register */
#define ANY 0xff

/* Passes when (argument & mask) == value; `arg` ANY: always. */
struct rule {
	int nr;
	uint8_t arg;
	uint32_t mask, value;
};

#define NAMESPACES                                                                     \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
	 CLONE_NEWPID | CLONE_NEWNET)
#define PASS(name)                    \
	{                             \
		SYS_##name, ANY, 0, 0 \
	}
#define PASS_IF(name, arg, mask, value)      \
	{                                    \
		SYS_##name, arg, mask, value \
	}

/* Rules about one call stand together. */
static const struct rule rules[] = {
	/* requests, and their answers */
	PASS(read),
	PASS(write),
	PASS(writev),
	PASS(io_uring_enter),
	PASS_IF(io_uring_register, 1, ~0u, REGISTER_FILES_UPDATE),
	PASS(futex),
#ifdef SYS_poll
	PASS(poll),
#endif
	PASS(ppoll),
	PASS(clock_gettime),
	/* images */
	PASS(preadv),
	PASS(pwritev),
	PASS(preadv2),
	PASS(pwritev2),
	PASS(fdatasync),
	PASS(fallocate),
	PASS(ftruncate),
	PASS(lseek),
	PASS(fstat),
	PASS(fstatfs),
	PASS(close),
	PASS(dup3),
	PASS_IF(fcntl, 1, ~0u, F_OFD_SETLK),
	PASS_IF(fcntl, 1, ~0u, F_DUPFD_CLOEXEC),
	PASS_IF(fcntl, 1, ~0u, F_GETFL),
	PASS_IF(ioctl, 1, ~0u, BLKGETSIZE64),
	PASS_IF(ioctl, 1, ~0u, FIONBIO),
	/* memory, without machine code in it */
	PASS(brk),
	PASS_IF(mmap, 2, PROT_EXEC, 0),
	PASS_IF(mprotect, 2, PROT_EXEC, 0),
	PASS(munmap),
	PASS(mremap),
	PASS(madvise),
	/* threads, not processes */
	PASS_IF(clone, 0, CLONE_THREAD | NAMESPACES, CLONE_THREAD),
	PASS(set_robust_list),
#ifdef SYS_rseq
	PASS(rseq),
#endif
	PASS_IF(prctl, 0, ~0u, PR_SET_NAME),
	PASS(rt_sigprocmask),
	PASS(rt_sigreturn),
	PASS(restart_syscall),
	PASS_IF(sched_setaffinity, 0, ~0u, 0), /* of whoever calls it */
	PASS(gettid),
	PASS(getpid),
	/* the end */
	PASS(wait4),
	PASS_IF(tgkill, 0, ~0u, 0), /* the value is this process, see add_rules() */
	PASS(exit),
	PASS(exit_group),
};

#define NB_RULES (sizeof(rules) / sizeof(rules[0]))
#define INSTRUCTIONS_MAX (8 + 5 * NB_RULES)

struct program {
	struct sock_filter code[INSTRUCTIONS_MAX];
	unsigned short len;
};

static void add(struct program *program, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
	program->code[program->len++] =
		(struct sock_filter){.code = code, .jt = jt, .jf = jf, .k = k};
}

static void add_load(struct program *program, size_t offset)
{
	add(program, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

static void add_return(struct program *program, uint32_t action)
{
	add(program, BPF_RET | BPF_K, 0, 0, action);
}

/* The accumulator holds the number, before and (where the rule does not apply) after. */
static void add_rule(struct program *program, const struct rule *rule)
{
	/* Both processors are little-endian: the lower half comes first. */
	size_t argument = offsetof(struct seccomp_data, args) + 8 * (size_t)rule->arg;
	uint32_t value = rule->nr == SYS_tgkill ? (uint32_t)getpid() : rule->value;

	if (rule->arg == ANY) {
		add(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, (uint32_t)rule->nr);
		add_return(program, SECCOMP_RET_ALLOW);
		return;
	}
	add(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 5, (uint32_t)rule->nr);
	add_load(program, argument);
	add(program, BPF_ALU | BPF_AND | BPF_K, 0, 0, rule->mask);
	add(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, value);
	add_return(program, SECCOMP_RET_ALLOW);
	add_load(program, offsetof(struct seccomp_data, nr));
}

static void make_program(struct program *program)
{
	add_load(program, offsetof(struct seccomp_data, arch));
	add(program, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCHITECTURE);
	add_return(program, SECCOMP_RET_KILL_PROCESS);
	add_load(program, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < NB_RULES; i++)
		add_rule(program, &rules[i]);
	/* Its flags lie in memory, out of a filter's sight. glibc takes clone instead. */
	add(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 435 /* clone3 */);
	add_return(program, SECCOMP_RET_ERRNO | ENOSYS);
	add_return(program, SECCOMP_RET_TRAP);
}

static int count_calls(void)
{
	int nb = 0;

	for (size_t i = 0; i < NB_RULES; i++)
		nb += i == 0 || rules[i].nr != rules[i - 1].nr;
	return nb;
}

int sandbox_filter_apply(void)
{
	static struct program program;
	struct sock_fprog fprog;
	long res;

	program.len = 0;
	make_program(&program);
	fprog = (struct sock_fprog){.len = program.len, .filter = program.code};
	res = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &fprog);
	if (res == 0)
		return count_calls();
	if (res > 0) /* a thread that would not take it */
		return -ESRCH;
	/* A kernel without filters, or a container whose own filter forbids them. */
	return errno == ENOSYS || errno == EINVAL || errno == EPERM ? 0 : -errno;
}

#ifdef __x86_64__
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#define SECOND_ARGUMENT(context) ((context)->uc_mcontext.gregs[REG_RSI])
#else
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#define SECOND_ARGUMENT(context) ((context)->uc_mcontext.regs[1])
#endif

void sandbox_filter_set_result(void *ucontext, int err)
{
	ucontext_t *context = ucontext;

	RESULT(context) = -err;
}

bool sandbox_filter_expects(const siginfo_t *info, const void *ucontext)
{
	const ucontext_t *context = ucontext;

	/* glibc's free() asks once whether memory may be given back with mmap(). */
	return info->si_syscall == SYS_openat &&
	       !strcmp((const char *)SECOND_ARGUMENT(context), "/proc/sys/vm/overcommit_memory");
}

#else

int sandbox_filter_apply(void)
{
	return 0;
}

void sandbox_filter_set_result(void *ucontext, int err)
{
}

bool sandbox_filter_expects(const siginfo_t *info, const void *ucontext)
{
	return false;
}

#endif

const char *sandbox_filter_name(int nr)
{
	static const struct {
		int nr;
		const char *name;
	} names[] = {
#define NAME(name) {SYS_##name, #name}
		NAME(openat),     NAME(openat2),
		NAME(execve),     NAME(execveat),
		NAME(socket),     NAME(connect),
		NAME(sendto),     NAME(ptrace),
		NAME(mount),      NAME(umount2),
		NAME(clone),      NAME(mmap),
		NAME(mprotect),   NAME(prctl),
		NAME(fcntl),      NAME(ioctl),
		NAME(newfstatat), NAME(statx),
		NAME(readlinkat), NAME(unlinkat),
		NAME(getdents64), NAME(io_uring_setup),
		NAME(kill),       NAME(rt_sigaction),
		NAME(tgkill),     NAME(io_uring_register),
		NAME(chdir),      NAME(setresuid),
		NAME(setresgid),  NAME(process_vm_readv),
		NAME(getrandom),  NAME(clock_nanosleep),
#undef NAME
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (names[i].nr == nr)
			return names[i].name;
	}
	return NULL;
}
