# SPDX-License-Identifier: MIT OR Apache-2.0
#
# bash completion for qcow2fs

_qcow2fs_words()
{
	local prefix= word=$1 values

	# What follows the last comma of a list.
	if [[ $word == *,* ]]; then
		prefix=${word%,*},
		word=${word##*,}
	fi
	case $word in
	backing=*) values="auto any beneath none" ;;
	cache=*) values="auto none writeback" ;;
	discard=*) values="unmap ignore" ;;
	io=*) values="auto uring threads" ;;
	sandbox=*) values="on off" ;;
	transport=*) values="auto dev uring" ;;
	backing_file=* | data_file=* | overlay=*)
		prefix+=${word%%=*}=
		COMPREPLY=($(compgen -P "$prefix" -f -- "${word#*=}"))
		return
		;;
	*)
		values="ro rw snapshot= backing= backing_file= data_file= overlay name= snapshots partitions uid= gid=
			umask= discard= grow shrink timeout= threads= l2_cache= cache= io= transport= sandbox=
			allow_other allow_root auto_unmount fsname= subtype= max_read= sync async dirsync
			exec noexec atime noatime nofail noauto _netdev"
		COMPREPLY=($(compgen -P "$prefix" -W "$values" -- "$word"))
		[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
		return
		;;
	esac
	prefix+=${word%%=*}=
	COMPREPLY=($(compgen -P "$prefix" -W "$values" -- "${word#*=}"))
}

_qcow2fs()
{
	local IFS=$' \t\n' word line before

	# Words as typed, because readline also breaks them at '='.
	line=${COMP_LINE:0:COMP_POINT}
	word=${line##*[[:space:]]}
	before=${line%"$word"}
	before=${before%"${before##*[![:space:]]}"}
	before=${before##*[[:space:]]}
	IFS=$'\n'
	case $word in
	--pidfile=* | --log-file=*)
		compopt -o filenames
		COMPREPLY=($(compgen -f -- "${word#*=}"))
		return
		;;
	-*)
		IFS=$' \t\n'
		COMPREPLY=($(compgen -W "-r --read-only -w --writable -U --force-share -f --foreground -s
			-q --quiet -v --verbose -d --debug --pidfile= --log-file= --ready-fd= -u --unmount
			-z --lazy --timeout= -o --options -h --help -V --version" -- "$word"))
		[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
		return
		;;
	esac
	if [[ $before == -o || $before == --options ]]; then
		IFS=$' \t\n'
		_qcow2fs_words "$word"
		# Only what follows the last '=' is replaced.
		if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
			COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
		fi
		return
	fi
	compopt -o filenames
	word=${word#*=}
	if [[ " $line" == *" -u "* || $line == *" --unmount "* ]]; then
		COMPREPLY=($(compgen -W "$(awk '$3 == "fuse.qcow2fs" { print $2 }' /proc/mounts)" -- "$word"))
	else
		COMPREPLY=($(compgen -f -- "$word"))
	fi
}
complete -F _qcow2fs qcow2fs
