#!/bin/sh
# Debian ships venv apart from Python: install it if we may, else say how.
set -eu
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv
else
    echo "Python's venv module is missing: sudo apt-get install python3-venv" >&2
    exit 1
fi
