# SPDX-License-Identifier: MIT OR Apache-2.0
#
# bash completion for qcow2tool

_qcow2tool()
{
	local IFS=$' \t\n' word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} options="-f --format -U --force-share -o -q --quiet -h --help"

	if ((COMP_CWORD == 1)); then
		COMPREPLY=($(compgen -W "info check map dump stat create format convert read write zero
			discard resize snapshot commit rebase top bench --help --version" -- "$word"))
		return
	fi
	case $before in
	-f | -F | -O | --format)
		if [[ $command != bench || $before != -O ]]; then
			COMPREPLY=($(compgen -W "raw qcow2" -- "$word"))
			return
		fi
		;;
	-r)
		if [[ $command == check ]]; then
			COMPREPLY=($(compgen -W "leaks all" -- "$word"))
			return
		fi
		;;
	-t)
		COMPREPLY=($(compgen -W "unsafe writeback none" -- "$word"))
		return
		;;
	-o)
		case $command in
		create | format | convert)
			options="cluster_size= refcount_bits= compat= extended_l2= preallocation=
				lazy_refcounts= compression_type= data_file= data_file_raw= backing_file=
				backing_fmt= size="
			;;
		*) options="backing= backing_file= data_file= snapshot=" ;;
		esac
		compopt -o nospace
		COMPREPLY=($(compgen -W "$options" -- "$word"))
		return
		;;
	esac
	if [[ $word == -* ]]; then
		case $command in
		info) options+=" --json --backing-chain" ;;
		check) options+=" --json -r --repair" ;;
		map) options+=" --json --start= --length=" ;;
		dump)
			options+=" --json --header --extensions --reftable --refblocks --l1 --l2 --snapshots
				--bitmaps"
			;;
		stat) options+=" --json" ;;
		create | format) options+=" -b -F -u" ;;
		convert) options+=" -O -c -S -m -n -p -l -t -B -F" ;;
		zero) options+=" -u" ;;
		resize) options+=" --shrink" ;;
		snapshot) options+=" --json -l -c -a -d" ;;
		commit) options+=" -b -d -p" ;;
		rebase) options+=" -u -b -F -p" ;;
		top) options+=" --once --interval= --json" ;;
		bench) options+=" -c -d -s -S -O -w --flush-interval= --random -t" ;;
		esac
		COMPREPLY=($(compgen -W "$options" -- "$word"))
		[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
		return
	fi
	IFS=$'\n'
	compopt -o filenames
	COMPREPLY=($(compgen -f -- "$word"))
}
complete -F _qcow2tool qcow2tool
