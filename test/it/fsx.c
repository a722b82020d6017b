/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fsx: random operations on one file, each compared with a model in memory.
 *
 *   fsx [-s SEED] [-n OPERATIONS] [-l LENGTH_MAX] [-g SIZE_MAX] [-m MODEL_FILE] FILE
 *
 * Reads and writes through the page cache, with O_DIRECT and through a shared mapping,
 * punches and zeroes ranges, preallocates, syncs, and closes and opens again, at any
 * byte offset. With -g the file also grows by truncation, up to SIZE_MAX. What the file
 * holds in the beginning is where the model begins; in the end all of it is compared, and
 * -m writes the model for others to compare with. A difference prints the last operations
 * and exits with 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum op {
	OP_READ,
	OP_READ_DIRECT,
	OP_READ_MAPPED,
	OP_WRITE,
	OP_WRITE_DIRECT,
	OP_WRITE_MAPPED,
	OP_PUNCH,
	OP_ZERO,
	OP_PREALLOCATE,
	OP_FSYNC,
	OP_FDATASYNC,
	OP_REOPEN,
	OP_GROW,
	OP_COUNT
};
static const char *const op_names[OP_COUNT] = {
	"read", "read direct", "read mapped", "write",     "write direct", "write mapped", "punch",
	"zero", "preallocate", "fsync",       "fdatasync", "reopen",       "grow",
};
/* How often each comes, of their sum. */
static const unsigned op_weights[OP_COUNT] = {10, 10, 6, 12, 12, 6, 6, 6, 2, 2, 2, 1, 2};

#define HISTORY 16
struct step {
	enum op op;
	uint64_t offset, len_bytes;
};

static struct {
	const char *path;
	int cached_fd, direct_fd;
	uint8_t *model;
	uint64_t size_bytes, size_max;
	uint64_t len_max;
	uint64_t random;
	uint8_t *buf;
	struct step history[HISTORY];
	uint64_t nb_steps;
} fsx;

static uint64_t random_below(uint64_t limit)
{
	/* xorshift64*: the same everywhere. */
	fsx.random ^= fsx.random >> 12;
	fsx.random ^= fsx.random << 25;
	fsx.random ^= fsx.random >> 27;
	return (fsx.random * 0x2545f4914f6cdd1dull >> 11) % limit;
}

static void fail(const char *what, int error)
{
	fprintf(stderr, "fsx: %s: %s%s%s\n", fsx.path, what, error ? ": " : "",
		error ? strerror(error) : "");
	uint64_t first = fsx.nb_steps > HISTORY ? fsx.nb_steps - HISTORY : 0;
	for (uint64_t i = first; i < fsx.nb_steps; i++) {
		const struct step *step = &fsx.history[i % HISTORY];
		fprintf(stderr, "  %llu: %s %llu bytes at %llu\n", (unsigned long long)i,
			op_names[step->op], (unsigned long long)step->len_bytes,
			(unsigned long long)step->offset);
	}
	exit(1);
}

static void compare(const uint8_t *got, uint64_t offset, uint64_t len_bytes)
{
	if (!memcmp(got, fsx.model + offset, len_bytes))
		return;
	char text[160];
	for (uint64_t i = 0; i < len_bytes; i++) {
		if (got[i] == fsx.model[offset + i])
			continue;
		snprintf(text, sizeof(text), "differs at offset %llu: %02x instead of %02x",
			 (unsigned long long)(offset + i), got[i], fsx.model[offset + i]);
		fail(text, 0);
	}
}

static void open_file(void)
{
	fsx.cached_fd = open(fsx.path, O_RDWR);
	fsx.direct_fd = open(fsx.path, O_RDWR | O_DIRECT);
	if (fsx.cached_fd < 0 || fsx.direct_fd < 0)
		fail("open", errno);
	struct stat st;
	if (fstat(fsx.cached_fd, &st))
		fail("stat", errno);
	if ((uint64_t)st.st_size != fsx.size_bytes)
		fail("has another size", 0);
}

static void close_file(void)
{
	if (close(fsx.cached_fd) || close(fsx.direct_fd))
		fail("close", errno);
}

static void read_all(int fd, uint8_t *buf, uint64_t offset, uint64_t len_bytes)
{
	while (len_bytes) {
		ssize_t got = pread(fd, buf, len_bytes, (off_t)offset);
		if (got <= 0)
			fail(got ? "read" : "reads short", got ? errno : 0);
		buf += got;
		offset += (uint64_t)got;
		len_bytes -= (uint64_t)got;
	}
}

/* Bytes that tell which operation wrote them and where. */
static void make_data(uint64_t offset, uint64_t len_bytes)
{
	for (uint64_t i = 0; i < len_bytes; i++)
		fsx.buf[i] = (uint8_t)(fsx.nb_steps * 7 + ((offset + i) >> 9) + (offset + i));
}

static void write_all(int fd, uint64_t offset, uint64_t len_bytes)
{
	make_data(offset, len_bytes);
	for (uint64_t done = 0; done < len_bytes;) {
		ssize_t put = pwrite(fd, fsx.buf + done, len_bytes - done, (off_t)(offset + done));
		if (put <= 0)
			fail(put ? "write" : "writes nothing", put ? errno : 0);
		done += (uint64_t)put;
	}
	memcpy(fsx.model + offset, fsx.buf, len_bytes);
}

static void access_mapped(uint64_t offset, uint64_t len_bytes, bool write)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t skip = offset % page_bytes;
	uint8_t *map = mmap(NULL, len_bytes + skip, PROT_READ | PROT_WRITE, MAP_SHARED,
			    fsx.cached_fd, (off_t)(offset - skip));
	if (map == MAP_FAILED)
		fail("mmap", errno);
	if (write) {
		make_data(offset, len_bytes);
		memcpy(map + skip, fsx.buf, len_bytes);
		memcpy(fsx.model + offset, fsx.buf, len_bytes);
		/* Direct reads look behind the page cache. */
		if (msync(map, len_bytes + skip, MS_SYNC))
			fail("msync", errno);
	} else {
		compare(map + skip, offset, len_bytes);
	}
	munmap(map, len_bytes + skip);
}

static void allocate(int mode, uint64_t offset, uint64_t len_bytes)
{
	if (fallocate(fsx.cached_fd, mode, (off_t)offset, (off_t)len_bytes))
		fail("fallocate", errno);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		memset(fsx.model + offset, 0, len_bytes);
}

static void grow(void)
{
	if (fsx.size_bytes >= fsx.size_max)
		return;
	/* Rounded up to 512 on disk: a size that needs no rounding is what others see. */
	uint64_t more = random_below((fsx.size_max - fsx.size_bytes) / 512 / 8 + 1) * 512 + 512;
	uint64_t size_bytes = fsx.size_bytes + more;
	if (size_bytes > fsx.size_max)
		size_bytes = fsx.size_max;
	if (ftruncate(fsx.cached_fd, (off_t)size_bytes))
		fail("truncate", errno);
	memset(fsx.model + fsx.size_bytes, 0, size_bytes - fsx.size_bytes);
	fsx.size_bytes = size_bytes;
}

static enum op choose_op(void)
{
	unsigned sum = 0;
	for (unsigned i = 0; i < OP_COUNT; i++)
		sum += op_weights[i];
	uint64_t pick = random_below(sum);
	for (unsigned i = 0; i < OP_COUNT; i++) {
		if (pick < op_weights[i])
			return (enum op)i;
		pick -= op_weights[i];
	}
	return OP_READ;
}

static void one_step(void)
{
	struct step step = {.op = choose_op()};
	step.len_bytes = 1 + random_below(random_below(4) ? 10000 : fsx.len_max);
	if (step.len_bytes > fsx.size_bytes)
		step.len_bytes = fsx.size_bytes;
	step.offset = random_below(fsx.size_bytes - step.len_bytes + 1);
	/* Every other one begins where a block begins. */
	if (random_below(2))
		step.offset &= ~(uint64_t)4095;
	fsx.history[fsx.nb_steps++ % HISTORY] = step;

	switch (step.op) {
	case OP_READ:
	case OP_READ_DIRECT:
		read_all(step.op == OP_READ ? fsx.cached_fd : fsx.direct_fd, fsx.buf, step.offset,
			 step.len_bytes);
		compare(fsx.buf, step.offset, step.len_bytes);
		break;
	case OP_READ_MAPPED:
	case OP_WRITE_MAPPED:
		access_mapped(step.offset, step.len_bytes, step.op == OP_WRITE_MAPPED);
		break;
	case OP_WRITE:
	case OP_WRITE_DIRECT:
		write_all(step.op == OP_WRITE ? fsx.cached_fd : fsx.direct_fd, step.offset,
			  step.len_bytes);
		break;
	case OP_PUNCH:
		allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, step.offset, step.len_bytes);
		break;
	case OP_ZERO:
		allocate(FALLOC_FL_ZERO_RANGE, step.offset, step.len_bytes);
		break;
	case OP_PREALLOCATE:
		allocate(0, step.offset, step.len_bytes);
		break;
	case OP_FSYNC:
		if (fsync(fsx.direct_fd))
			fail("fsync", errno);
		break;
	case OP_FDATASYNC:
		if (fdatasync(fsx.cached_fd))
			fail("fdatasync", errno);
		break;
	case OP_REOPEN:
		close_file();
		open_file();
		break;
	case OP_GROW:
		grow();
		break;
	case OP_COUNT:
		break;
	}
}

static void compare_everything(void)
{
	for (uint64_t offset = 0; offset < fsx.size_bytes;) {
		uint64_t len_bytes = fsx.size_bytes - offset;
		if (len_bytes > fsx.len_max)
			len_bytes = fsx.len_max;
		read_all(fsx.direct_fd, fsx.buf, offset, len_bytes);
		compare(fsx.buf, offset, len_bytes);
		read_all(fsx.cached_fd, fsx.buf, offset, len_bytes);
		compare(fsx.buf, offset, len_bytes);
		offset += len_bytes;
	}
}

static void save_model(const char *path)
{
	FILE *file = fopen(path, "w");
	if (!file || fwrite(fsx.model, 1, fsx.size_bytes, file) != fsx.size_bytes || fclose(file))
		fail(path, errno);
}

static void begin(void)
{
	struct stat st;
	if (stat(fsx.path, &st))
		fail("stat", errno);
	fsx.size_bytes = (uint64_t)st.st_size;
	if (fsx.size_max < fsx.size_bytes)
		fsx.size_max = fsx.size_bytes;
	if (fsx.size_bytes == 0)
		fail("is empty", 0);
	/* Room for a mapping's worth beyond the end, and never an allocation of 0. */
	fsx.model = malloc(fsx.size_max + 1);
	fsx.buf = malloc(fsx.len_max + 1);
	if (!fsx.model || !fsx.buf)
		fail("memory", errno);
	open_file();
	read_all(fsx.cached_fd, fsx.model, 0, fsx.size_bytes);
}

int main(int argc, char **argv)
{
	uint64_t nb_ops = 1000, seed = 1;
	const char *model_path = NULL;
	int option;

	fsx.len_max = 256 << 10;
	while ((option = getopt(argc, argv, "s:n:l:g:m:")) != -1) {
		switch (option) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			nb_ops = strtoull(optarg, NULL, 0);
			break;
		case 'l':
			fsx.len_max = strtoull(optarg, NULL, 0);
			break;
		case 'g':
			fsx.size_max = strtoull(optarg, NULL, 0) & ~511ull;
			break;
		case 'm':
			model_path = optarg;
			break;
		default:
			return 2;
		}
	}
	if (optind != argc - 1 || fsx.len_max < 10000) {
		fprintf(stderr,
			"usage: fsx [-s SEED] [-n OPERATIONS] [-l LENGTH_MAX] [-g SIZE_MAX] "
			"[-m MODEL_FILE] FILE\n");
		return 2;
	}
	fsx.path = argv[optind];
	fsx.random = seed * 0x9e3779b97f4a7c15ull + 1;
	begin();
	for (uint64_t i = 0; i < nb_ops; i++)
		one_step();
	compare_everything();
	close_file();
	if (model_path)
		save_model(model_path);
	free(fsx.model);
	free(fsx.buf);
	return 0;
}
