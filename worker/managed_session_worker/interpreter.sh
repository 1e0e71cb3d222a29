#!/bin/sh
# Runs in the build of a template from a base image of the user's, as root, before prepare.py:
#
#     sh /opt/anthropic-managed-agents/lib/managed_session_worker/interpreter.sh
#
# Finds a Python from which prepare.py can make the worker's own, or installs the distribution's. Leaves
# `build/python3`, a link to it, and `build/pip`, which runs pip with it. The image decides what is possible,
# so this is plain sh. Lines that begin with "managed-sessions: " are read by the command line.

home=/opt/anthropic-managed-agents
build=$home/build
own=$home/python/bin/python3
# Changed together with PYTHON_VERSIONS in template/base.py.
supported="3.14 3.13 3.12 3.11"

say() { echo "managed-sessions: $*"; }

refuse() {
    say "refused: $*"
    exit 65
}

libc() {
    for loader in /lib/ld-musl-*; do
        [ -e "$loader" ] && echo musl && return
    done
    echo gnu
}

need_interpreter() {
    say "needs an interpreter: libc=$(libc) arch=$(uname -m): $*"
    exit 66
}

# Prints the real path of a Python that serves, and nothing for another one.
serving() {
    "$1" -c '
import os, sys
import asyncio, ctypes, ssl, zlib
here = "%d.%d" % sys.version_info[:2]
if sys.implementation.name == "cpython" and here in sys.argv[1].split():
    print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
' "$supported" 2>/dev/null
}

use_pip() {
    if "$1" -m pip --version >/dev/null 2>&1; then
        program=$1
    elif "$1" -m venv "$build/venv" >/dev/null 2>&1 && "$build/venv/bin/python3" -m pip --version >/dev/null 2>&1; then
        program=$build/venv/bin/python3
    else
        rm -rf "$build/venv"
        return 1
    fi
    printf '#!/bin/sh\nexec "%s" -m pip "$@"\n' "$program" >"$build/pip"
    chmod 755 "$build/pip"
}

# Takes the first Python that serves and has pip.
find_python() {
    candidates=$own
    for name in python3 $(for v in $supported; do echo "python$v"; done); do
        found=$(command -v "$name" 2>/dev/null) && candidates="$candidates $found"
        for folder in /usr/local/bin /usr/bin /opt/*/bin; do
            candidates="$candidates $folder/$name"
        done
    done
    for candidate in $candidates; do
        [ -x "$candidate" ] || continue
        real=$(serving "$candidate")
        [ -n "$real" ] && use_pip "$real" || continue
        ln -sf "$real" "$build/python3"
        say "the worker's Python is made from $real ($("$real" -c 'import platform; print(platform.python_version())'))"
        return 0
    done
    return 1
}

install_python() {
    if command -v apt-get; then
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
            python3 python3-pip ca-certificates
    elif command -v apk; then
        apk add --no-cache python3 py3-pip ca-certificates
    elif command -v dnf; then
        dnf -q -y install python3 python3-pip
    elif command -v microdnf; then
        microdnf -y install python3 python3-pip
    elif command -v zypper; then
        zypper --non-interactive --quiet install python3 python3-pip
    elif command -v pacman; then
        pacman -Sy --noconfirm python python-pip
    else
        return 1
    fi >/dev/null 2>"$build/install.log" || {
        tail -n 3 "$build/install.log"
        return 1
    }
}

[ "$(id -u)" = 0 ] || refuse "the build does not run as root"
[ -x /bin/bash ] || refuse "the image has no /bin/bash, which E2B and the agent's tool need. Install bash in it"
rm -rf "$build"
umask 022
mkdir -p "$build" "$home/lib" || refuse "cannot write to $build"
if [ -e "$own" ] && [ -z "$(serving "$own")" ]; then
    refuse "the Python of the archive does not run in this image (libc=$(libc) arch=$(uname -m)), or is not" \
        "one of $supported. Pass another one with --python-archive"
fi
find_python && exit 0
say "no Python of the image serves (one of $supported with pip): asking its package manager"
install_python && find_python && exit 0
need_interpreter "neither the image nor its package manager has Python $supported with pip"
