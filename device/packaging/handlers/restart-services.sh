#!/bin/sh
# Restarts services of systemd. When the agent itself is among them, the second
# attempt follows its restart.
# Arguments: the user, as which it runs, and names of services, also
# several in one argument as AWS-Restart-Application has them.
set -euf
shift
# shellcheck disable=SC2048 # names are separated by spaces
for service in $*; do
	case $service in
	*[!a-zA-Z0-9:_.@\\-]* | *.target | *.mount | *.automount | *.swap | *.slice | *.scope | *.device | \
		emergency | emergency.service | rescue | rescue.service | systemd-halt* | systemd-poweroff* | systemd-reboot* | \
		systemd-kexec* | systemd-suspend* | systemd-hibernate* | systemd-hybrid-sleep*)
		echo "not the name of a service to restart: $service" >&2 # poweroff.target would be the last
		exit 2
		;;
	iot_device | iot_device.service)
		[ "${IOT_JOB_ATTEMPT:-1}" = 1 ] || continue
		;;
	esac
	systemctl restart -- "$service"
done
