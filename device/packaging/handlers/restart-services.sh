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
	iot_device | iot_device.service)
		[ "${IOT_JOB_ATTEMPT:-1}" = 1 ] || continue
		;;
	esac
	systemctl restart -- "$service"
done
