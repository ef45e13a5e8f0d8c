#!/bin/bash
# fuzz.sh SECONDS [TARGET...]: runs the fuzz targets of fuzz/ in turn, the time split among them; fails on a crash, a hang, or
# too much memory. What was found stays in target/fuzz: corpus/ (to go on with next time) and artifacts/ (inputs that fail).
#
# libFuzzer comes with the crate libfuzzer-sys, and its instrumentation is a pass of LLVM that stable Rust can be told to
# run, so neither cargo-fuzz nor a nightly compiler is needed. Checked are panics, overflows (debug assertions are on),
# allocations and time; out-of-bounds reads panic in safe Rust.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:?usage: fuzz.sh SECONDS [TARGET...]}
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    mapfile -t targets < <(ls fuzz_targets | sed 's/\.rs$//')
fi
each=$(((seconds + ${#targets[@]} - 1) / ${#targets[@]}))

out=${CARGO_TARGET_DIR:-$PWD/../target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --locked --release --quiet --target-dir "$out/build" --bin seeds
"$out/build/release/seeds" "$out/seeds"
flags="--cfg fuzzing -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
# With --target, build scripts are built without these flags.
RUSTFLAGS=$flags cargo build --locked --release --quiet --target "$host" --target-dir "$out/build" \
    "${targets[@]/#/--bin=}"
bin=$out/build/$host/release

failed=()
for target in "${targets[@]}"; do
    corpus=$out/corpus/$target
    artifacts=$out/artifacts/$target
    mkdir -p "$corpus" "$artifacts"
    echo "fuzz: $target for $each s"
    # The two that encode are given less to chew on.
    length=8192
    if [ "$target" = round_trip ] || [ "$target" = damage ]; then length=1024; fi
    log=$out/$target.log
    if "$bin/$target" "$corpus" "$out/seeds/$target" -max_total_time="$each" -max_len=$length \
        -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=512 -artifact_prefix="$artifacts/" \
        -print_final_stats=1 >"$log" 2>&1; then
        grep -E 'stat::(number_of_executed_units|peak_rss_mb)|^#[0-9]+.*DONE' "$log" | sed 's/^/  /'
    else
        failed+=("$target")
        grep -vE '^#[0-9]' "$log" | tail -40 | sed 's/^/  /'
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzz: failed: ${failed[*]} (inputs in $out/artifacts)" >&2
    exit 1
fi
echo "fuzz: ${#targets[@]} targets, no crash"
