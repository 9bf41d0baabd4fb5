#!/bin/sh
# Installs packages with apt. It can be repeated.
# Arguments: the user, as which it runs, and package names, also several in one
# argument as AWS-Install-Application has them. apt would take other words for an
# option, a pattern, or, with a minus at the end, for a package to remove.
set -euf
shift
# shellcheck disable=SC2048 # names are separated by spaces
for package in $*; do
	case $package in
	[!a-z0-9]* | *- | *[!a-z0-9.+:=~-]*)
		echo "not the name of a package: $package" >&2
		exit 2
		;;
	esac
done
export DEBIAN_FRONTEND=noninteractive
dpkg --configure -a # what an interrupted attempt has left
apt-get update
# shellcheck disable=SC2048,SC2086
exec apt-get install --yes --no-install-recommends -- $*
