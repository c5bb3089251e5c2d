#!/bin/sh
# Serve the dashboard of the run in folder $1 once the run exists. The token comes from a secret file, never as an argument.
set -eu
until [ -f "$1/config.toml" ]; do sleep 2; done
TRIBUTARY_DASHBOARD_TOKEN=$(cat /run/secrets/dashboard)
export TRIBUTARY_DASHBOARD_TOKEN
exec tributary dashboard --run "$1" --host 0.0.0.0 --port 8710
