#!/bin/sh
# Installs Debian's Chromium and its WebDriver, where they are missing, apt-get works and this is root. Elsewhere it says what is
# missing and goes on: the tests that need them skip themselves then, or fail under CI.
set -eu
missing() { for program in chromium chromedriver; do command -v "$program" >/dev/null 2>&1 || echo "$program"; done; }

[ -n "$(missing)" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian's chromium and chromium-driver …"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium chromium-driver >/dev/null || true
fi
[ -z "$(missing)" ] || echo "missing: $(missing | tr '\n' ' ')(packages chromium and chromium-driver); tests that need them are skipped"
