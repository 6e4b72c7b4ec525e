#!/usr/bin/env bash
# Sets up what tests for aarch64 need on another CPU: a compiler with its library, a linker, the emulator, and in
# target/aarch64/python CPython and packages. Root installs from Debian; anybody may run it again. Prints what to export.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=aarch64-unknown-linux-gnu
folder=$PWD/target/aarch64
mkdir -p "$folder"

fail() { echo "test-aarch64: $*" >&2; exit 1; }

install() {
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "needs the package $1, and only root can install it from Debian"
	# Lists of packages may be old, or not there.
	apt-get -qq install -y --no-install-recommends "$@" >&2 ||
		{ apt-get -qq update >&2 && apt-get -qq install -y --no-install-recommends "$@" >&2; }
}

# Debian files of arm64, unpacked: the packages themselves would replace those of this CPU.
unpack() {
	local into=$1 place
	shift
	place=$(mktemp -d)
	(cd "$place" && apt-get -qq -o APT::Sandbox::User=root download "$@" >&2)
	for file in "$place"/*.deb; do dpkg -x "$file" "$into"; done
	rm -rf "$place"
}

know_arm64() {
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "needs Debian's packages for arm64, which root can fetch"
	dpkg --print-foreign-architectures | grep -qx arm64 || dpkg --add-architecture arm64
	apt-get -qq update >&2
}

has_library() { [ -d "$("$1" --print target-libdir --target $target 2>/dev/null)" ]; }

# The compiler in use, with the library that rustup has for it; or Debian's with that of its package for arm64.
rustc=$(command -v rustc || true)
if ! has_library "${rustc:-false}" && command -v rustup >/dev/null; then
	rustup --quiet target add $target >&2 || true
fi
if ! has_library "${rustc:-false}"; then
	rustc=/usr/bin/rustc
	if ! has_library $rustc; then
		know_arm64
		install rustc-web
		unpack "$folder/library" libstd-rust-web-dev:arm64
		cp -r "$folder/library/usr/lib/rustlib/$target" /usr/lib/rustlib/
		rm -rf "$folder/library"
	fi
fi
command -v aarch64-linux-gnu-gcc >/dev/null || install gcc-aarch64-linux-gnu libc6-dev-arm64-cross
command -v qemu-aarch64 >/dev/null || install qemu-user

python=$folder/python
if ! [ -e "$python/ready" ]; then
	know_arm64
	rm -rf "$python"
	mkdir -p "$python"
	name=$(apt-cache depends python3:arm64 | sed -nE 's/.*Depends: (python3\.[0-9]+).*/\1/p' | head -1)
	unpack "$python" "$name-minimal:arm64" "lib$name-minimal:arm64" "lib$name-stdlib:arm64" libbz2-1.0:arm64 \
		libc6:arm64 libcrypt1:arm64 libexpat1:arm64 libffi8:arm64 libgcc-s1:arm64 liblzma5:arm64 libsqlite3-0:arm64 \
		libssl3:arm64 libstdc++6:arm64 libuuid1:arm64 zlib1g:arm64
	ln -s "usr/bin/$name" "$python/interpreter"
	.venv/bin/python -m pip install -q --disable-pip-version-check --target "$python/site" --only-binary=:all: \
		--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
		--implementation cp --python-version "${name#python}" --abi "cp${name//[!0-9]/}" --abi abi3 --abi none \
		numpy hypothesis pytest pytest-timeout >&2
	touch "$python/ready"
fi

cat <<END
export RUSTC=$rustc
export CARGO_BUILD_TARGET=$target
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64 -L /usr/aarch64-linux-gnu'
END
