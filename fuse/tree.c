/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tree: see tree.h.
 */
#include "fuse/tree.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define NS_PER_S 1000000000ll
#define BLKSIZE_MIN (64u << 10)
#define BLKSIZE_MAX (1u << 20)
#define SECTOR_BYTES 512u

static int64_t ns_of(struct timespec time)
{
	return (int64_t)time.tv_sec * NS_PER_S + time.tv_nsec;
}

static struct timespec timespec_of(int64_t ns)
{
	struct timespec time = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};

	if (time.tv_nsec < 0) {
		time.tv_nsec += NS_PER_S;
		time.tv_sec--;
	}
	return time;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return ns_of(now);
}

/* FNV-1a over the parent's number and the name. */
static size_t bucket_of(const struct tree *tree, const struct node *parent, const char *name)
{
	uint64_t hash = 0xcbf29ce484222325u ^ (parent ? parent->ino : 0);

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
	return (hash ^ hash >> 32) % (2 * tree->capacity);
}

static void put_in_bucket(struct tree *tree, struct node *node)
{
	struct node **bucket = &tree->buckets[bucket_of(tree, node->parent, node->name)];

	node->next_in_bucket = *bucket;
	*bucket = node;
}

static int make_room(struct tree *tree)
{
	unsigned capacity = tree->capacity ? 2 * tree->capacity : 16;
	struct node **nodes, **buckets;

	if (tree->nb_nodes < tree->capacity)
		return 0;
	nodes = realloc(tree->nodes, capacity * sizeof(struct node *));
	if (!nodes)
		return -ENOMEM;
	tree->nodes = nodes;
	buckets = calloc(2 * (size_t)capacity, sizeof(struct node *));
	if (!buckets)
		return -ENOMEM;
	free(tree->buckets);
	tree->buckets = buckets;
	tree->capacity = capacity;
	for (unsigned i = 0; i < tree->nb_nodes; i++)
		put_in_bucket(tree, tree->nodes[i]);
	return 0;
}

static int add_node(struct tree *tree, struct node *parent, const char *name,
		    struct node **ret_node)
{
	struct node *node;
	int res;

	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	if (parent && tree_lookup(tree, parent, name))
		return -EEXIST;
	res = make_room(tree);
	if (res < 0)
		return res;
	node = calloc(1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->name = strdup(name);
	if (!node->name) {
		free(node);
		return -ENOMEM;
	}
	node->parent = parent;
	node->uid = tree->owner.uid;
	node->gid = tree->owner.gid;
	tree->nodes[tree->nb_nodes++] = node;
	node->ino = tree->nb_nodes;
	put_in_bucket(tree, node);
	*ret_node = node;
	return 0;
}

static int add_dir(struct tree *tree, struct node *parent, const char *name, struct node **ret_node)
{
	const struct tree_owner *owner = &tree->owner;
	int64_t now = now_ns();
	int res = add_node(tree, parent, name, ret_node);

	if (res < 0)
		return res;
	(*ret_node)->is_dir = true;
	(*ret_node)->mode = 0555 & ~(owner->has_umask ? owner->umask : 0);
	(*ret_node)->atime_ns = (*ret_node)->mtime_ns = (*ret_node)->ctime_ns = now;
	return 0;
}

int tree_init(struct tree *tree, const struct tree_owner *owner)
{
	struct node *root;

	tree_init_single(tree, owner);
	return add_dir(tree, NULL, "", &root);
}

void tree_init_single(struct tree *tree, const struct tree_owner *owner)
{
	*tree = (struct tree){.owner = *owner};
}

void tree_finish(struct tree *tree)
{
	for (unsigned i = 0; i < tree->nb_nodes; i++) {
		free(tree->nodes[i]->name);
		free(tree->nodes[i]->stats);
		free(tree->nodes[i]);
	}
	while (tree->disks) {
		struct tree_disk *disk = tree->disks;

		tree->disks = disk->next;
		pthread_mutex_destroy(&disk->write_opens_mutex);
		free(disk->host_path);
		free(disk);
	}
	free(tree->nodes);
	free(tree->buckets);
	*tree = (struct tree){0};
}

/* Nobody gets more than the image's own permissions give to anybody. */
static mode_t file_mode(const struct tree_owner *owner, mode_t host_mode, bool writable)
{
	mode_t mode = owner->has_umask ? 0666 & ~owner->umask : 0600;

	if (!writable || !(host_mode & 0222))
		mode &= ~0222u;
	if (!(host_mode & 0444))
		mode &= ~0444u;
	return mode;
}

static int add_disk_node(struct tree *tree, struct node *parent, const char *name,
			 const struct tree_disk *facts, struct node **ret_node)
{
	struct tree_disk *disk = malloc(sizeof(*disk));
	int res = disk ? add_node(tree, parent, name, ret_node) : -ENOMEM;

	if (res < 0) {
		free(disk);
		return res;
	}
	*disk = *facts;
	pthread_mutex_init(&disk->write_opens_mutex, NULL);
	disk->whole = *ret_node;
	disk->next = tree->disks;
	tree->disks = disk;
	(*ret_node)->disk = disk;
	return 0;
}

int tree_add_file(struct tree *tree, struct node *parent, const char *name, struct image *image,
		  const struct stat *host, struct node **ret_node)
{
	const struct image_info *info = image_info(image);
	const struct tree_disk facts = {
		.image = image,
		.base = image,
		.cluster_size = info->cluster_size,
	};
	struct node *node;
	int res = add_disk_node(tree, parent, name, &facts, &node);

	if (res < 0)
		return res;
	node->writable = info->writable;
	node->size_bytes = info->virtual_size;
	node->mode = file_mode(&tree->owner, host->st_mode, info->writable);
	node->atime_ns = ns_of(host->st_atim);
	node->mtime_ns = ns_of(host->st_mtim);
	node->ctime_ns = ns_of(host->st_ctim);
	*ret_node = node;
	return 0;
}

int tree_add_dir(struct tree *tree, const char *name, struct node **ret_node)
{
	return add_dir(tree, tree_root(tree), name, ret_node);
}

int tree_add_view(struct tree *tree, struct node *dir, const char *name, struct node *base,
		  uint64_t virtual_size, int64_t time_ns, struct view *view, struct node **ret_node)
{
	const struct tree_disk facts = {
		.view = view,
		.base = base->disk->base,
		.cluster_size = base->disk->cluster_size,
	};
	struct node *node;
	int res = add_disk_node(tree, dir, name, &facts, &node);

	if (res < 0)
		return res;
	node->size_bytes = virtual_size;
	node->mode = base->mode & ~0222u;
	node->atime_ns = node->mtime_ns = node->ctime_ns = time_ns;
	*ret_node = node;
	return 0;
}

int tree_add_part(struct tree *tree, struct node *whole, const char *name, uint64_t start_bytes,
		  uint64_t len_bytes)
{
	struct node *node;
	int res = add_node(tree, whole->parent, name, &node);

	if (res < 0)
		return res;
	node->disk = whole->disk;
	node->next_of_disk = whole->next_of_disk;
	whole->next_of_disk = node;
	node->start_bytes = start_bytes;
	node->size_bytes = len_bytes;
	node->writable = whole->writable;
	node->mode = whole->mode;
	node->atime_ns = whole->atime_ns;
	node->mtime_ns = whole->mtime_ns;
	node->ctime_ns = whole->ctime_ns;
	return 0;
}

struct node *tree_get(const struct tree *tree, uint64_t ino)
{
	return ino >= 1 && ino <= tree->nb_nodes ? tree->nodes[ino - 1] : NULL;
}

struct node *tree_next_child(const struct tree *tree, const struct node *dir, uint64_t ino)
{
	for (uint64_t i = ino ? ino - 1 : 0; i < tree->nb_nodes; i++) {
		if (tree->nodes[i]->parent == dir)
			return tree->nodes[i];
	}
	return NULL;
}

struct node *tree_lookup(const struct tree *tree, const struct node *parent, const char *name)
{
	struct node *node = tree->buckets[bucket_of(tree, parent, name)];

	while (node && (node->parent != parent || strcmp(node->name, name)))
		node = node->next_in_bucket;
	return node;
}

uint64_t tree_clamp_sectors(uint64_t host_sectors, uint64_t size_bytes)
{
	uint64_t most = size_bytes / SECTOR_BYTES;

	if (size_bytes == 0)
		return 0;
	if (most > 0)
		most--;
	if (host_sectors > most)
		host_sectors = most;
	return host_sectors ? host_sectors : 1;
}

void node_stat(const struct node *node, uint64_t host_sectors, struct stat *ret_stat)
{
	uint32_t blksize = node->disk ? node->disk->cluster_size : 0;

	if (blksize < BLKSIZE_MIN)
		blksize = BLKSIZE_MIN;
	if (blksize > BLKSIZE_MAX)
		blksize = BLKSIZE_MAX;
	*ret_stat = (struct stat){
		.st_ino = node->ino,
		.st_mode = node->mode | (node->is_dir ? S_IFDIR : S_IFREG),
		.st_nlink = node->is_dir ? 2 : 1,
		.st_uid = node->uid,
		.st_gid = node->gid,
		.st_atim = timespec_of(node->atime_ns),
		.st_mtim = timespec_of(node->mtime_ns),
		.st_ctim = timespec_of(node->ctime_ns),
		.st_blksize = node->is_dir ? 4096 : blksize,
	};
	if (!node->is_dir) {
		ret_stat->st_size = (off_t)node->size_bytes;
		ret_stat->st_blocks = (blkcnt_t)tree_clamp_sectors(host_sectors, node->size_bytes);
	}
}

void node_touch(struct node *node, uint64_t off, uint64_t len_bytes)
{
	int64_t now = now_ns();

	for (struct node *other = node->disk->whole; other; other = other->next_of_disk) {
		if (!node_shows(other, node->start_bytes + off, len_bytes))
			continue;
		other->mtime_ns = now;
		other->ctime_ns = now;
	}
}

int node_begin_writing(struct node *node)
{
	struct tree_disk *disk = node->disk;
	int res = 0;

	pthread_mutex_lock(&disk->write_opens_mutex);
	for (struct node *other = disk->whole; other && res == 0; other = other->next_of_disk) {
		if (other != node && other->nb_write_opens > 0 &&
		    (node == disk->whole || node_shows(other, node->start_bytes, node->size_bytes)))
			res = -EBUSY;
	}
	if (res == 0)
		node->nb_write_opens++;
	pthread_mutex_unlock(&disk->write_opens_mutex);
	return res;
}

void node_end_writing(struct node *node)
{
	pthread_mutex_lock(&node->disk->write_opens_mutex);
	node->nb_write_opens--;
	pthread_mutex_unlock(&node->disk->write_opens_mutex);
}

bool node_is_written(const struct node *node)
{
	bool is_written;

	pthread_mutex_lock(&node->disk->write_opens_mutex);
	is_written = node->nb_write_opens > 0;
	pthread_mutex_unlock(&node->disk->write_opens_mutex);
	return is_written;
}

char *tree_name_for(const char *given_name, const char *path)
{
	static const char *const endings[] = {".qcow2", ".qcow", ".img"};
	const char *slash = strrchr(path, '/');
	const char *base = given_name ? given_name : slash ? slash + 1 : path;
	size_t len = strlen(base);
	char *name;

	for (unsigned i = 0; !given_name && i < sizeof(endings) / sizeof(endings[0]); i++) {
		size_t end = strlen(endings[i]);

		if (len > end && !strcasecmp(base + len - end, endings[i])) {
			len -= end;
			break;
		}
	}
	name = malloc(len + sizeof(".raw"));
	if (!name)
		return NULL;
	memcpy(name, base, len);
	memcpy(name + len, ".raw", sizeof(".raw"));
	return name;
}

char *tree_partition_name(const char *whole_name, unsigned number)
{
	size_t len = strlen(whole_name), room;
	char suffix[32], *name;

	snprintf(suffix, sizeof(suffix), ".p%u.raw", number);
	room = NAME_MAX - strlen(suffix);
	if (len > strlen(".raw") && !strcmp(whole_name + len - strlen(".raw"), ".raw"))
		len -= strlen(".raw");
	if (len > room)
		len = room;
	if (asprintf(&name, "%.*s%s", (int)len, whole_name, suffix) < 0)
		return NULL;
	return name;
}

char *tree_snapshot_name(const char *id, const char *snapshot_name)
{
	char *name;

	if (asprintf(&name, "%s-%s.raw", id, snapshot_name) < 0)
		return NULL;
	for (char *at = name; *at; at++) {
		if (*at == '/' || (unsigned char)*at < 0x20 || *at == 0x7f)
			*at = '_';
	}
	if (strlen(name) > NAME_MAX)
		strcpy(name + NAME_MAX - strlen(".raw"), ".raw");
	return name;
}
