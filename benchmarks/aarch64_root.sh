#!/usr/bin/env bash
# Makes the folder that QGUARD_AARCH64_ROOT names: Debian's Python for AArch64, with NumPy and ONNX Runtime of the versions that run here.
# With --qemu it also gets a QEMU that runs them, where the system's is older than 8: FOLDER/qemu/usr/bin/qemu-aarch64.
# It needs apt-get and dpkg on any Debian or Ubuntu, and installs nothing on the system.
#
# usage: bash benchmarks/aarch64_root.sh FOLDER [--qemu]
set -euo pipefail
release=trixie python=3.13
mkdir -p "$1"
root=$(cd "$1" && pwd) work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages() { # ARCHITECTURE INTO NAME...
  local of=$1 into=$2
  shift 2
  mkdir -p "$work/$of/lists/partial" "$work/$of/cache/archives/partial" "$work/$of/debs"
  touch "$work/$of/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $release main" > "$work/$of/list"
  local apt=(apt-get -q -o "APT::Architecture=$of" -o "APT::Architectures=$of" -o "Dir::Etc::sourcelist=$work/$of/list"
    -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/$of/lists" -o "Dir::Cache=$work/$of/cache"
    -o "Dir::State::status=$work/$of/status" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$work/$of/debs" && "${apt[@]}" download "$@")
  for package in "$work/$of/debs"/*.deb; do dpkg -x "$package" "$into"; done
}
packages arm64 "$root" "python$python-minimal" "libpython$python-minimal" "libpython$python-stdlib" libc6 libgcc-s1 libstdc++6 zlib1g \
  libexpat1 libffi8 libssl3t64 libbz2-1.0 liblzma5 libuuid1
ln -sfn usr/lib "$root/lib"
[ "${2:-}" != --qemu ] || packages amd64 "$root/qemu" qemu-user
versions=$(python3 -c "from importlib.metadata import version as v; print(*(f'{p}=={v(p)}' for p in ('onnxruntime', 'numpy')))")
# shellcheck disable=SC2086
python3 -m pip install -q --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
  --python-version "$python" --only-binary=:all: --no-compile --upgrade --target "$root/usr/lib/python3/dist-packages" $versions
echo "export QGUARD_AARCH64_ROOT=$root"
[ "${2:-}" != --qemu ] || echo "export QGUARD_QEMU_AARCH64=$root/qemu/usr/bin/qemu-aarch64"
