#!/bin/sh
# Fetches Debian's kernel with its modules into dist/torture/kernel, for the
# virtual machines of make torture. Installs nothing.
#
#	usage: torture-kernel.sh
set -eu
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd -- "$(dirname -- "$0")/.."
kernel=dist/torture/kernel
[ -d "$kernel/boot" ] && exit 0
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
