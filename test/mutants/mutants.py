# SPDX-License-Identifier: MIT OR Apache-2.0
"""The mutants: what each takes away, the lines of the law that it belongs to, the edit,
and the tests of which at least one must fail."""
from collections import namedtuple

Mutant = namedtuple("Mutant", "name what lines edits killers")

MUTANTS = []

CRASH = ["test/sim/sim --check --part pairs --cell c4k-r16-v3",
         "test/sim/sim --check --part random --cell c4k-r16-v3"]
GROWTH = ["test/sim/sim --check --part pairs --cell c512-r16-v3",
          "test/sim/sim --check --part random --cell c512-r64-v3",
          "test/sim/sim --check --part pairs --cell c512-r64-grown",
          "test/sim/sim --check --part random --cell c512-r64-grown",
          "test/unit/test_peer_bugs test_12"]
SNAPSHOT = ["test/sim/sim --check --part pairs --cell c4k-r16-snapshot",
            "test/sim/sim --check --part random --cell c4k-r16-snapshot",
            "test/sim/sim --check --part random --cell c512-r16-snapshot"]
BACKING = ["test/sim/sim --check --part pairs --cell c4k-r16-backing",
           "test/sim/sim --check --part random --cell c4k-r16-backing"]
COMPRESSED = ["test/sim/sim --check --part random --cell c4k-r16-compressed"]
DATA = ["test/sim/sim --check --part pairs --cell c4k-r16-data",
        "test/sim/sim --check --part random --cell c4k-r16-data"]
FAULTS = ["test/sim/sim --check --part faults --cell c512-r16-v3",
          "test/sim/sim --check --part faults --cell c4k-r16-v3"]
SNAPSHOT_FAULTS = ["test/sim/sim --check --part faults --cell c512-r16-snapshot"]
ALLOCS = ["test/sim/sim --check --part allocs"]
SCHEDULES = ["test/sim/sim --check --part schedules"]
NAMED = ["test/unit/test_peer_bugs"]
RACES = ["test/unit/test_races"]
LEAKS = ["test/unit/test_leaks"]
AHEAD = ["test/unit/test_ahead"]
FEATURES = ["test/unit/test_features"]


def mutant(name, what, edits, killers, lines=()):
    """edits: (file, old, new); lines: (file, whole line without its indentation)."""
    MUTANTS.append(Mutant(name, what, list(lines), edits, killers))


# ---- flush: the order of I10 ----

ROUND = "core/flush.c"
STORE_REFBLOCKS = "\t\t\tret = set_store(&sets[SET_REFBLOCKS]); /* I1, I10 */\n"
DATA_BARRIER = "\t\t\tret = data_barrier(writer); /* I1, I2, I3 */\n"
BAR_REFTABLE = "\t\t\tret = store_and_bar(writer, &sets[SET_REFTABLE]); /* I1, I2 */\n"
BAR_L2 = "\t\t\tret = store_and_bar(writer, &sets[SET_L2]); /* I2, I3 */\n"
BAR_L1 = "\t\t\tret = store_and_bar(writer, &sets[SET_L1]); /* I2 */\n"
IF = "\t\tif (!ret)\n"


def line(path, text):
    return (path, text.strip())


mutant("flush-no-refcounts", "raised refcounts are never stored",
       [(ROUND, STORE_REFBLOCKS, "\t\t\tret = 0;\n")], CRASH, [line(ROUND, STORE_REFBLOCKS)])
mutant("flush-refcounts-last", "refcounts are stored after the pointers",
       [(ROUND, STORE_REFBLOCKS + IF + DATA_BARRIER + IF + BAR_REFTABLE + IF + BAR_L2 + IF + BAR_L1,
         DATA_BARRIER + IF + BAR_REFTABLE + IF + BAR_L2 + IF + BAR_L1 + IF
         + "\t\t\tret = store_and_bar(writer, &sets[SET_REFBLOCKS]);\n")],
       CRASH, [line(ROUND, STORE_REFBLOCKS)])
mutant("flush-no-data-barrier", "no barrier between data and refcounts, and the pointers",
       [(ROUND, DATA_BARRIER, "\t\t\tret = sets[SET_L2].nb ? 0 : data_barrier(writer);\n")],
       CRASH, [line(ROUND, DATA_BARRIER)])
mutant("flush-no-reftable", "the refcount table is never stored",
       [(ROUND, BAR_REFTABLE, "\t\t\tret = 0;\n")], GROWTH, [line(ROUND, BAR_REFTABLE)])
mutant("flush-no-reftable-barrier", "no barrier after the refcount table",
       [(ROUND, BAR_REFTABLE, "\t\t\tret = set_store(&sets[SET_REFTABLE]);\n")], GROWTH,
       [line(ROUND, BAR_REFTABLE)])
mutant("flush-no-l2-barrier", "no barrier after L2",
       [(ROUND, BAR_L2, "\t\t\tret = set_store(&sets[SET_L2]);\n")], CRASH, [line(ROUND, BAR_L2)])
mutant("flush-no-l1-barrier", "no barrier after L1",
       [(ROUND, BAR_L1, "\t\t\tret = set_store(&sets[SET_L1]);\n")], RACES + GROWTH, [line(ROUND, BAR_L1)])
mutant("flush-no-l1", "L1 is never stored",
       [(ROUND, BAR_L1, "\t\t\tret = 0;\n")], RACES + GROWTH, [line(ROUND, BAR_L1)])
mutant("flush-keeps-nothing-back", "unlinked clusters are freed although the flush failed",
       [(ROUND, "\t\t\trelease_put_back(writer, &unlinked); /* I5: still in quarantine */\n",
         "\t\t\trelease_begin(writer, &unlinked);\n")], FAULTS + SNAPSHOT_FAULTS,
       [line(ROUND, "release_put_back(writer, &unlinked); /* I5: still in quarantine */")])
mutant("flush-releases-first", "unlinked clusters are freed before the round",
       [(ROUND, "\t\tret = extend_file(writer);\n",
         "\t\trelease_begin(writer, &unlinked);\n\t\tret = extend_file(writer);\n"),
        (ROUND, "\t\t\trelease_begin(writer, &unlinked); /* I4, I5 */\n", "\t\t\t;\n"),
        (ROUND, "\t\t\trelease_put_back(writer, &unlinked); /* I5: still in quarantine */\n", "\t\t\t;\n")],
       CRASH + SNAPSHOT, [line(ROUND, "release_begin(writer, &unlinked); /* I4, I5 */")])
mutant("flush-switch-without-blocks", "a table is switched while its blocks are not stored",
       [(ROUND, "\t\tret = set_store(&blocks); /* I1: made durable by the switch's first flush */\n",
         "\t\tret = 0;\n")], NAMED + GROWTH,
       [line(ROUND, "ret = set_store(&blocks); /* I1: made durable by the switch's first flush */")])
mutant("flush-failure-forgotten", "a flush after a failed barrier succeeds",
       [(ROUND, "\tint ret = file_flush(writer->image->file);\n\n\tif (ret)\n\t\twriter->failed = ret;\n",
         "\tint ret = file_flush(writer->image->file);\n\n")], FAULTS)
mutant("flush-no-data-file-barrier", "the external data file is not flushed",
       [(ROUND, "\t\tret = file_flush(image->data_file);\n", "\t\tret = 0;\n")], DATA)
mutant("flush-joins-running-round", "an fsync is content with a round that began before it",
       [(ROUND, "uint64_t ticket = writer->flush_started + 1;", "uint64_t ticket = writer->flush_started;")],
       CRASH + SCHEDULES)
mutant("flush-forgets-late-writes", "what is written during a round counts as flushed",
       [(ROUND, "\t\twriter->unflushed = false;\n", ""),
        (ROUND, "\t\tfor (int i = 0; i < SET_COUNT; i++)\n\t\t\tset_settle(&sets[i], ret);\n",
         "\t\twriter->unflushed = false;\n"
         "\t\tfor (int i = 0; i < SET_COUNT; i++)\n\t\t\tset_settle(&sets[i], ret);\n")],
       CRASH + SCHEDULES)
mutant("flush-dirty-lost-on-error", "slices that could not be stored count as clean",
       [(ROUND, "\t\tif (failed)\n\t\t\tcache_mark_dirty(set->cache, set->slices[i]);\n", "")],
       FAULTS)
mutant("flush-no-mutex", "two rounds at once",
       [(ROUND, "\tco_mutex_lock(&writer->flush_mutex);\n\tif (writer->flush_done < ticket) {",
         "\tif (writer->flush_done < ticket) {"),
        (ROUND, "\t\t\twriter->flush_done = number;\n\t}\n\tco_mutex_unlock(&writer->flush_mutex);\n",
         "\t\t\twriter->flush_done = number;\n\t}\n")], CRASH + SCHEDULES)

# ---- header ----

mutant("header-no-flush-before", "the header is switched to a table that is not durable",
       [("core/header.c", "\tint ret = file_flush(file); /* I2: what the new fields point to comes first */\n",
         "\tint ret = 0;\n")], RACES,
       [line("core/header.c", "int ret = file_flush(file); /* I2: what the new fields point to comes first */")])
mutant("header-no-flush-after", "the old table is freed while the header may still point to it",
       [("core/header.c", "\t\tret = file_flush(file); /* I2: nobody builds on the switch before it is durable */\n",
         "\t\tret = 0;\n")], GROWTH,
       [line("core/header.c", "ret = file_flush(file); /* I2: nobody builds on the switch before it is durable */")])

# ---- allocation ----

mutant("alloc-no-refcount", "an allocated cluster keeps refcount 0",
       [("core/alloc.c", "\t\tret = refcount_set_run(writer, s->first, s->nb, 1);\n", "\t\tret = 0;\n")],
       CRASH,
       [line("core/write.c", "ret = alloc_clusters(writer, 1, run->nb_clusters, &run->host_off, &nb, &run->zero); /* I1 */"),
        line("core/table.c", "int ret = alloc_clusters(writer, 1, 1, &new_off, &nb, &zero); /* I1 */"),
        line("core/discard.c", "ret = alloc_clusters(writer, 1, nb_clusters, &host_off, &nb, &zero); /* I1 */")])
mutant("ahead-without-refcounts", "clusters taken ahead keep refcount 0",
       [("core/alloc.c", "\t\tret = refcount_set_run(writer, s->first, s->nb, 1);\n",
         "\t\tret = refcount_set_run(writer, s->first, min_u64(s->nb, nb_max), 1);\n")], AHEAD)
mutant("ahead-hands-out-twice", "a cluster taken ahead is kept when it is handed out",
       [("core/ahead.c", "\tahead->first += nb;\n", "")], AHEAD)
mutant("ahead-is-kept-for-ever", "what was taken ahead is not given back when the image is closed",
       [("core/writer.c", "\tahead_give_back(writer);\n", "")], AHEAD)
mutant("ahead-is-kept-when-quiet", "what was taken ahead is given back only at the end",
       [("core/ahead.c", "\tif (!ahead->used && ahead->nb)\n\t\tahead_give_back(writer);\n", "")],
       AHEAD)
mutant("ahead-keeps-refcounts", "giving back does not lower refcounts",
       [("core/ahead.c", "\tif (refcount_set_run(writer, first, nb, 0))\n\t\treturn;\n", "")], AHEAD)
mutant("ahead-cuts-the-file", "giving back ends the file whatever lies behind",
       [("core/ahead.c", "\tif (file->size_bytes <= end && writer->zero_from <= start)\n",
         "\tif (true)\n")], AHEAD)
mutant("alloc-frees-table-first", "the old refcount table is freed before the header has switched",
       [("core/alloc.c", "\tif (!ret)\n\t\tret = flush_switch_reftable(writer, (t.first + t.nb_blocks) << bits, t.nb_clusters);\n",
         "\tif (!ret)\n\t\tfree_old_table(writer, old_off, old_nb);\n"
         "\tif (!ret)\n\t\tret = flush_switch_reftable(writer, (t.first + t.nb_blocks) << bits, t.nb_clusters);\n"),
        ("core/alloc.c", "\tcache_forget(&writer->ref_cache, old_off, old_nb << bits);\n\tfree_old_table(writer, old_off, old_nb);\n",
         "\tcache_forget(&writer->ref_cache, old_off, old_nb << bits);\n")], NAMED + GROWTH,
       [line("core/alloc.c", "/* I4, I5: the switch is durable. A failure here leaks one cluster. */")])
mutant("alloc-block-without-own-refcount", "a refcount block is linked before it counts itself",
       [("core/alloc.c", "\t\trefcount_encode(slice->data, in_block % per_slice, image->header.refcount_order, 1);\n", "")],
       GROWTH,
       [line("core/alloc.c", "/* Its own refcount first: a flush between the two steps must not see a block without. I1 */")])
mutant("alloc-area-without-blocks", "the blocks of a large area are not written",
       [("core/alloc.c", "\tret = write_new_blocks(writer, &t, buf); /* I2: before the table names them */\n", "\tret = 0;\n")],
       LEAKS, [line("core/alloc.c", "ret = write_new_blocks(writer, &t, buf); /* I2: before the table names them */")])
mutant("alloc-hands-out-metadata", "clusters of refcount 0 that hold tables are handed out",
       [("core/alloc.c", "\tif (overlap_hits(&writer->overlap, first << bits, nb << bits))\n\t\treturn writer_mark_corrupt(writer);\n", "")],
       NAMED)
mutant("alloc-no-mutex", "two allocations at once",
       [("core/alloc.c", "\tco_mutex_lock(&writer->alloc_mutex);\n\tret = take(writer, &s);\n", "\tret = take(writer, &s);\n"),
        ("core/alloc.c", "\t\twriter->image->stats.nb_allocated_clusters += s.nb;\n\t\twriter->ahead.nb_needed += s.nb;\n\t}\n\tco_mutex_unlock(&writer->alloc_mutex);\n",
         "\t\twriter->image->stats.nb_allocated_clusters += s.nb;\n\t}\n")], GROWTH + SCHEDULES)
mutant("alloc-knows-too-many-zeros", "reused clusters are taken for untouched ones",
       [("core/alloc.c", "*ret_zero = *ret_host_off >= writer->zero_from;", "*ret_zero = true;")],
       CRASH)


# ---- writing ----

mutant("write-link-before-data", "the entry shows a cluster whose data is not written yet",
       [("core/write.c", "\t\tret = write_run_data(writer, run, data);\n\tif (!ret)\n\t\tret = link_run(writer, run, l2_off, &nb_linked); /* I3: after the data */\n",
         "\t\tret = link_run(writer, run, l2_off, &nb_linked);\n\tif (!ret)\n\t\tret = write_run_data(writer, run, data);\n")],
       RACES + CRASH,
       [line("core/write.c", "ret = link_run(writer, run, l2_off, &nb_linked); /* I3: after the data */")])
mutant("write-no-range-lock", "overlapping allocating writes at once",
       [("core/write.c", "\trange_lock(&writer->in_flight, &hold, start, round_up(end, size) - start, true); /* I8 */\n", ""),
        ("core/write.c", "\tret = write_exclusive(req, pos, end);\n\trange_unlock(&writer->in_flight, &hold);\n",
         "\t(void)hold;\n\t(void)start;\n\tret = write_exclusive(req, pos, end);\n")],
       SCHEDULES + CRASH,
       [line("core/write.c", "range_lock(&writer->in_flight, &hold, start, round_up(end, size) - start, true); /* I8 */")])
mutant("write-keeps-failed-clusters", "a failed request leaks its clusters",
       [("core/write.c", "\t\talloc_undo(writer, run->host_off + (nb_linked << bits),\n\t\t\t   run->nb_clusters - nb_linked); /* I12 */\n", "\t\t(void)bits;\n")],
       LEAKS, [line("core/write.c", "run->nb_clusters - nb_linked); /* I12 */")])
mutant("write-no-copied", "new entries lack COPIED",
       [("core/write.c", "\t\t.entry = (run->host_off + (guest_off - run->first_cluster)) | ENTRY_COPIED,\n",
         "\t\t.entry = run->host_off + (guest_off - run->first_cluster),\n")], CRASH)
mutant("write-forgets-old-cluster", "what a rewritten entry held is never freed",
       [("core/write.c", "\t\t\tif (!run->reuse)\n\t\t\t\ttable_unlink(writer, old);\n", "")], LEAKS)
mutant("write-shared-in-place", "clusters that a snapshot shares are written in place",
       [("core/write.c", "\treturn extent->kind == EXTENT_DATA && extent->copied;\n", "\treturn extent->kind == EXTENT_DATA;\n")],
       SNAPSHOT)
mutant("write-copies-nothing", "the rest of a copied cluster is not copied",
       [("core/write.c", "\tif (run->head)\n\t\tiov[nb_iov++] = (struct iovec){run->head, run->head_bytes};\n", ""),
        ("core/write.c", "\tuint64_t start = run->head ? run->copy_start : run->start;\n", "\tuint64_t start = run->start;\n")],
       BACKING + COMPRESSED)
mutant("write-no-owner-map", "guest data may go over tables",
       [("core/write.c", "\tif (!has_data_file(writer->image) && overlap_hits(&writer->overlap, host_off, len_bytes))\n",
         "\tif (false)\n")], FEATURES)

# ---- tables ----

mutant("table-no-copied", "a new L2 table's L1 entry lacks COPIED",
       [("core/table.c", "\t\tbe64_put(slice->data + (entry_off - slice_off), new_off | ENTRY_COPIED); /* I7 */\n",
         "\t\tbe64_put(slice->data + (entry_off - slice_off), new_off);\n")], RACES + GROWTH,
       [line("core/table.c", "be64_put(slice->data + (entry_off - slice_off), new_off | ENTRY_COPIED); /* I7 */")])
mutant("table-old-forgotten", "the shared L2 table keeps a reference too many",
       [("core/table.c", "\t\tif (old_off) /* I4 */\n\t\t\trun_list_add(&writer->unlinked, old_off >> image->cluster_bits, 1);\n", "")],
       LEAKS, [line("core/table.c", "if (old_off) /* I4 */")])
mutant("table-not-written", "a new L2 table holds what was there before",
       [("core/table.c", "\tret = write_table(writer, new_off, old_off); /* I2 */\n", "\tret = 0;\n")],
       SNAPSHOT + CRASH, [line("core/table.c", "ret = write_table(writer, new_off, old_off); /* I2 */")])
mutant("table-keeps-failed-cluster", "a table that could not be linked is leaked",
       [("core/table.c", "\t\talloc_undo(writer, new_off, 1); /* I12 */\n", "\t\t;\n")], LEAKS,
       [line("core/table.c", "alloc_undo(writer, new_off, 1); /* I12 */")])
mutant("table-frees-neighbours", "one cluster too many is unlinked",
       [("core/table.c", "\trun_list_add(&writer->unlinked, first, last - first + 1); /* I4, I5 */\n",
         "\trun_list_add(&writer->unlinked, first, last - first + 2);\n")], CRASH + COMPRESSED,
       [line("core/table.c", "run_list_add(&writer->unlinked, first, last - first + 1); /* I4, I5 */")])
mutant("table-no-mutex", "two requests create one L2 table",
       [("core/table.c", "\tco_mutex_lock(&writer->table_mutex);\n", ""),
        ("core/table.c", "\tco_mutex_unlock(&writer->table_mutex);\n", "")], RACES)

# ---- release ----

mutant("release-punch-late", "the host punch runs after the cluster can be allocated again",
       [("core/release.c", "\tfile_punch(image->file, host_off, len_bytes); /* I9: before the refcount drops */\n", ""),
        ("core/release.c", "\t\t\talloc_remember_free(writer, first + i, 1);\n\tco_mutex_unlock(&writer->alloc_mutex);\n",
         "\t\t\talloc_remember_free(writer, first + i, 1);\n\tco_mutex_unlock(&writer->alloc_mutex);\n\tco_sleep(1);\n\tfile_punch(image->file, host_off, len_bytes);\n")],
       RACES,
       [line("core/release.c", "file_punch(image->file, host_off, len_bytes); /* I9: before the refcount drops */")])
mutant("release-no-grace", "a cluster is reused while a read of it is under way",
       [("core/release.c", "\t\tio_wait_for_earlier(writer->image); /* I6 */\n", "")],
       RACES, [line("core/release.c", "io_wait_for_earlier(writer->image); /* I6 */")])
mutant("release-shared-freed", "a cluster that somebody else uses is punched",
       [("core/release.c", "value == 1)", "value >= 1)")], SNAPSHOT)

DATA_HOLD = "\trange_lock(&writer->in_flight, &hold, pos, end - pos, true); /* I8, I9 */\n"
mutant("release-data-no-range-lock", "a punch of a data file beside a write there",
       [("core/release.c", DATA_HOLD, "\t(void)hold;\n"),
        ("core/release.c", "\t\tpos += extent.len_bytes;\n\t}\n\trange_unlock(&writer->in_flight, &hold);\n",
         "\t\tpos += extent.len_bytes;\n\t}\n")], RACES,
       [line("core/release.c", DATA_HOLD)])
mutant("release-data-written-again", "a punch of a data file takes what was written meanwhile",
       [("core/release.c", "\t\tif (extent.kind == EXTENT_ZERO && extent.has_host_off)\n", "\t\tif (extent.has_host_off)\n")],
       RACES + DATA)
mutant("discard-data-punched-early", "a data file is punched before the removal is durable",
       [("core/discard.c", '#include "core/alloc.h"\n', '#include "core/alloc.h"\n#include "core/release.h"\n'),
        ("core/discard.c", "\trun_list_append(&writer->unlinked,\n"
         "\t\t\t(struct cluster_run){.first = index, .nb = 1, .in_data_file = true});\n",
         "\tstruct run_list now = {0};\n\n\tif (!run_list_reserve(&now, 1)) {\n"
         "\t\trun_list_append(&now, (struct cluster_run){.first = index, .nb = 1, .in_data_file = true});\n"
         "\t\trelease_begin(writer, &now);\n\t}\n")], RACES)

# ---- discard ----

mutant("zero-no-range-lock", "a discard beside an allocating write",
       [("core/discard.c", "\t\t\trange_lock(&writer->in_flight, &hold, start, round_up(end, size) - start,\n\t\t\t\t   true); /* I8 */\n", "\t\t\t(void)hold;\n\t\t\t(void)start;\n"),
        ("core/discard.c", "\t\t\tret = zero_by_entries(writer, pos, end, mode, &pos);\n\t\t\trange_unlock(&writer->in_flight, &hold);\n",
         "\t\t\tret = zero_by_entries(writer, pos, end, mode, &pos);\n")], RACES,
       [line("core/discard.c", "true); /* I8 */")])
mutant("allocate-no-range-lock", "preallocation beside an allocating write",
       [("core/discard.c", "\trange_lock(&writer->in_flight, &hold, pos, end - pos, true); /* I8 */\n", "\t(void)hold;\n"),
        ("core/discard.c", "\t\tpos += done;\n\t}\n\trange_unlock(&writer->in_flight, &hold);\n", "\t\tpos += done;\n\t}\n")],
       RACES,
       [line("core/discard.c", "range_lock(&writer->in_flight, &hold, pos, end - pos, true); /* I8 */")])
mutant("allocate-keeps-failed-clusters", "a failed preallocation leaks its clusters",
       [("core/discard.c", "\t\talloc_undo(writer, host_off + (*ret_nb << bits), nb - *ret_nb); /* I12 */\n", "\t\t;\n")],
       LEAKS, [line("core/discard.c", "alloc_undo(writer, host_off + (*ret_nb << bits), nb - *ret_nb); /* I12 */")])
mutant("discard-uncovers-backing", "a discard uncovers the backing file",
       [("core/discard.c", "\treturn image->backing && guest_off < image->backing->virtual_size;\n", "\treturn false;\n")],
       BACKING)

# ---- resize ----

mutant("resize-keeps-failed-clusters", "an L1 table that could not be written is leaked",
       [("core/resize.c", "\t\talloc_undo(writer, new_off, nb_clusters); /* I12 */\n", "\t\t;\n")],
       LEAKS,
       [line("core/resize.c", "alloc_undo(writer, new_off, nb_clusters); /* I12 */")])
mutant("resize-no-round-before-switch", "the header switches to an L1 table that relies on unstored refcounts",
       [("core/flush.c", "\tret = whole_round ? round_run(writer) : writer->failed;\n", "\tret = writer->failed;\n"),
        ("core/resize.c", "\tret = tree_settle(writer);\n", "\tret = 0;\n")],
       RACES + GROWTH, [line("core/resize.c", "ret = flush_switch_l1(writer, new_off, nb_entries); /* I2 */")])
mutant("resize-old-l1-freed-at-once", "the old L1 table's clusters are leaked",
       [("core/resize.c", "\t\t\trun_list_add(&writer->unlinked, old_off >> image->cluster_bits,\n\t\t\t\t     div_up(old_bytes, size)); /* I4 */\n", "\t\t\t;\n")],
       LEAKS, [line("core/resize.c", "div_up(old_bytes, size)); /* I4 */")])
mutant("resize-uncovers-backing", "a growing disk shows a longer backing file",
       [("core/resize.c", "\tret = zero_outside(writer, old_bytes, min_u64(end, size_bytes), ZERO_FREE);\n", "\t(void)end;\n")],
       FEATURES)

mutant("resize-no-lock", "the disk's size changes while requests are under way",
       [("core/resize.c", "\tco_rwlock_wrlock(&image->resize_lock);\n\tret = begin(writer, virtual_size, &growth);\n",
         "\tret = begin(writer, virtual_size, &growth);\n"),
        ("core/resize.c", "\timage->info.virtual_size = image->virtual_size;\n\tco_rwlock_unlock(&image->resize_lock);\n",
         "\timage->info.virtual_size = image->virtual_size;\n")], RACES + SCHEDULES)
mutant("close-no-lock", "an image is closed while requests are under way",
       [("core/image.c", "\tco_rwlock_wrlock(&image->resize_lock); /* until requests under way have ended */\n", ""),
        ("core/image.c", "\t\tret = writer_close(image);\n\tco_rwlock_unlock(&image->resize_lock);\n",
         "\t\tret = writer_close(image);\n")], ["test/unit/test_peer_bugs test_30*"] + SCHEDULES)

# ---- cache ----

mutant("cache-evicts-storing", "a slice is re-read before its store is complete",
       [("core/cache.c", "return !slice->pins && !slice->loading && !slice->dirty && !slice->storing;",
         "return !slice->pins && !slice->loading && !slice->dirty;"),
        ("core/cache.c", "\tassert(!slice->pins && !slice->loading && !slice->storing);\n",
         "\tassert(!slice->pins && !slice->loading);\n")], SCHEDULES + CRASH + NAMED)
mutant("cache-evicts-dirty", "a dirty slice is dropped",
       [("core/cache.c", "return !slice->pins && !slice->loading && !slice->dirty && !slice->storing;",
         "return !slice->pins && !slice->loading && !slice->storing;")], SCHEDULES + CRASH)

# ---- whole images: snapshots, trees, another backing file, formatting ----

EDIT = "core/snapshot_edit.c"
TREE = "core/tree.c"
EDITS = ["test/unit/test_edits"]

SWITCH_TABLE = "\tret = flush_switch_header(writer, &change); /* I1, I2, I4 */\n"
TABLE_ALLOC = "\tret = alloc_clusters(writer, nb_clusters, nb_clusters, ret_off, &nb, &zero); /* I1 */\n"
mutant("snapshot-table-without-refcount", "a snapshot table's clusters count as free",
       [(EDIT, TABLE_ALLOC, TABLE_ALLOC + "\tif (!ret)\n\t\talloc_undo(writer, *ret_off, nb);\n")],
       EDITS, [line(EDIT, TABLE_ALLOC)])
mutant("snapshot-table-late", "the header points to a snapshot table that is not there yet",
       [(EDIT, "\tret = file_write(writer->image->file, *ret_off, table->bytes, table->nb_bytes,\n"
         "\t\t\t IO_TAG_SNAPSHOT); /* I2 */\n", "\tret = 0;\n"),
        (EDIT, SWITCH_TABLE, SWITCH_TABLE
         + "\tif (!ret && table->nb_snapshots)\n\t\tret = file_write(image->file, change.snapshots_offset, table->bytes,\n"
         "\t\t\t\t table->nb_bytes, IO_TAG_SNAPSHOT);\n")],
       EDITS, [line(EDIT, "IO_TAG_SNAPSHOT); /* I2 */")])
mutant("snapshot-table-keeps-failed-clusters", "a snapshot table that could not be written is leaked",
       [(EDIT, "\t\talloc_undo(writer, *ret_off, nb_clusters); /* I12 */\n", "\t\t;\n")],
       EDITS, [line(EDIT, "alloc_undo(writer, *ret_off, nb_clusters); /* I12 */")])
mutant("snapshot-table-keeps-unused-clusters", "a snapshot table that was not switched to is leaked",
       [(EDIT, "\tif (change.snapshots_offset)\n\t\talloc_undo(writer, change.snapshots_offset,\n"
         "\t\t\t   tree_table_clusters(image, table->nb_bytes)); /* I12 */\n", "")],
       EDITS, [line(EDIT, "tree_table_clusters(image, table->nb_bytes)); /* I12 */")])
mutant("snapshot-old-table-forgotten", "the old snapshot table is leaked",
       [(EDIT, "\t\trun_list_add(&writer->unlinked, old_off >> image->cluster_bits,\n"
         "\t\t\t     tree_table_clusters(image, old_bytes)); /* I4 */\n", "")],
       EDITS, [line(EDIT, "tree_table_clusters(image, old_bytes)); /* I4 */")])
mutant("snapshot-flags-stay", "what a new snapshot shares keeps COPIED",
       [(EDIT, "\tint ret = tree_update_copied(writer); /* I7: shared from now on */\n", "\tint ret = 0;\n")],
       EDITS, [line(EDIT, "int ret = tree_update_copied(writer); /* I7: shared from now on */")])
mutant("snapshot-switch-without-round", "the header switches before refcounts and flags are stored",
       [(EDIT, SWITCH_TABLE, "\tret = header_switch(image->file, &image->header, &change);\n")],
       EDITS, [line(EDIT, SWITCH_TABLE)])
mutant("snapshot-failure-keeps-l1", "a snapshot that failed leaks its L1 table",
       [(EDIT, "\talloc_undo(writer, l1_off, nb_l1);\n", "\t(void)nb_l1;\n")],
       EDITS, [line(EDIT, "/* I12: nothing was published. The flags follow the refcounts again. */")])
mutant("snapshot-failure-keeps-references", "a snapshot that failed leaves its references behind",
       [(EDIT, "\t\ttree_drop_references(writer, image->l1_table_offset, image->l1_size);\n", "")],
       EDITS, [line(EDIT, "/* I12: nothing was published. The flags follow the refcounts again. */")])
mutant("snapshot-delete-frees-first", "a snapshot's clusters are freed before the table is switched",
       [(EDIT, "\tret = switch_table(writer, &table);\n\tfree(table.bytes);\n\tif (ret && image",
         "\tret = tree_unlink(writer, l1_off, l1_size);\n\tif (!ret)\n\t\tret = tree_settle(writer);\n"
         "\tret = switch_table(writer, &table);\n\tfree(table.bytes);\n\tif (ret && image"),
        (EDIT, "\tif (!ret)\n\t\tret = tree_unlink(writer, l1_off, l1_size);\n", "")],
       EDITS, [line(EDIT, SWITCH_TABLE)])
mutant("snapshot-delete-no-copied", "what is not shared any more lacks COPIED",
       [(EDIT, "\treturn ret ? ret : tree_update_copied(writer); /* I7: what is not shared any more */\n",
         "\treturn ret;\n")],
       EDITS, [line(EDIT, "return ret ? ret : tree_update_copied(writer); /* I7: what is not shared any more */")])

mutant("tree-never-freed", "what a tree referred to is leaked",
       [(TREE, "\trun_list_add(&writer->unlinked, first, nb); /* I4, I5 */\n", "")],
       EDITS, [line(TREE, "run_list_add(&writer->unlinked, first, nb); /* I4, I5 */")])
L1_ALLOC = "\tret = alloc_clusters(writer, nb_clusters, nb_clusters, ret_new_off, &nb, &zero); /* I1 */\n"
mutant("tree-l1-without-refcount", "a copied L1 table's clusters count as free",
       [(TREE, L1_ALLOC, L1_ALLOC + "\tif (!ret)\n\t\talloc_undo(writer, *ret_new_off, nb);\n")],
       EDITS, [line(TREE, L1_ALLOC)])
L1_FILL = "\tret = fill_l1(image, *ret_new_off, bytes, old_off, old_bytes, kept_flags); /* I2 */\n"
mutant("tree-l1-not-written", "a copied L1 table holds what was there before",
       [(TREE, L1_FILL, "\tret = old_bytes > bytes ? fill_l1(image, 0, 0, old_off, 0, kept_flags) : 0;\n")],
       EDITS, [line(TREE, L1_FILL)])
mutant("tree-l1-keeps-failed-clusters", "an L1 table that could not be written is leaked",
       [(TREE, "\t\talloc_undo(writer, *ret_new_off, nb_clusters); /* I12 */\n", "\t\t;\n")],
       EDITS, [line(TREE, "alloc_undo(writer, *ret_new_off, nb_clusters); /* I12 */")])
mutant("tree-switch-without-round", "the header switches to an L1 table whose refcounts are not stored",
       [(TREE, "\tret = flush_switch_header(writer, &change); /* I2 */\n",
         "\tret = header_switch(image->file, &image->header, &change);\n")],
       EDITS, [line(TREE, "ret = flush_switch_header(writer, &change); /* I2 */")])

mutant("rebase-name-late", "the header points to a name that is not there yet",
       [("core/rebase.c", "\tint ret = file_flush(r->image->file); /* I2 */\n", "\tint ret = 0;\n")],
       EDITS, [line("core/rebase.c", "int ret = file_flush(r->image->file); /* I2 */")])
mutant("create-header-early", "a header goes before its tables",
       [("core/create.c", "\t\tret = file_flush(f->file); /* I2: everything is there before it is an image */\n",
         "\t\tret = 0;\n")],
       EDITS, [line("core/create.c", "ret = file_flush(f->file); /* I2: everything is there before it is an image */")])
mutant("create-old-image-stays", "tables are written while the old header may still be there",
       [("core/create.c", "\treturn ret ? ret : file_flush(file);\n", "\treturn ret;\n")], EDITS)

mutant("create-header-torn", "a header can be there without the name it points to",
       [("core/create.c", "\tif (!ret && size > HEADER_SECTOR_BYTES)\n", "\tif (false)\n"),
        ("core/create.c", "file_write(f->file, 0, cluster, HEADER_SECTOR_BYTES, IO_TAG_HEADER)",
         "file_write(f->file, 0, cluster, size, IO_TAG_HEADER)")], EDITS)
mutant("snapshot-not-marked", "refcounts are raised in an image that is not marked dirty",
       [(EDIT, "\treturn ret ? ret : mark_dirty(writer, true);\n", "\treturn ret;\n")], EDITS)
mutant("snapshot-unmarked-early", "the dirty mark goes while refcounts are still deferred",
       [(EDIT, "\tif (!ret)\n\t\tret = tree_settle(writer);\n\tif (!ret && image->header.incompatible_features & INCOMPAT_DIRTY)\n"
         "\t\tret = mark_dirty(writer, false);\n",
         "\tif (!ret && image->header.incompatible_features & INCOMPAT_DIRTY)\n"
         "\t\tret = header_set_features(image->file, &image->header, 0, image->header.autoclear_features);\n"
         "\tif (!ret)\n\t\tret = tree_settle(writer);\n")], EDITS)
mutant("snapshot-failure-stays-dirty", "a deletion that did not happen leaves the image dirty",
       [(EDIT, "\t\tmark_dirty(writer, false); /* nothing has happened */\n", "\t\t;\n")], EDITS)

# ---- compressed writing ----

PACK = "core/compress_write.c"
LINK_PIECES = "\t\tret = link_pieces(batch, &nb_linked);                         /* I3 */\n"
mutant("compress-no-range-lock", "a compressed write beside an allocating one",
       [(PACK, "\t\trange_lock(&writer->in_flight, &hold, batch->guest_off,\n"
         "\t\t\t   batch->nb * (uint64_t)batch->cluster_bytes, true); /* I8 */\n",
         "\t\t(void)writer;\n\t\t(void)hold;\n"),
        (PACK, LINK_PIECES + "\t\trange_unlock(&writer->in_flight, &hold);\n", LINK_PIECES)],
       EDITS, [line(PACK, "batch->nb * (uint64_t)batch->cluster_bytes, true); /* I8 */")])
mutant("compress-link-before-data", "the entry shows compressed data that is not written yet",
       [(PACK, "\tret = write_pieces(batch);\n", ""),
        (PACK, LINK_PIECES + "\t\trange_unlock(&writer->in_flight, &hold);\n",
         LINK_PIECES + "\t\trange_unlock(&writer->in_flight, &hold);\n\t\tret = write_pieces(batch);\n")],
       EDITS, [line(PACK, LINK_PIECES)])
mutant("compress-keeps-failed-clusters", "a compressed write that failed leaks its clusters",
       [(PACK, "\t\tplacer_give_back(&batch->packer->placer, batch->pieces + nb_linked,\n"
         "\t\t\t\t batch->nb - nb_linked);\n", "\t\t(void)nb_linked;\n")], EDITS)

mutant("compress-no-packer-mutex", "two compressed writes take the same place",
       [("core/compress_place.c", "\tco_mutex_lock(&placer->mutex);\n", ""),
        ("core/compress_place.c", "\tco_mutex_unlock(&placer->mutex);\n", "")],
       EDITS)

# ---- reading ahead ----

mutant("close-beside-read-ahead", "an image goes while its clusters are still being read ahead",
       [("core/image.c", "\tread_ahead_finish(image);\n", "")], ["test/unit/test_compress"])

# ---- repairs ----

REPAIRS = ["test/unit/test_repairs"]
mutant("repair-flags-before-refcounts", "COPIED is set while the raised refcounts are not durable",
       [("core/check.c", "\t\terr = flush_if(check, wrote); /* I1: before anything relies on them */\n", "\t\terr = 0;\n")],
       REPAIRS, [line("core/check.c", "err = flush_if(check, wrote); /* I1: before anything relies on them */")])
LOWER = "\t\terr = check_repair_refcounts(check, CHECK_LOWER, &wrote); /* I4 */\n"
mutant("repair-lowers-nothing", "refcounts that are too high stay",
       [("core/check.c", LOWER, "\t\terr = 0;\n")], REPAIRS, [line("core/check.c", LOWER)])
mutant("repair-flags-unmarked", "flags are set in an image that is not marked dirty",
       [("core/check_repair.c", "\tint err = edit->end ? mark_dirty(check) : 0;\n", "\tint err = 0;\n\n\t(void)mark_dirty;\n")],
       REPAIRS)
mutant("repair-flags-marked-late", "the dirty mark of a repair is not durable before the first flag",
       [("core/check_repair.c", "\treturn err ? err : file_flush(check->file); /* I11: before the first flag */\n", "\treturn err;\n")],
       REPAIRS, [line("core/check_repair.c", "return err ? err : file_flush(check->file); /* I11: before the first flag */")])
mutant("rebuild-switch-early", "the header points to refcounts that are not there yet",
       [("core/check_rebuild.c", "\tint err = file_flush(check->file); /* I1, I2: before the header points there */\n", "\tint err = 0;\n")],
       REPAIRS, [line("core/check_rebuild.c", "int err = file_flush(check->file); /* I1, I2: before the header points there */")])

# ---- before the first change ----

mutant("bitmaps-not-flushed", "data is written while bitmaps still claim to be valid",
       [("core/bitmap.c", "\t\tret = file_flush(image->file); /* I11 */\n", "\t\tret = 0;\n")],
       FEATURES, [line("core/bitmap.c", "ret = file_flush(image->file); /* I11 */")])
TABLES_IN_USE = "\t\tret = file_flush(image->file); /* I11: before a table has the wrong length */\n"
mutant("bitmaps-grow-unflushed", "a bitmap claims to be valid while its table has the wrong length",
       [("core/bitmap.c", TABLES_IN_USE, "\t\tret = 0;\n")],
       FEATURES, [line("core/bitmap.c", TABLES_IN_USE)])
mutant("bitmaps-grow-over-tables", "what a bitmap's table is said to be is not looked at",
       [("core/bitmap.c", "\t    overlap_hits(&writer->overlap, table_off, table_bytes))\n\t\tgrowth->possible = false;\n",
         "\t    false)\n\t\tgrowth->possible = false;\n")], FEATURES)
mutant("autoclear-kept", "unknown autoclear bits survive a write",
       [("core/writer.c", "\tif (unknown) /* I11: before the first write, and never set again */\n", "\tif (unknown && false)\n")],
       FEATURES,
       [line("core/writer.c", "if (unknown) /* I11: before the first write, and never set again */")])
mutant("corrupt-not-marked", "a contradiction does not set the corrupt bit",
       [("core/writer.c", "\tif (h->version >= 3) /* I11: nothing is written after this */\n", "\tif (h->version > 3)\n")],
       FEATURES,
       [line("core/writer.c", "if (h->version >= 3) /* I11: nothing is written after this */")])
mutant("begin-no-mutex", "two first writes prepare the image at once",
       [("core/writer.c", "\tco_mutex_lock(&writer->begin_mutex);\n", ""),
        ("core/writer.c", "\tco_mutex_unlock(&writer->begin_mutex);\n", "")], FEATURES)

# ---- what is deferred to the end of a reactor's turn ----

LOOP = "io/reactor.c"
TURN = "\t\trun_ready(reactor, reactor->nb_ready);\n"
DEFERRED = "\t\trun_deferred(reactor);\n"
REACTOR = ["test/unit/test_reactor"]

mutant("deferred-first", "what is deferred runs before those that are ready",
       [(LOOP, TURN + DEFERRED, DEFERRED + TURN)], REACTOR)
mutant("deferred-last", "what is deferred waits for all turns of a round",
       [(LOOP, TURN + DEFERRED, TURN)], REACTOR)
mutant("deferred-by-coroutines-forgotten", "what is deferred late waits for other work",
       [(LOOP, "\t\trun_ready(reactor, ROUND_MAX);\n" + DEFERRED, "\t\trun_ready(reactor, ROUND_MAX);\n")],
       REACTOR)

# ---- reads at once ----

PUB = "core/published.c"
PUBLISHED = ["test/unit/test_published"]
MODEL = ["test/unit/test_published_model"]
ODD = "\tatomic_store_explicit(&slot->version, version + 1, memory_order_relaxed);\n"
RELEASE = "\tatomic_thread_fence(memory_order_release);\n"
ACQUIRE = "\tatomic_thread_fence(memory_order_acquire);\n"
CHECK_PLACE = ("\tif (atomic_load_explicit(&slot->version, memory_order_relaxed) != version)\n"
               "\t\treturn NULL;\n")
CHECK_READ = ("\tif (atomic_load_explicit(&slot->version, memory_order_relaxed) != version) /* P4 */\n"
              "\t\treturn NULL;\n")

mutant("published-no-release-fence", "a change of a slot is seen before its odd version",
       [(PUB, RELEASE, "")], MODEL)
mutant("published-odd-after-fence", "a change of a slot is ordered before its odd version",
       [(PUB, ODD + RELEASE, RELEASE + ODD)], MODEL)
mutant("published-never-odd", "a slot has an even version while it changes",
       [(PUB, ODD, "")], MODEL)
mutant("published-version-returns", "a slot that has changed has its old version",
       [(PUB, "version + 2, memory_order_release", "version, memory_order_release")], MODEL)
mutant("published-version-before-place", "a version is seen before the place that it stands for",
       [(PUB, "version + 2, memory_order_release", "version + 2, memory_order_relaxed")], MODEL)
mutant("published-place-before-version", "a place is copied that is older than the version",
       [(PUB, "atomic_load_explicit(&slot->version, memory_order_acquire)",
         "atomic_load_explicit(&slot->version, memory_order_relaxed)")], MODEL)
mutant("published-odd-is-copied", "a place is copied while it changes",
       [(PUB, "\tif (version & 1 || cluster_in", "\tif (cluster_in")], MODEL)
mutant("published-of-another", "the place of whichever cluster is in the slot is read",
       [(PUB, "\tif (version & 1 || cluster_in(slot) != cluster + 1)\n", "\tif (version & 1)\n")],
       PUBLISHED + MODEL)
mutant("published-place-unchecked", "halves of two places are read",
       [(PUB, CHECK_PLACE, "")], MODEL)
mutant("published-place-checked-early", "the version is checked before the place is copied",
       [(PUB, ACQUIRE + CHECK_PLACE, CHECK_PLACE)], MODEL)
mutant("published-read-unchecked", "what was read counts although its place was taken back",
       [(PUB, CHECK_READ, "")], MODEL)
mutant("published-read-checked-early", "the version is checked before the file is read",
       [(PUB, ACQUIRE + CHECK_READ, CHECK_READ)], MODEL)
mutant("published-too-late", "a read publishes what it found before it changed",
       [(PUB, " || published->nb_taken_back != since) /* P3 */", ")")], PUBLISHED + MODEL)
mutant("published-uncounted", "nothing tells a read that something has changed",
       [(PUB, "\tpublished->nb_taken_back++;\n", "")], PUBLISHED + MODEL)
mutant("published-not-taken-back", "a slot keeps the place of a cluster that has moved",
       [(PUB, "\t\t\tset_slot(slot, 0, NULL, 0);\n", "\t\t\tcontinue;\n")], PUBLISHED + MODEL)
mutant("published-taken-from-others", "a slot is emptied for a cluster that is not in it",
       [(PUB, "\t\tif (cluster && cluster - 1 - first < nb)\n", "\t\tif (cluster)\n")], PUBLISHED)
mutant("published-again", "each read of the reactor changes the slot",
       [(PUB, "\tif (before == cluster + 1 || published", "\tif (published")], PUBLISHED)
mutant("published-zeros", "the place of a cluster that is no data is published",
       [(PUB, "\tif (extent->kind != EXTENT_DATA || !file", "\tif (!file")], PUBLISHED)
mutant("published-inside-forgotten", "a place is published as if the extent began the cluster",
       [(PUB, "\t\t extent->host_off - inside);", "\t\t extent->host_off);")], PUBLISHED)
mutant("published-neighbours-displace", "neighbours take the slots of what was read",
       [(PUB, "\t\tif (!cluster_in(slot_of(&image->published, off >> image->cluster_bits)) &&\n\t\t    map_",
         "\t\tif (map_")], PUBLISHED)
mutant("published-neighbours-until-unknown", "one neighbour that is not known hides those behind it",
       [(PUB, "&extent) == 0)\n\t\t\tpublish(image, &extent);\n",
         "&extent) == 0)\n\t\t\tpublish(image, &extent);\n\t\telse\n\t\t\treturn;\n")], PUBLISHED)
mutant("published-neighbours-again", "neighbours are looked at whenever a slot changes its cluster",
       [(PUB, "\tif (publish(image, extent) && !before)\n", "\tif (publish(image, extent))\n")],
       PUBLISHED)
mutant("published-over-the-end", "more is read beside than the cluster has",
       [(PUB, "\tif (!published->slots || len_bytes > cluster_size(image) - inside)\n",
         "\tif (!published->slots)\n")], PUBLISHED)
mutant("published-small-clusters", "a smaller cluster of a backing file tells the whole cluster's place",
       [(PUB, "(layer->cluster_bits < image->cluster_bits || layer->info.extended_l2)",
         "layer->info.extended_l2")], PUBLISHED)
mutant("published-subclusters", "a subcluster tells the whole cluster's place",
       [(PUB, "(layer->cluster_bits < image->cluster_bits || layer->info.extended_l2)",
         "layer->cluster_bits < image->cluster_bits")], PUBLISHED)
mutant("published-short-layers", "a layer that ends within a cluster tells all of its place",
       [(PUB, "\t\tif (end > layer->virtual_size)\n\t\t\treturn false;\n", "")], PUBLISHED)
mutant("published-by-top-alone", "the layers above the one that has the cluster are not looked at",
       [(PUB, "\tfor (const struct image *layer = image;; layer = layer->backing) {\n",
         "\tfor (const struct image *layer = extent->layer;;) {\n")], PUBLISHED)
mutant("entry-not-taken-back", "an L2 entry changes while its cluster's place is published",
       [("core/table.c", "\tpublished_take_back(writer->image, window->first_cluster + index, 1); /* P2 */\n", "")],
       PUBLISHED)
mutant("entry-takes-first-back", "a change of an L2 entry takes another cluster's place back",
       [("core/table.c", "window->first_cluster + index, 1); /* P2 */", "window->first_cluster, 1); /* P2 */")],
       PUBLISHED)
mutant("tree-not-taken-back", "places of the old state stay published when a snapshot is applied",
       [("core/tree.c", "\tpublished_take_back(image, 0, UINT64_MAX); /* P2 */\n", "")], PUBLISHED)
mutant("beside-short-read", "a read beside that ends with the host file counts",
       [("io/file_at_once.c", "\treturn res == (ssize_t)len_bytes;\n", "\treturn res >= 0;\n")], PUBLISHED)
mutant("beside-counts-all", "what was read in vain is among the reads",
       [(PUB, "\tif (file)\n\t\tfile_count_beside(file, len_bytes);\n", ""),
        (PUB, CHECK_READ, "\tfile_count_beside(file, len_bytes);\n" + CHECK_READ)], MODEL)
mutant("at-once-uncounted", "what the reactor has read at once is not among the image's reads",
       [(PUB, "\timage->stats.nb_reads++;\n", "")], PUBLISHED)
