#!/usr/bin/env bash
# Everything that building and testing varve needs: looks for it, installs what is missing, says what it does.
#
# Debian 13 has all packages; on Debian 12 they come from Debian 13, pinned so low that nothing else does. On another
# system it names what is missing and stops. What is there already is left alone, other PostgreSQL clusters included.
set -euo pipefail
cd "$(dirname "$0")/.."

PGRX_VERSION=0.18.1
PG_CONFIG=${PGRX_PG_CONFIG_PATH:-/usr/lib/postgresql/17/bin/pg_config}
TRIXIE_SOURCES=/etc/apt/sources.list.d/varve-trixie.sources
TRIXIE_PIN=/etc/apt/preferences.d/varve-trixie
NO_CLUSTER=/etc/postgresql-common/createcluster.d/zz-varve.conf

say() { printf 'set-up: %s\n' "$*"; }
fail() { printf 'set-up: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# What is missing, as Debian packages, one a line. Looks at files and programs, so that it works on every system.
missing() {
    local bindir include=/nonexistent extensions=/nonexistent llvm
    bindir=$(dirname "$PG_CONFIG")
    [ -x "$bindir/postgres" ] && [ -x "$bindir/initdb" ] || echo postgresql-17
    if [ -x "$PG_CONFIG" ]; then
        include=$("$PG_CONFIG" --includedir-server)
        extensions=$("$PG_CONFIG" --sharedir)/extension
    fi
    [ -f "$include/postgres.h" ] || echo postgresql-server-dev-17
    [ -f "$extensions/timescaledb.control" ] || echo postgresql-17-timescaledb
    [ -f "$extensions/pg_cron.control" ] || echo postgresql-17-cron
    llvm=${LIBCLANG_PATH:-/usr/lib/llvm-19/lib}
    compgen -G "$llvm/libclang*.so*" >/dev/null || echo libclang-19-dev
    compgen -G "$llvm/clang/*/include/stddef.h" >/dev/null || echo clang-19
    have cc || echo gcc
    [ -f /usr/include/stdio.h ] || echo libc6-dev
    have pkg-config || echo pkg-config
    pkg-config --exists openssl 2>/dev/null || echo libssl-dev
    # Root runs the servers of `cargo pgrx test` as another user; everybody else installs the extension as root.
    have sudo || echo sudo
    have runuser || echo util-linux
    # The driver of the Python example, for which Debian has a package: signed, from the mirror that everything else comes
    # from, and built for Debian's Python. A virtual environment would need python3-venv, PyPI, and a network at test time.
    python_has_asyncpg || echo python3-asyncpg
    # Makes the virtual environment below.
    python_packages || python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

# Others' readers of Parquet, for the test of snapshots, and XXH3, for that of checksums. Debian has not all of them, so they come from
# PyPI: now, not when tests run.
PYTHON=target/python
PYTHON_PACKAGES=(pyarrow==26.0.1 duckdb==2.0.1 pytz==2026.6 xxhash==4.1.0)

# Whether they are there.
python_packages() {
    "${VARVE_PARQUET_PYTHON:-$PYTHON/bin/python}" -c 'import duckdb, pyarrow.parquet, pytz, xxhash' 2>/dev/null
}

install_python_packages() {
    if python_packages; then return; fi
    say "$PYTHON: ${PYTHON_PACKAGES[*]}"
    python3 -m venv "$PYTHON"
    "$PYTHON/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "${PYTHON_PACKAGES[@]}"
}

# What else the command needs that called: "bench" has pgBackRest to compare with.
missing_for() {
    if [ "${1:-}" = bench ]; then have pgbackrest || echo pgbackrest; fi
}

# Whether one of the interpreters that the test of the examples tries has asyncpg.
python_has_asyncpg() {
    local python
    for python in ${VARVE_PYTHON:-python3 /usr/bin/python3}; do
        if "$python" -c 'import sys, asyncpg; assert sys.version_info >= (3, 11)' 2>/dev/null; then return; fi
    done
    return 1
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi
}

# Fields of apt's sources of Debian itself, as "repository|codename", without updates and security.
debian_sources() {
    apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(ORIGIN)|$(COMPONENT)' 'Created-By: Packages' |
        awk -F'|' '$3 == "Debian" && $4 == "main" && $2 !~ /-/ { print $1 "|" $2 }' | sort -u
}

# On Debian 12: adds Debian 13 from the same mirror, pinned so that only what asks for it comes from there.
add_trixie() {
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    if debian_sources | grep -q '|trixie$'; then return; fi
    mirror=$(debian_sources | sed -n 's/|bookworm$//p' | head -n 1)
    [ -n "$mirror" ] || fail "apt has no source for Debian 12 (bookworm) to take the mirror's address from"
    say "Debian 12: adding Debian 13 (trixie) from the same mirror, pinned low: $TRIXIE_SOURCES, $TRIXIE_PIN"
    {
        printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\n' "$mirror"
        [ ! -f "$keyring" ] || printf 'Signed-By: %s\n' "$keyring"
    } | as_root tee "$TRIXIE_SOURCES" >/dev/null
    printf 'Package: *\nPin: release n=trixie\nPin-Priority: 100\n' | as_root tee "$TRIXIE_PIN" >/dev/null
    as_root apt-get update -q
}

# Keeps the packages from creating a cluster (ours live in throw-away directories), until `allow_clusters`.
forbid_clusters() {
    if [ ! -d "$(dirname "$NO_CLUSTER")" ]; then made_folder=yes; fi
    as_root mkdir -p "$(dirname "$NO_CLUSTER")"
    echo 'create_main_cluster = off' | as_root tee "$NO_CLUSTER" >/dev/null
}

allow_clusters() {
    as_root rm -f "$NO_CLUSTER"
    if [ -n "${made_folder:-}" ]; then
        as_root rmdir --ignore-fail-on-non-empty "$(dirname "$NO_CLUSTER")"
    fi
}

install_packages() {
    local id='' version='' release=()
    # shellcheck source=/dev/null
    if [ -r /etc/os-release ]; then
        id=$(. /etc/os-release && echo "${ID:-}")
        version=$(. /etc/os-release && echo "${VERSION_ID:-}")
    fi
    if [ "$id" != debian ] || ! have apt-get || { [ "$version" != 12 ] && [ "$version" != 13 ]; }; then
        {
            echo "set-up: these are missing (names of Debian's packages):"
            printf '    %s\n' "$@"
            echo "Install them by the means of this system and run the command again. Varve's set-up does it by itself on"
            echo "Debian 12 and 13 only. PG_CONFIG= and LIBCLANG_PATH= tell make where PostgreSQL 17 and libclang are."
        } >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! have sudo; then
        fail "missing: $*. Run this as root, or install sudo."
    fi
    say "missing: $*"
    as_root apt-get update -q
    if [ "$version" = 12 ]; then add_trixie; fi
    # The file says that this machine is, or was, Debian 12 with trixie beside it.
    if [ -f "$TRIXIE_SOURCES" ]; then release=(-t trixie); fi
    trap allow_clusters EXIT
    forbid_clusters
    local name others=()
    for name in "$@"; do
        case "$name" in
            python3-*) install_for_python "$name" ;;
            *) others+=("$name") ;;
        esac
    done
    if [ "${#others[@]}" -gt 0 ]; then apt_install "${release[@]}" "${others[@]}"; fi
    allow_clusters
    trap - EXIT
}

# Installs with apt-get, asking nothing.
apt_install() {
    say apt-get install "$@"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# What is made for one version of Python comes from Debian 12 on Debian 12, since Debian 13's would bring another Python along;
# from Debian 13 only where Python itself has come from there.
install_for_python() {
    if apt-get install -s -q --no-install-recommends "$1" >/dev/null 2>&1; then
        apt_install "$1"
    else
        apt_install -t trixie "$1"
    fi
}

install_cargo_pgrx() {
    local found root=()
    found=$(cargo pgrx --version 2>/dev/null || true)
    if [ "${found##* }" = "$PGRX_VERSION" ]; then return; fi
    # Another version that somebody uses stays; ours goes beside the build, where the Makefile looks first.
    if [ -n "$found" ]; then root=(--root target/tools); fi
    say cargo install cargo-pgrx --version "=$PGRX_VERSION" --locked "${root[@]}"
    cargo install cargo-pgrx --version "=$PGRX_VERSION" --locked "${root[@]}"
}

have cargo || fail "no Rust toolchain: 'cargo' is not on the PATH. Rust 1.95 or newer is needed."
mapfile -t packages < <(missing; missing_for "$@")
if [ "${#packages[@]}" -gt 0 ]; then
    install_packages "${packages[@]}"
    mapfile -t packages < <(missing; missing_for "$@")
    [ "${#packages[@]}" -eq 0 ] || fail "still missing after the installation: ${packages[*]}"
fi
install_cargo_pgrx
install_python_packages
# cargo-pgrx knows no --locked: what it builds with is checked here.
cargo fetch --locked --quiet
say "everything is there"
