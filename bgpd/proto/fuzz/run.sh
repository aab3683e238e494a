#!/bin/sh
# Runs the fuzz targets, one after another, with the stable toolchain and without a sanitizer: what they look for is a panic,
# an overflow, a property that does not hold.
#
#   run.sh [-r RUNS | -t SECONDS] [TARGET...]      for each target; 5 s if not said, and all targets if none is named
#
# New inputs are kept in $FUZZ_CORPUS (a directory for each target; a temporary one if not set). An input that fails is
# printed with its path, and the exit status is 1. Set CARGO_TARGET_DIR to build elsewhere.
set -eu
cd "$(dirname "$0")"
limit=-max_total_time=5
while getopts r:t: option; do
    case $option in
    r) limit=-runs=$OPTARG ;;
    t) limit=-max_total_time=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- $(sed -n '/^\[\[bin\]\]/{n;s/^name = "\(.*\)"/\1/p;}' Cargo.toml)

# What cargo-fuzz passes with `-s none`: the coverage that libFuzzer steers by. With --target, build scripts go without.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing"
bins=
for target; do bins="$bins --bin $target"; done
# shellcheck disable=SC2086
cargo build --quiet --release --target "$host" $bins

corpus=${FUZZ_CORPUS:-}
[ -n "$corpus" ] || { corpus=$(mktemp -d); trap 'rm -rf "$corpus"' EXIT; }
failed=0
for target; do
    mkdir -p "$corpus/$target"
    "${CARGO_TARGET_DIR:-target}/$host/release/$target" "$limit" -max_len=4096 -timeout=60 -rss_limit_mb=1024 \
        -verbosity=0 -print_final_stats=1 -artifact_prefix="$corpus/" "$corpus/$target" "seeds/$target" 2>"$corpus/log" ||
        { failed=1; cat "$corpus/log"; }
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$corpus/log") executions," \
        "$(find "$corpus/$target" -type f | wc -l) inputs kept"
done
exit $failed
