#!/bin/sh
# Installs the compilers, plugins and libraries of the clients' tests from Debian's archive, where they are missing, apt-get
# works and this is root. Elsewhere it says what to install and goes on: the tests skip themselves then, or fail under CI.
set -eu
packages="g++ pkg-config libgrpc++-dev libprotobuf-dev libssl-dev protobuf-compiler protobuf-compiler-grpc
    golang-go golang-google-grpc-dev golang-github-golang-protobuf-1-5-dev golang-google-protobuf-dev protoc-gen-go-1-5
    protoc-gen-go-grpc
    protobuf-compiler-grpc-java-plugin libgrpc-java libprotobuf-java libgoogle-common-protos-java libguava-java
    libgeronimo-annotation-1.3-spec-java"
command -v javac >/dev/null 2>&1 || packages="$packages default-jdk-headless"
command -v npm >/dev/null 2>&1 || packages="$packages nodejs npm"

missing() {
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || echo "$package"
    done
}

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "the tests of the clients in other languages need Debian's packages" $packages
    exit 0
fi
lacking=$(missing | tr '\n' ' ')
[ -n "$lacking" ] || exit 0
if [ "$(id -u)" = 0 ]; then
    echo "installing $lacking…"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $lacking >/dev/null || true
fi
lacking=$(missing | tr '\n' ' ')
[ -z "$lacking" ] || echo "missing: $lacking(apt-get install $lacking); the tests of the clients are skipped"
