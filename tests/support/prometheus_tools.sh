#!/bin/sh
# Puts Debian's prometheus, promtool and amtool below the given directory, where apt-get works and they are missing.
# The packages are unpacked, not installed: no service starts, nothing outside the directory changes, and no root is needed.
# Without apt-get it says what is missing and goes on: the tests that need the programs skip themselves then, or fail under CI.
set -eu
to=$1
have() { command -v "$1" >/dev/null 2>&1 || [ -x "$to/usr/bin/$1" ]; }
missing() { for program in prometheus promtool amtool; do have "$program" || echo "$program"; done; }

[ -n "$(missing)" ] || exit 0
if command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1; then
    echo "getting Prometheus and Alertmanager from Debian's archive into $to …"
    mkdir -p "$to/apt/lists/partial" "$to/apt/cache/archives/partial" "$to/deb"
    to=$(cd "$to" && pwd)
    apt() { # its own lists, so that root's need not be there or be touched
        apt-get -qq -o "Dir::State::Lists=$to/apt/lists" -o "Dir::Cache=$to/apt/cache" -o "APT::Sandbox::User=$(id -un)" "$@"
    }
    if apt update && (cd "$to/deb" && apt download prometheus prometheus-alertmanager); then
        for package in "$to"/deb/*.deb; do dpkg-deb -x "$package" "$to"; done
    fi
    rm -rf "$to/apt" "$to/deb"
fi
[ -z "$(missing)" ] || echo "missing: $(missing | tr '\n' ' ')(packages prometheus and prometheus-alertmanager); tests that need them are skipped"
