/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * crowd: many reads at once of a disk whose sectors say what they are, beside who changes them.
 *
 *   crowd -f SIZE [-i ID] FILE       writes SIZE bytes of generation 1
 *   crowd [-i ID] [-n READS] [-r READ_MAX] [-w WRITERS] [-l WRITE_MAX] [-k CLUSTER] [-p PERIOD
 *         -h HOT] [-j READERS] [-d DEPTH] [-u PAUSE_US] [-t] [-z] [-m MODEL_FILE] FILE
 *
 * Each word of a sector holds the disk's ID, the sector's number and a generation: odd ones are
 * written, in even ones the sector is a hole. A sector is changed by one writer alone, which notes
 * each generation before it begins it and after it was answered. So a read may find, in each word,
 * what was answered last before the read began, what was begun before it ended, and anything
 * between these; nothing is expected of the words of a sector together. What FILE holds in the
 * beginning is where the generations begin; in the end all of it is compared, and -m writes what it
 * must be.
 *
 * All handles are direct. READS (0: until SIGTERM) of up to READ_MAX bytes are made by two threads
 * (READERS), each with 32 (DEPTH) under way. Writers write up to WRITE_MAX bytes, discard clusters,
 * and sync, one after the other or with a pause between; with -t the only one also cuts the disk
 * and lets it grow again. With -p only the first HOT bytes of each PERIOD are used. With -z zeros
 * are always right.
 *
 * Exits with 1 where something wrong was read, with 2 where a call has failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECTOR 512u
#define NB_WORDS (SECTOR / 8u)
#define READERS_MAX 16u
#define DEPTH_MAX 32u
#define WRITERS_MAX 8u
#define IO_MAX_BYTES (1u << 20)
#define GENERATION_BITS 24u
#define SECTOR_BITS 32u

/* Of one sector; all of them only grow. */
struct state {
	_Atomic uint32_t answered, begun;
	_Atomic uint32_t hole; /* the last even one that was begun */
};

static struct {
	const char *path;
	int fd;
	uint64_t id;
	uint64_t size_bytes;
	uint64_t period, hot; /* sectors */
	uint64_t nb_sectors;  /* that are used */
	struct state *states;

	uint64_t nb_reads_wanted, read_max, write_max, cluster, stripe;
	unsigned nb_readers, depth, nb_writers, pause_us;
	bool cuts, zeros_are_right;

	/* Odd while the disk is shorter. */
	_Atomic uint64_t nb_cuts;
	_Atomic uint64_t nb_begun; /* reads, and attempts to begin more */
	_Atomic uint64_t nb_reads, nb_changes;
	_Atomic bool stopped;
} crowd = {
	.read_max = 64 << 10,
	.write_max = 64 << 10,
	.cluster = 64 << 10,
	.nb_reads_wanted = 20000,
	.nb_readers = 2,
	.depth = DEPTH_MAX,
};

static void fail(const char *what)
{
	fprintf(stderr, "crowd: %s: %s: %s\n", crowd.path, what, strerror(errno));
	_exit(2);
}

static uint64_t random_below(uint64_t *state, uint64_t limit)
{
	/* xorshift64* */
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (*state * 0x2545f4914f6cdd1dull >> 11) % limit;
}

static void *get_buffer(uint64_t len_bytes)
{
	void *buf =
		mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (buf == MAP_FAILED)
		fail("no memory");
	return buf;
}

/* ---- sectors ---- */

/* The used sectors are numbered through: where does this one lie on the disk? */
static uint64_t disk_sector(uint64_t index)
{
	return index / crowd.hot * crowd.period + index % crowd.hot;
}

static off_t disk_off(uint64_t index)
{
	return (off_t)(disk_sector(index) * SECTOR);
}

static uint64_t word_of(uint64_t index, uint32_t generation)
{
	return crowd.id << (SECTOR_BITS + GENERATION_BITS) |
	       (disk_sector(index) + 1) << GENERATION_BITS | generation;
}

static uint32_t generation_of(uint64_t word)
{
	return word & ((1u << GENERATION_BITS) - 1);
}

static void fill_sector(uint64_t *words, uint64_t index, uint32_t generation)
{
	for (unsigned i = 0; i < NB_WORDS; i++)
		words[i] = word_of(index, generation);
}

/* Was it there at any time between the answer to `since` and now? */
static bool is_right(uint64_t word, uint64_t index, uint32_t since)
{
	const struct state *state = &crowd.states[index];
	uint32_t generation = generation_of(word);

	if (!word)
		return crowd.zeros_are_right || state->hole >= since;
	return word == word_of(index, generation) && generation % 2 == 1 && generation >= since &&
	       generation <= state->begun;
}

static void complain(uint64_t word, uint64_t index, uint32_t since, unsigned nth)
{
	const struct state *state = &crowd.states[index];

	fprintf(stderr,
		"crowd: %s: word %u of sector %llu is %#llx (disk %llu, sector %lld, generation "
		"%u): it was generation %u when the read began, %u was begun, %u was a hole\n",
		crowd.path, nth, (unsigned long long)disk_sector(index), (unsigned long long)word,
		(unsigned long long)(word >> (SECTOR_BITS + GENERATION_BITS)),
		(long long)(word << 8 >> (GENERATION_BITS + 8)) - 1, generation_of(word), since,
		state->begun, state->hole);
	_exit(1);
}

/* `since` holds what was answered when the read began, for each sector. */
static void check_sectors(const uint64_t *words, uint64_t index, uint64_t nb, const uint32_t *since)
{
	for (uint64_t i = 0; i < nb; i++)
		for (unsigned n = 0; n < NB_WORDS; n++)
			if (!is_right(words[i * NB_WORDS + n], index + i, since[i]))
				complain(words[i * NB_WORDS + n], index + i, since[i], n);
}

static void begin_change(uint64_t index, uint64_t nb, bool hole)
{
	for (uint64_t i = index; i < index + nb; i++) {
		struct state *state = &crowd.states[i];
		uint32_t generation = state->answered + 1;

		if (generation % 2 != !hole)
			generation++;
		if (hole)
			state->hole = generation;
		state->begun = generation;
	}
}

static void end_change(uint64_t index, uint64_t nb)
{
	for (uint64_t i = index; i < index + nb; i++)
		crowd.states[i].answered = crowd.states[i].begun;
	crowd.nb_changes++;
}

/* ---- readers ---- */

struct read_io {
	struct iocb iocb;
	uint64_t index, nb; /* sectors */
	uint64_t nb_cuts;
	uint64_t *buf;
	uint32_t *since;
};

struct reader {
	pthread_t thread;
	uint64_t random;
	aio_context_t context;
	struct read_io ios[DEPTH_MAX];
	struct iocb *to_submit[DEPTH_MAX];
	unsigned nb_to_submit, nb_under_way;
};

/* Half of them read 4 KiB, all lie inside of one window of the disk. */
static void choose_read(struct reader *reader, struct read_io *io)
{
	uint64_t unit = crowd.read_max < 4096 ? 1 : 8, max = crowd.read_max / SECTOR / unit;
	uint64_t left;

	io->index = random_below(&reader->random, crowd.nb_sectors) / unit * unit;
	io->nb = unit;
	if (random_below(&reader->random, 2))
		io->nb *= 1 + random_below(&reader->random, max);
	left = crowd.hot - io->index % crowd.hot;
	if (io->nb > left)
		io->nb = left;
}

static void begin_read(struct reader *reader, struct read_io *io)
{
	if (crowd.stopped ||
	    (crowd.nb_begun++ >= crowd.nb_reads_wanted && crowd.nb_reads_wanted > 0))
		return;
	choose_read(reader, io);
	memset(io->buf, 0xee, io->nb * SECTOR);
	io->iocb = (struct iocb){
		.aio_data = (uintptr_t)io,
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)crowd.fd,
		.aio_buf = (uintptr_t)io->buf,
		.aio_nbytes = io->nb * SECTOR,
		.aio_offset = disk_off(io->index),
	};
	io->nb_cuts = crowd.nb_cuts;
	for (uint64_t i = 0; i < io->nb; i++)
		io->since[i] = crowd.states[io->index + i].answered;
	reader->to_submit[reader->nb_to_submit++] = &io->iocb;
}

static void submit(struct reader *reader)
{
	for (unsigned done = 0; done < reader->nb_to_submit;) {
		long res = syscall(SYS_io_submit, reader->context, reader->nb_to_submit - done,
				   &reader->to_submit[done]);

		if (res < 0)
			fail("io_submit");
		done += (unsigned)res;
		reader->nb_under_way += (unsigned)res;
	}
	reader->nb_to_submit = 0;
}

static void end_read(const struct read_io *io, int64_t res)
{
	if (res < 0) {
		errno = (int)-res;
		fail("read");
	}
	if ((uint64_t)res < io->nb * SECTOR && io->nb_cuts % 2 == 0 &&
	    io->nb_cuts == crowd.nb_cuts) {
		fprintf(stderr, "crowd: %s: %lld bytes instead of %llu at sector %llu\n",
			crowd.path, (long long)res, (unsigned long long)io->nb * SECTOR,
			(unsigned long long)disk_sector(io->index));
		_exit(1);
	}
	check_sectors(io->buf, io->index, (uint64_t)res / SECTOR, io->since);
	crowd.nb_reads++;
}

static void *read_all_the_time(void *arg)
{
	struct reader *reader = arg;
	struct io_event events[DEPTH_MAX];

	if (syscall(SYS_io_setup, crowd.depth, &reader->context) < 0)
		fail("io_setup");
	for (unsigned i = 0; i < crowd.depth; i++) {
		reader->ios[i].buf = get_buffer(crowd.read_max);
		reader->ios[i].since = get_buffer(crowd.read_max / SECTOR * sizeof(uint32_t));
		begin_read(reader, &reader->ios[i]);
	}
	for (submit(reader); reader->nb_under_way > 0; submit(reader)) {
		long nb = syscall(SYS_io_getevents, reader->context, 1, crowd.depth, events, NULL);

		if (nb < 0 && errno != EINTR)
			fail("io_getevents");
		for (long i = 0; i < nb; i++) {
			struct read_io *io = (struct read_io *)(uintptr_t)events[i].data;

			reader->nb_under_way--;
			end_read(io, events[i].res);
			begin_read(reader, io);
		}
	}
	syscall(SYS_io_destroy, reader->context);
	return NULL;
}

/* ---- writers ---- */

struct writer {
	pthread_t thread;
	unsigned number;
	uint64_t random;
	uint64_t *buf;
};

/* A range of up to max sectors that are this writer's, each beginning and ending on a unit. */
static void choose_change(struct writer *writer, uint64_t unit, uint64_t max, uint64_t *ret_index,
			  uint64_t *ret_nb)
{
	uint64_t nb_stripes = crowd.nb_sectors / crowd.stripe / crowd.nb_writers;
	uint64_t stripe =
		random_below(&writer->random, nb_stripes) * crowd.nb_writers + writer->number;
	uint64_t inside = random_below(&writer->random, crowd.stripe) / unit * unit;
	uint64_t nb = random_below(&writer->random, max / unit) * unit + unit;

	if (nb > crowd.stripe - inside)
		nb = crowd.stripe - inside;
	*ret_index = stripe * crowd.stripe + inside;
	*ret_nb = nb;
}

static void change_by_write(struct writer *writer)
{
	uint64_t unit = random_below(&writer->random, 2) && crowd.write_max >= 4096 ? 8 : 1;
	uint64_t index, nb;

	choose_change(writer, unit, crowd.write_max / SECTOR, &index, &nb);
	begin_change(index, nb, false);
	for (uint64_t i = 0; i < nb; i++)
		fill_sector(writer->buf + i * NB_WORDS, index + i, crowd.states[index + i].begun);
	if (pwrite(crowd.fd, writer->buf, nb * SECTOR, disk_off(index)) != (ssize_t)(nb * SECTOR))
		fail("write");
	end_change(index, nb);
}

static void change_by_discard(struct writer *writer)
{
	uint64_t unit = crowd.cluster / SECTOR, index, nb;

	choose_change(writer, unit, unit * 4, &index, &nb);
	begin_change(index, nb, true);
	if (fallocate(crowd.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, disk_off(index),
		      (off_t)(nb * SECTOR)))
		fail("fallocate");
	end_change(index, nb);
}

static void sync_all(void)
{
	if (fsync(crowd.fd))
		fail("fsync");
}

static void resize(uint64_t size_bytes)
{
	if (ftruncate(crowd.fd, (off_t)size_bytes))
		fail("ftruncate");
}

/* The disk becomes shorter, has an end there, and becomes as long as before. */
static void cut(struct writer *writer)
{
	uint64_t index = 8 + random_below(&writer->random, crowd.nb_sectors - 16);
	uint64_t nb = crowd.nb_sectors - index;

	crowd.nb_cuts++;
	begin_change(index, nb, true);
	resize(index * SECTOR);
	end_change(index, nb);
	if (pread(crowd.fd, writer->buf, 8192, disk_off(index - 8)) != 4096 ||
	    pread(crowd.fd, writer->buf, 4096, disk_off(index)) != 0) {
		fprintf(stderr, "crowd: %s: the disk does not end where it was cut\n", crowd.path);
		_exit(1);
	}
	resize(crowd.size_bytes);
	crowd.nb_cuts++;
}

static void *change_all_the_time(void *arg)
{
	struct writer *writer = arg;

	writer->buf = get_buffer(IO_MAX_BYTES);
	while (!crowd.stopped) {
		uint64_t pick = random_below(&writer->random, 100);

		if (crowd.cuts && pick < 10)
			cut(writer);
		else if (pick < 40)
			change_by_discard(writer);
		else if (pick < 50)
			sync_all();
		else
			change_by_write(writer);
		if (crowd.pause_us)
			usleep(crowd.pause_us);
	}
	munmap(writer->buf, IO_MAX_BYTES);
	return NULL;
}

/* ---- beginning and end ---- */

static void read_quietly(uint64_t index, uint64_t nb, uint64_t *words)
{
	ssize_t res = pread(crowd.fd, words, nb * SECTOR, disk_off(index));

	if (res < 0)
		fail("read");
	if (res != (ssize_t)(nb * SECTOR)) {
		errno = EIO;
		fail("a short read");
	}
}

/* Calls it for all used sectors, with as many at once as lie side by side. */
static void for_all(void (*fn)(uint64_t index, uint64_t nb, uint64_t *words))
{
	uint64_t *words = get_buffer(IO_MAX_BYTES), nb;

	for (uint64_t index = 0; index < crowd.nb_sectors; index += nb) {
		nb = crowd.hot - index % crowd.hot;
		if (nb > IO_MAX_BYTES / SECTOR)
			nb = IO_MAX_BYTES / SECTOR;
		fn(index, nb, words);
	}
	munmap(words, IO_MAX_BYTES);
}

static void learn(uint64_t index, uint64_t nb, uint64_t *words)
{
	read_quietly(index, nb, words);
	for (uint64_t i = 0; i < nb; i++) {
		struct state *state = &crowd.states[index + i];
		uint32_t since = generation_of(words[i * NB_WORDS]);

		state->begun = state->answered = since;
		check_sectors(words + i * NB_WORDS, index + i, 1, &since);
	}
}

static void compare(uint64_t index, uint64_t nb, uint64_t *words)
{
	read_quietly(index, nb, words);
	for (uint64_t i = 0; i < nb; i++) {
		uint32_t since = crowd.states[index + i].answered;

		check_sectors(words + i * NB_WORDS, index + i, 1, &since);
	}
}

static void write_as_it_is(uint64_t index, uint64_t nb, uint64_t *words)
{
	for (uint64_t i = 0; i < nb; i++) {
		uint32_t generation = crowd.states[index + i].answered;

		if (generation % 2)
			fill_sector(words + i * NB_WORDS, index + i, generation);
		else
			memset(words + i * NB_WORDS, 0, SECTOR);
	}
	if (pwrite(crowd.fd, words, nb * SECTOR, disk_off(index)) != (ssize_t)(nb * SECTOR))
		fail("write");
}

static void prepare(uint64_t size_bytes)
{
	crowd.size_bytes = size_bytes;
	if (!crowd.period)
		crowd.period = crowd.hot = size_bytes / SECTOR;
	crowd.nb_sectors = size_bytes / SECTOR / crowd.period * crowd.hot;
	crowd.stripe = (crowd.write_max > 256 << 10 ? crowd.write_max : 256 << 10) / SECTOR;
	if (crowd.stripe > crowd.hot)
		crowd.stripe = crowd.hot;
	if (crowd.nb_writers && crowd.stripe > crowd.nb_sectors / crowd.nb_writers)
		crowd.stripe = crowd.nb_sectors / crowd.nb_writers;
	crowd.states = calloc(crowd.nb_sectors, sizeof(*crowd.states));
	if (!crowd.states)
		fail("no memory");
}

static void write_model(const char *path)
{
	close(crowd.fd);
	crowd.path = path;
	crowd.fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (crowd.fd < 0 || ftruncate(crowd.fd, (off_t)crowd.size_bytes))
		fail("create");
	for_all(write_as_it_is);
	close(crowd.fd);
}

static void stop(int number)
{
	crowd.stopped = true;
}

static void be_many(void)
{
	static struct reader readers[READERS_MAX];
	static struct writer writers[WRITERS_MAX];
	uint64_t seed = (uint64_t)getpid() << 16;

	for (unsigned i = 0; i < crowd.nb_writers; i++) {
		writers[i].number = i;
		writers[i].random = ++seed;
		if (pthread_create(&writers[i].thread, NULL, change_all_the_time, &writers[i]))
			fail("no thread");
	}
	for (unsigned i = 0; i < crowd.nb_readers; i++) {
		readers[i].random = ++seed;
		if (pthread_create(&readers[i].thread, NULL, read_all_the_time, &readers[i]))
			fail("no thread");
	}
	for (unsigned i = 0; i < crowd.nb_readers; i++)
		pthread_join(readers[i].thread, NULL);
	crowd.stopped = true;
	for (unsigned i = 0; i < crowd.nb_writers; i++)
		pthread_join(writers[i].thread, NULL);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	if (*end || end == text) {
		fprintf(stderr, "crowd: not a number: %s\n", text);
		exit(2);
	}
	return value;
}

static void fill(uint64_t size_bytes)
{
	prepare(size_bytes);
	for (uint64_t i = 0; i < crowd.nb_sectors; i++)
		crowd.states[i].answered = 1;
	crowd.fd = -1;
	write_model(crowd.path);
}

static void work(const char *model)
{
	struct stat st;

	signal(SIGTERM, stop);
	crowd.fd = open(crowd.path, (crowd.nb_writers ? O_RDWR : O_RDONLY) | O_DIRECT);
	if (crowd.fd < 0 || fstat(crowd.fd, &st))
		fail("open");
	prepare((uint64_t)st.st_size);
	for_all(learn);
	be_many();
	for_all(compare);
	printf("%llu reads, %llu changes\n", (unsigned long long)crowd.nb_reads,
	       (unsigned long long)crowd.nb_changes);
	if (model)
		write_model(model);
}

static struct {
	uint64_t fill_bytes;
	const char *model;
} wanted;

static bool take_option(int opt)
{
	switch (opt) {
	case 'f':
		wanted.fill_bytes = number(optarg);
		return true;
	case 'i':
		crowd.id = number(optarg);
		return true;
	case 'n':
		crowd.nb_reads_wanted = number(optarg);
		return true;
	case 'r':
		crowd.read_max = number(optarg);
		return true;
	case 'w':
		crowd.nb_writers = (unsigned)number(optarg);
		return crowd.nb_writers <= WRITERS_MAX;
	case 'l':
		crowd.write_max = number(optarg);
		return crowd.write_max <= IO_MAX_BYTES;
	case 'k':
		crowd.cluster = number(optarg);
		return true;
	case 'p':
		crowd.period = number(optarg) / SECTOR;
		return true;
	case 'h':
		crowd.hot = number(optarg) / SECTOR;
		return true;
	case 'j':
		crowd.nb_readers = (unsigned)number(optarg);
		return crowd.nb_readers <= READERS_MAX;
	case 'd':
		crowd.depth = (unsigned)number(optarg);
		return crowd.depth <= DEPTH_MAX;
	case 'u':
		crowd.pause_us = (unsigned)number(optarg);
		return true;
	case 't':
		crowd.cuts = true;
		return true;
	case 'z':
		crowd.zeros_are_right = true;
		return true;
	case 'm':
		wanted.model = optarg;
		return true;
	default:
		return false;
	}
}

int main(int argc, char **argv)
{
	int opt;

	while ((opt = getopt(argc, argv, "f:i:n:r:w:l:k:p:h:j:d:u:tzm:")) >= 0) {
		if (take_option(opt))
			continue;
		fprintf(stderr, "crowd: see the head of crowd.c\n");
		return 2;
	}
	if (argc - optind != 1) {
		fprintf(stderr, "crowd: one file\n");
		return 2;
	}
	crowd.path = argv[optind];
	if (wanted.fill_bytes)
		fill(wanted.fill_bytes);
	else
		work(wanted.model);
	return 0;
}
