#!/bin/sh
# Makes a small Debian with systemd in dist/torture/root, for the virtual
# machines of make torture. Needs root and debootstrap.
#
#	usage: torture-root.sh
set -eu
unset CDPATH
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd -- "$(dirname -- "$0")/.."
root=dist/torture/root
[ -e "$root/sbin/init" ] && exit 0
mkdir -p dist/torture
# The release and the mirror are those of this machine.
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
# shellcheck disable=SC2016 # the format is apt-get's
mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' "Created-By: Packages" | sed -n '/security/d; s/ main$//p' | head -n 1)
rm -rf "$root.new"
debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,iproute2,kmod "$release" "$root.new" "$mirror" >dist/torture/debootstrap.log 2>&1 ||
	{ tail -n 5 dist/torture/debootstrap.log >&2; exit 1; }
rm -rf "$root.new"/var/cache/apt/* "$root.new"/var/lib/apt/lists/* "$root.new"/usr/share/doc/* "$root.new"/usr/share/locale/* "$root.new"/usr/share/man/*
mv "$root.new" "$root"
