#!/bin/bash
# Health check of Redis: exit code 0 if it answers PING. The user `health` has no password and may do nothing else.
set -eu
exec 3<>/dev/tcp/127.0.0.1/6379
printf 'AUTH health -\r\nPING\r\n' >&3
read -r -t 3 <&3
read -r -t 3 answer <&3
[[ $answer == +PONG* ]]
