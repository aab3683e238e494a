#!/bin/sh
# Installs what is needed and runs every test: format, lints, unit, property, network namespaces, interop, the lab.
# What this machine does not allow is listed as skipped, with the capability that is missing. Ends with
#   N passed, N failed, N skipped
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/deploy/prerequisites.sh"

# The profile of Cargo.toml in which programs and tests are compiled.
PROFILE=checked
# No test program takes longer; the whole lab in one of them takes a few minutes.
PROGRAM_LIMIT=1500
passed=0 failed=0 skipped=0
failures=
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# check NAME COMMAND...: one more passed or failed.
check() {
    name=$1
    shift
    if "$@" >"$work/check" 2>&1; then
        passed=$((passed + 1))
        say "ok      $name"
    else
        failed=$((failed + 1))
        failures="$failures
  $name"
        say "FAILED  $name"
        cat "$work/check"
    fi
}

# count FILE NAME: adds up what a test program printed; one that ends without a result has failed.
count() {
    result=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$1")
    if [ -z "$result" ]; then
        failed=$((failed + 1))
        failures="$failures
  $2 (ended without a result)"
        say "FAILED  $2: ended without a result"
        tail -n 60 "$1"
        return
    fi
    for pair in $(printf '%s\n' "$result" | tr ' ' '/'); do
        passed=$((passed + ${pair%/*}))
        failed=$((failed + ${pair#*/}))
    done
    if grep -q '\.\.\. FAILED' "$1"; then
        failures="$failures$(sed -n 's/^test \(.*\) \.\.\. FAILED.*/\n  \1/p' "$1")"
        cat "$1"
    fi
}

# run_program NAME DIRECTORY EXECUTABLE: its tests, and those of its ignored ones that this machine can run.
run_program() {
    name=$1 directory=$2 executable=$3 began=$(date +%s)
    say "        $name"
    (cd "$directory" && timeout -k 5 "$PROGRAM_LIMIT" "$executable" --color never) >"$work/out" 2>&1 </dev/null || true
    count "$work/out" "$name"
    sed -n 's/^test \(.*\) \.\.\. ignored,* *\(.*\)$/\1|\2/p' "$work/out" >"$work/ignored"
    if [ ! -s "$work/ignored" ]; then
        say_if_long
        return 0
    fi
    set -- --ignored --exact --color never
    # The lab takes both cores: its tests run one after another. Interop scenarios mostly wait for timers of the peers.
    case "$name" in
    *tests/harness:\ interop_*) set -- "$@" --test-threads 4 ;;
    *tests/harness:*) set -- "$@" --test-threads 1 ;;
    # So do those of etcd's members that fail.
    *libs/datastore:*) set -- "$@" --test-threads 6 ;;
    esac
    while IFS='|' read -r test reason; do
        capability=${reason#needs }
        state=$(awk -F '\t' -v c="$capability" '$1 == c { print $2 "|" $3 }' "$work/probe")
        case "$state" in
        yes*) continue ;;
        optional*)
            skipped=$((skipped + 1))
            say "SKIPPED $name $test: needs $capability; ${state#optional|}"
            ;;
        no*)
            skipped=$((skipped + 1))
            say "SKIPPED $name $test: needs $capability; ${state#no|}"
            # What apt installs is missing only where the machine forbids the rest as well.
            if [ "$must_run" = yes ]; then
                failed=$((failed + 1))
                failures="$failures
  $name $test (skipped, and this machine allows it)"
            fi
            ;;
        *)
            failed=$((failed + 1))
            failures="$failures
  $name $test (ignored, and '$reason' names no capability)"
            ;;
        esac
        set -- "$@" --skip "$test"
    done <"$work/ignored"
    (cd "$directory" && timeout -k 5 "$PROGRAM_LIMIT" "$executable" "$@") >"$work/out" 2>&1 </dev/null || true
    count "$work/out" "$name (privileged)"
    say_if_long
}

# say_if_long: where the time of a whole run goes.
say_if_long() {
    took=$(($(date +%s) - began))
    [ "$took" -lt 5 ] || say "          $took s"
}

started=$(date +%s)
# shellcheck disable=SC2086
install_packages $BUILD_PACKAGES $LAB_PACKAGES $INTEROP_PACKAGES $GUEST_PACKAGES
guest_kernel
rust_toolchain
cd "$root"
# Programs and tests at once: tests want more features of some crates, and one after the other, those and all that use them
# would be compiled twice. The tests then build no program themselves.
build_programs "$PROFILE" --all-targets
export TORTIE_PROGRAMS_ARE_BUILT=1
"$bin/lab" down --all-dead
"$bin/lab" probe >"$work/probe"
must_run=no
if grep -q '^network namespaces	yes' "$work/probe" && grep -q '^BPF	yes' "$work/probe"; then
    must_run=yes
fi
say "This machine allows:" && sed 's/^/  /' "$work/probe"

if "$cargo" fmt --version >/dev/null 2>&1; then
    check "format" "$cargo" fmt --all --check
else
    say "        no rustfmt in this toolchain: the format is not checked"
fi
if "$cargo" clippy --version >/dev/null 2>&1; then
    check "lints" "$cargo" clippy --profile "$PROFILE" --locked --workspace --all-targets --quiet -- -D warnings
else
    say "        no clippy in this toolchain: lints are not checked"
fi

"$cargo" test --profile "$PROFILE" --locked --workspace --no-run --quiet --message-format json >"$work/artifacts" || fail "the tests do not compile"
# One JSON object a line: the package's manifest and the executable, of what was built as a test.
sed -n 's/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"target":{[^}]*"name":"\([^"]*\)".*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1|\2|\3/p' \
    "$work/artifacts" | sort >"$work/programs"
[ -s "$work/programs" ] || fail "cargo named no test programs"
while IFS='|' read -r directory target executable; do
    run_program "${directory#"$root"/}: $target" "$directory" "$executable"
done <"$work/programs"

timeout -k 5 "$PROGRAM_LIMIT" "$cargo" test --profile "$PROFILE" --locked --workspace --doc --color never >"$work/out" 2>&1 </dev/null || true
count "$work/out" "documentation"

check "fuzz targets, 3 s each" env CARGO_TARGET_DIR="$root/target/fuzz" PATH="$(dirname "$cargo"):$PATH" bgpd/proto/fuzz/run.sh -t 3

[ -z "$failures" ] || say "Failed:$failures"
say "Took $(($(date +%s) - started)) s"
say "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
