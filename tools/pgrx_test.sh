#!/usr/bin/env bash
# `cargo pgrx test`, so that nothing of it stays: not its server, nor the extension with the test feature.
#
# pgrx stops its server when the tests end by themselves, and leaves it running after Ctrl-C or a crash. It installs a
# build with the tests inside over the extension that is there. So a guardian waits on a pipe for the end of this script,
# however it comes, and then stops every server below the throw-away directory and puts back what was installed.
# Arguments go to `cargo pgrx test`.
set -euo pipefail
cd "$(dirname "$0")/.."

pg_config=$PGRX_PG_CONFIG_PATH
bindir=$("$pg_config" --bindir)
library=$("$pg_config" --pkglibdir)/varve.so
extensions=$("$pg_config" --sharedir)/extension
dir=$(mktemp -d /tmp/varve-pgtest-XXXXXX)
saved=$(mktemp -d /tmp/varve-saved-XXXXXX)
as_root=()
as_server=()
args=(--pgdata "$dir")
# PostgreSQL refuses to run as root: its user takes the directory.
if [ "$(id -u)" = 0 ]; then
    as_server=(runuser -u postgres --)
    args+=(--runas postgres)
    chown postgres "$dir"
elif [ ! -w "$extensions" ]; then
    as_root=(sudo --)
fi

installed() { compgen -G "$extensions/varve.control" || true; compgen -G "$extensions/varve--*.sql" || true; }

# A copy beside the file and a rename, so that servers that run keep the library they have.
put() { "${as_root[@]}" cp -p "$1" "$2.new" && "${as_root[@]}" mv -f "$2.new" "$2"; }

restore() {
    local data file
    for data in "$dir"/*/; do
        if [ -f "$data/postmaster.pid" ]; then
            (cd / && "${as_server[@]}" "$bindir/pg_ctl" -D "$data" -m immediate stop) >/dev/null 2>&1 || true
        fi
    done
    installed | while read -r file; do "${as_root[@]}" rm -f "$file"; done
    "${as_root[@]}" rm -f "$library"
    if [ -f "$saved/varve.so" ]; then put "$saved/varve.so" "$library"; fi
    for file in "$saved"/extension/*; do put "$file" "$extensions/$(basename "$file")"; done
    rm -rf "$dir" "$saved"
}

mkdir "$saved/extension"
if [ -f "$library" ]; then
    cp -p "$library" "$saved/varve.so"
    put "$saved/varve.so" "$library"
fi
installed | while read -r file; do cp -p "$file" "$saved/extension/"; done

shopt -s nullglob
# Ctrl-C goes to the whole process group, and must not end the guardian.
exec {life}> >(trap '' INT TERM HUP; cat >/dev/null; restore)
guardian=$!
trap 'exec {life}>&-; wait "$guardian" || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# pgrx-tests connects as this user when it is not told another.
export USER=${USER:-$(id -un)}
cargo pgrx test pg17 "${args[@]}" "$@" {life}>&-
