#!/usr/bin/env bash
# Installs what the build, the tests and the checks need on Debian 12. Does nothing when everything is there; only installing needs root.
set -euo pipefail
packages=(
  git cmake ninja-build g++ pkg-config ccache mold   # build
  libabsl-dev libcli11-dev libeigen3-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev libssl-dev libxxhash-dev libzstd-dev
  catch2 clang-format clang-tidy                     # tests and checks (make fuzz: clang-14, make coverage: gcovr)
  dpkg-dev file                                      # make package
  python3-pip unzip ca-certificates                  # make models
)
if ! command -v dpkg-query >/dev/null; then
  echo "deps: not a Debian system; install the equivalents of: ${packages[*]}" >&2
  exit 0
fi
missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then echo "deps: all ${#packages[@]} packages are installed"; exit 0; fi
if [ "$(id -u)" != 0 ]; then
  echo "deps: ${#missing[@]} packages are missing and installing them needs root; run this line, then make again:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
