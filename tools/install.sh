#!/usr/bin/env bash
# Builds the extension in a profile (`dev` or `release`) and installs it into PostgreSQL, without the test feature.
set -euo pipefail
cd "$(dirname "$0")/.."

pg_config=$PGRX_PG_CONFIG_PATH
library=$("$pg_config" --pkglibdir)/varve.so
args=(--pg-config "$pg_config" --profile "$1")
if [ ! -w "$(dirname "$library")" ]; then
    # cargo-pgrx copies over the file, under the feet of running servers; removed first, they keep the old one.
    args+=(--sudo)
    sudo -- rm -f "$library"
fi
cargo pgrx install "${args[@]}"

# The program that works without a server lies beside PostgreSQL's own.
cargo build --locked --profile "$1" --package varve-cli
directory=$1
if [ "$1" = dev ]; then directory=debug; fi
bindir=$("$pg_config" --bindir)
as_root=()
if [ ! -w "$bindir" ]; then as_root=(sudo --); fi
"${as_root[@]}" install -m 755 "${CARGO_TARGET_DIR:-target}/$directory/varve" "$bindir/varve"
