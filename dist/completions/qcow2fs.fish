# SPDX-License-Identifier: MIT OR Apache-2.0
#
# fish completion for qcow2fs

function __qcow2fs_mounts
    string match -r '^\S+ \S+ fuse\.qcow2fs ' </proc/mounts | string split -f 2 ' '
end

# The words of -o, after those that have been typed.
function __qcow2fs_words
    set -l typed (commandline -ct | string replace -r '^(-o|--options=)' '' | string match -rg '^(.*,)?[^,]*$')
    for word in ro rw snapshot= snapshots partitions grow shrink name= data_file= backing_file= overlay overlay= \
        backing={auto,any,beneath,none} cache={auto,none,writeback} discard={unmap,ignore} \
        io={auto,uring,threads} transport={auto,dev,uring} sandbox={on,off} threads= l2_cache= timeout= \
        uid= gid= umask= allow_other allow_root auto_unmount fsname= subtype= max_read= \
        sync async dirsync exec noexec atime noatime nofail noauto _netdev
        echo $typed$word
    end
end

complete -c qcow2fs -n '__fish_contains_opt -s u unmount' -f -a '(__qcow2fs_mounts)'
complete -c qcow2fs -s r -l read-only -d 'Do not write to the image'
complete -c qcow2fs -s w -l writable -d 'Writable or not at all'
complete -c qcow2fs -s U -l force-share -d 'Read beside a writer'
complete -c qcow2fs -s f -l foreground -d 'Stay in the foreground'
complete -c qcow2fs -s s -d 'One receiving thread'
complete -c qcow2fs -s q -l quiet -d 'No warnings'
complete -c qcow2fs -s v -l verbose -d 'Say what was mounted'
complete -c qcow2fs -s d -l debug -d 'Show every request'
complete -c qcow2fs -l pidfile -r -d 'Write the process number there'
complete -c qcow2fs -l log-file -r -d 'Log there'
complete -c qcow2fs -l ready-fd -x -d 'Write a newline to this descriptor'
complete -c qcow2fs -s u -l unmount -d 'Write back, unmount, wait'
complete -c qcow2fs -s z -l lazy -d 'Unmount even while in use'
complete -c qcow2fs -l timeout -x -d 'Give up after so many seconds'
complete -c qcow2fs -s o -l options -x -a '(__qcow2fs_words)' -d 'Mount options'
complete -c qcow2fs -s h -l help -d 'Show help'
complete -c qcow2fs -s V -l version -d 'Show the version'
