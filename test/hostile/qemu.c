/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * qemu: see qemu.h. qemu-img runs with limits of its own, for hostile images are hostile
 * to it too.
 */
#include "test/hostile/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FLAT "flat.raw"
#define COMPARED_MAX (48ll << 20)
#define DUMPED_MAX (1ull << 40) /* the file system may not do more */
#define QEMU_SEC 10u
#define QEMU_MEMORY_BYTES (2ull << 30)

/* Holes stay holes: images claim sizes far beyond their bytes. */
static int dump_file(const char *folder, const char *name, const struct seed *seed)
{
	char path[4096];
	int fd, err;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -1;
	err = write(fd, seed->data, seed->stored) != (ssize_t)seed->stored ||
	      ftruncate(fd, seed->size);
	return close(fd) || err ? -1 : 0;
}

int qemu_dump(const struct bundle *bundle, const char *folder)
{
	int err = mkdir(folder, 0755) && errno != EEXIST ? -1 : 0;

	if (!err)
		err = dump_file(folder, TRIAL_IMAGE, &bundle->image);
	for (unsigned i = 0; i < bundle->nb_extras && !err; i++)
		err = dump_file(folder, bundle->extra_names[i], &bundle->extras[i]);
	return err;
}

static void __attribute__((noreturn)) exec_qemu(const char *folder)
{
	const struct rlimit memory = {QEMU_MEMORY_BYTES, QEMU_MEMORY_BYTES};
	const struct rlimit output = {COMPARED_MAX, COMPARED_MAX};
	const struct rlimit core = {0, 0};
	int null = open("/dev/null", O_RDWR);

	if (chdir(folder) || null < 0)
		_exit(126);
	dup2(null, 0);
	dup2(null, 1);
	dup2(null, 2);
	setrlimit(RLIMIT_AS, &memory);
	setrlimit(RLIMIT_FSIZE, &output);
	setrlimit(RLIMIT_CORE, &core);
	execlp("qemu-img", "qemu-img", "convert", "-f", "qcow2", "-O", "raw", TRIAL_IMAGE, FLAT,
	       (char *)NULL);
	_exit(127);
}

/* True when qemu-img has read all of it. */
static bool convert(const char *folder)
{
	int status;
	pid_t pid = fork(), done = 0;

	if (pid == 0)
		exec_qemu(folder);
	for (unsigned i = 0; pid > 0 && !done && i < QEMU_SEC * 200; i++) {
		done = waitpid(pid, &status, WNOHANG);
		if (!done)
			usleep(5000);
	}
	if (pid > 0 && !done) {
		kill(pid, SIGKILL);
		done = waitpid(pid, &status, 0);
	}
	if (pid < 0 || done != pid)
		broken("cannot run qemu-img");
	if (WIFEXITED(status) && WEXITSTATUS(status) >= 126)
		broken("qemu-img is not here");
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void compare_flat(struct trial *trial, const struct bundle *bundle, const char *path,
			 struct qemu_tally *tally)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t nb_failed = 0;
	struct stat st;
	int64_t differ;
	void *flat;

	if (fd < 0 || fstat(fd, &st))
		broken("%s is gone", path);
	flat = st.st_size ? mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
	if (flat == MAP_FAILED)
		broken("mmap of %s", path);
	differ = trial_compare(trial, bundle, flat, st.st_size, &nb_failed);
	tally->nb_compared++;
	tally->compared_bytes += st.st_size - nb_failed;
	tally->nb_stricter += nb_failed > 0;
	if (nb_failed)
		printf("stricter: %s: %llu bytes\n", bundle->name, (unsigned long long)nb_failed);
	if (differ > 0) {
		tally->nb_differ++;
		printf("FAILED %s: %lld bytes are not what qemu-img reads\n", bundle->name,
		       (long long)differ);
	}
	if (flat)
		munmap(flat, st.st_size);
	close(fd);
}

void qemu_compare(struct trial *trial, const struct bundle *bundle, const char *folder,
		  struct qemu_tally *tally)
{
	int64_t size = trial_size(trial, bundle);
	char path[4096], base[2048];
	bool readable;

	snprintf(base, sizeof(base), "%s/%d", folder, getpid());
	snprintf(path, sizeof(path), "%s/%s", base, FLAT);
	if (size > COMPARED_MAX || bundle->image.size > DUMPED_MAX)
		return;
	if (qemu_dump(bundle, base))
		broken("cannot write to %s: %s", base, strerror(errno));
	unlink(path);
	readable = convert(base);
	if (readable && size >= 0) {
		tally->nb_both++;
		compare_flat(trial, bundle, path, tally);
	} else if (readable) {
		tally->nb_only_qemu++;
		printf("refused: %s: qemu-img reads it\n", bundle->name);
	} else if (size >= 0) {
		tally->nb_only_us++;
	} else {
		tally->nb_neither++;
	}
	unlink(path);
}

void qemu_add_up(struct qemu_tally *sum, const struct qemu_tally *tally)
{
	sum->nb_both += tally->nb_both;
	sum->nb_only_us += tally->nb_only_us;
	sum->nb_only_qemu += tally->nb_only_qemu;
	sum->nb_neither += tally->nb_neither;
	sum->nb_compared += tally->nb_compared;
	sum->nb_differ += tally->nb_differ;
	sum->nb_stricter += tally->nb_stricter;
	sum->compared_bytes += tally->compared_bytes;
}

void qemu_print(const struct qemu_tally *tally)
{
	uint64_t nb = tally->nb_both + tally->nb_only_us + tally->nb_only_qemu + tally->nb_neither;

	printf("measured: beside QEMU: %llu images, %llu read by both (%llu %%), %llu by us alone, "
	       "%llu by QEMU alone; %llu MiB compared, %llu differ, %llu have ranges that only "
	       "QEMU reads\n",
	       (unsigned long long)nb, (unsigned long long)tally->nb_both,
	       (unsigned long long)(nb ? tally->nb_both * 100 / nb : 0),
	       (unsigned long long)tally->nb_only_us, (unsigned long long)tally->nb_only_qemu,
	       (unsigned long long)tally->compared_bytes >> 20,
	       (unsigned long long)tally->nb_differ, (unsigned long long)tally->nb_stricter);
}
