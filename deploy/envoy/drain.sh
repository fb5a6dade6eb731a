#!/bin/bash
# Lets the calls of the Envoy in this container end: /healthz says 503 at once, so that balancers look elsewhere, no new
# connections are taken, and this returns once no call runs, or after the given seconds (40). Then Envoy may be stopped.
# Needs bash only: the image has neither curl nor wget.
set -u
port=${ADMIN_PORT:-9901}
until=$((SECONDS + ${1:-40}))
ask() { # METHOD PATH: the answer
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf '%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n' "$1" "$2" >&3
    cat <&3
    exec 3>&-
}
running() { ask GET '/stats?filter=^http.http.downstream_rq_active$' | grep -c 'active: [1-9]'; }

ask POST /healthcheck/fail >/dev/null || exit 1
ask POST '/drain_listeners?graceful&skip_exit' >/dev/null
while [ "$SECONDS" -lt "$until" ] && [ "$(running)" != 0 ]; do sleep 0.2; done
