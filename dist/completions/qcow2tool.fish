# SPDX-License-Identifier: MIT OR Apache-2.0
#
# fish completion for qcow2tool

set -l commands info check map dump stat create format convert read write zero discard \
    resize snapshot commit rebase top bench

complete -c qcow2tool -n "not __fish_seen_subcommand_from $commands" -f -a "$commands"
complete -c qcow2tool -n "not __fish_seen_subcommand_from $commands" -l version -s V -d 'Show the version'
complete -c qcow2tool -s h -l help -d 'Show help'
complete -c qcow2tool -s f -l format -x -a 'raw qcow2' -d 'Format'
complete -c qcow2tool -s U -l force-share -d 'Read beside a writer'
complete -c qcow2tool -s q -l quiet -d 'No progress'
complete -c qcow2tool -n "__fish_seen_subcommand_from info check map dump stat snapshot top" -l json -d 'As JSON'
complete -c qcow2tool -n "__fish_seen_subcommand_from info" -l backing-chain -d 'Every file of the chain'
complete -c qcow2tool -n "__fish_seen_subcommand_from check" -s r -l repair -x -a 'leaks all' -d 'Repair'
complete -c qcow2tool -n "__fish_seen_subcommand_from map" -l start -x -d 'First byte'
complete -c qcow2tool -n "__fish_seen_subcommand_from map" -l length -x -d 'Number of bytes'
for table in header extensions reftable refblocks l1 l2 snapshots bitmaps
    complete -c qcow2tool -n "__fish_seen_subcommand_from dump" -l $table -d 'Show this table'
end
complete -c qcow2tool -n "__fish_seen_subcommand_from create format convert" -s o -x \
    -a '{cluster_size,refcount_bits,compat,extended_l2,preallocation,lazy_refcounts,compression_type,data_file,data_file_raw,backing_file,backing_fmt,size}=' \
    -d 'Options of the new image'
complete -c qcow2tool -n "not __fish_seen_subcommand_from create format convert" -s o -x \
    -a 'backing={auto,any,beneath,none} backing_file= data_file= snapshot=' -d 'How to open the image'
complete -c qcow2tool -n "__fish_seen_subcommand_from create format commit rebase" -s b -r -d 'Backing file'
complete -c qcow2tool -n "__fish_seen_subcommand_from create format rebase convert" -s F -x -a 'raw qcow2' -d 'Format of the backing file'
complete -c qcow2tool -n "__fish_seen_subcommand_from create format" -s u -d 'Do not look at the backing file'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert" -s O -x -a 'raw qcow2' -d 'Format of the target'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert" -s c -d 'Compress'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert" -s S -x -d 'Zeros that become a hole'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert" -s m -x -d 'Requests at once'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert" -s n -d 'The target exists'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert" -s l -x -d 'Snapshot of the source'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert" -s B -r -d 'Backing file of the target'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert bench" -s t -x -a 'unsafe writeback none' -d 'Cache mode'
complete -c qcow2tool -n "__fish_seen_subcommand_from convert commit rebase" -s p -d 'Progress bar'
complete -c qcow2tool -n "__fish_seen_subcommand_from zero" -s u -d 'Give host space back'
complete -c qcow2tool -n "__fish_seen_subcommand_from resize" -l shrink -d 'Allow a smaller disk'
complete -c qcow2tool -n "__fish_seen_subcommand_from snapshot" -s l -d 'List'
complete -c qcow2tool -n "__fish_seen_subcommand_from snapshot" -s c -x -d 'Create'
complete -c qcow2tool -n "__fish_seen_subcommand_from snapshot" -s a -x -d 'Apply'
complete -c qcow2tool -n "__fish_seen_subcommand_from snapshot" -s d -x -d 'Delete'
complete -c qcow2tool -n "__fish_seen_subcommand_from commit" -s d -d 'Leave the image as it is'
complete -c qcow2tool -n "__fish_seen_subcommand_from rebase" -s u -d 'Change the name only'
complete -c qcow2tool -n "__fish_seen_subcommand_from top" -l once -d 'One look'
complete -c qcow2tool -n "__fish_seen_subcommand_from top" -l interval -x -d 'Seconds between two looks'
complete -c qcow2tool -n "__fish_seen_subcommand_from bench" -s w -d 'Measure writes'
complete -c qcow2tool -n "__fish_seen_subcommand_from bench" -l random -d 'At random offsets'
complete -c qcow2tool -n "__fish_seen_subcommand_from bench" -l flush-interval -x -d 'Writes between flushes'
