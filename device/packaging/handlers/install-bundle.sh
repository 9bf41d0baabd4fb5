#!/bin/sh
# Hands a bundle to RAUC, which verifies its signature and installs it into the
# other slot. A step reboot.sh after this one boots it.
# Arguments: the user, as which it runs, and the bundle's path.
set -eu
[ $# = 2 ] || {
	echo "usage: install-bundle.sh USER FILE" >&2
	exit 2
}
exec rauc install "$2"
