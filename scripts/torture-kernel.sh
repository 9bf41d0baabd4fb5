#!/bin/sh
# Fetches Debian's kernel with its modules into dist/torture/kernel, for the
# virtual machines of make torture. Installs nothing.
#
#	usage: torture-kernel.sh
set -eu
unset CDPATH
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd -- "$(dirname -- "$0")/.."
kernel=dist/torture/kernel

fetch() (
	mkdir -p dist/torture
	cd dist/torture
	package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	if [ -z "$package" ]; then
		echo "torture-kernel: error: no package linux-image-amd64 is known here; run apt-get update" >&2
		exit 1
	fi
	apt-get download -q "$package" >/dev/null
	rm -rf kernel.new
	dpkg -x "$package"_*.deb kernel.new
	rm -f "$package"_*.deb
	depmod -b kernel.new "$(ls kernel.new/lib/modules)"
	mv kernel.new kernel
)

# number FILE OFFSET BYTES prints a number of the file.
number() {
	od -An -v -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '
}

# unpack replaces the kernel that unpacks itself, which in a virtual machine takes longer than the rest
# of the boot: https://docs.kernel.org/arch/x86/boot.html, setup_sects, payload_offset, payload_length.
unpack() {
	unpacked=${1%/vmlinuz-*}/vmlinux-${1##*/vmlinuz-}
	from=$((($(number "$1" 497 1) + 1) * 512 + $(number "$1" 584 4)))
	if tail -c "+$((from + 1))" "$1" | head -c "$(number "$1" 588 4)" | xz -dc --single-stream >"$unpacked.new"; then
		mv "$unpacked.new" "$unpacked"
		rm "$1"
	else
		rm "$unpacked.new"
	fi
}

if [ ! -d "$kernel/boot" ]; then fetch; fi
for packed in "$kernel"/boot/vmlinuz-*; do
	if [ -e "$packed" ]; then unpack "$packed"; fi
done
