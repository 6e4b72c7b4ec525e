#!/usr/bin/env bash
# Builds the crate and the extension for aarch64, and runs their tests under emulation: the crate's on CPUs with plain
# NEON, with dotprod and with i8mm, and some of Python's. Emulation is slow, so random tests try fewer cases.
set -euo pipefail
cd "$(dirname "$0")/../.."

exports=$(tests/aarch64/setup.sh)
eval "$exports"
export PROPTEST_CASES=16 CARGO_INCREMENTAL=0
logs=target/aarch64/logs
mkdir -p $logs

# What has kernels or a choice of path; the rest is the same code everywhere, and some of it slow to emulate.
tests=(
	codec::base64 codec::bits codec::request codec::response codec::vectors isa:: search::limit search::matrix
	search::top_k search::two_stage similarity:: tokens::classes tokens::nfc::tests::all_inert_is_the_same_on_every_path
)
# Optimised tests take longer to compile, and far less time to emulate.
test_crate() {
	local crate cpu
	crate=$(CARGO_PROFILE_DEV_OPT_LEVEL=3 CARGO_PROFILE_DEV_DEBUG=false CARGO_TARGET_DIR=target/aarch64/crate \
		cargo test -q --locked --lib --no-run --message-format=json | sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | tail -1)
	for cpu in cortex-a72 neoverse-n1 max; do
		echo "crate on $cpu"
		QEMU_CPU=$cpu $CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER "$crate" --quiet "${tests[@]}"
	done
}

wheel=target/aarch64/wheel
root=$PWD/target/aarch64/python
python() { QEMU_CPU=max PYTHONPATH=$wheel/package:$root/site PYTHONHOME=$root/usr qemu-aarch64 -L "$root" "$root/interpreter" -B "$@"; }

test_python() {
	local room files
	# Optimised in the way that compiles fastest; for abi3 no interpreter of the target is needed.
	rm -rf $wheel
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=false \
		.venv/bin/maturin build -q --release --locked --target "$CARGO_BUILD_TARGET" --compatibility linux --out $wheel
	.venv/bin/python -m zipfile -e $wheel/*.whl $wheel/package
	python -c 'from ctxembed import _core; print("Python on max:", dict(_core.isa_paths()))
assert dict(_core.isa_paths()) == {"codec": "neon", "hamming": "neon", "dot": "neon-i8mm"}'
	# Each room by itself, below the tests' own conftest: that starts servers, which no emulated process can. The tests
	# left out take as long as all others.
	for room in codec search; do
		case $room in
			codec) files=(test_base64.py test_bits.py test_response_decoder.py) ;;
			search) files=(test_similarity.py test_top_k.py test_two_stage.py) ;;
		esac
		python -m pytest -q -p no:cacheprovider -p tests.aarch64.few_examples --confcutdir="tests/$room" --timeout=300 \
			-k 'not calibrate_finds and not damaged_body' --durations=5 "${files[@]/#/tests/$room/}"
	done
}

# At once, one of them on each core.
test_python >$logs/python 2>&1 &
python_tests=$!
test_crate &
crate_tests=$!
code=0
wait $crate_tests || code=$?
wait $python_tests || code=$?
cat $logs/python
exit $code
