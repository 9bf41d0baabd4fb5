#!/bin/sh
# Reboots. Its job execution succeeds when the system has booted.
set -eu
if command -v systemctl >/dev/null; then exec systemctl reboot; fi
exec reboot
