# Wheels from PyPI, through Debian's pip or any other. To be sourced by a script that defines fail().

# download_wheel REQUIREMENT FOLDER: it is the only wheel in FOLDER then.
download_wheel() {
  local candidate attempt pip=
  for candidate in "python3 -m pip" "/usr/bin/python3 -m pip" pip3 pip; do
    if $candidate --version >/dev/null 2>&1; then pip=$candidate; break; fi
  done
  [ -n "$pip" ] || fail "no pip found; install it with: apt-get install python3-pip"
  for attempt in 1 2 3; do
    rm -f "$2"/*.whl
    if $pip download --quiet --disable-pip-version-check --no-input --retries 2 --no-deps --only-binary :all: --dest "$2" "$1"; then return; fi
    [ "$attempt" -lt 3 ] || fail "pip could not download $1 after 3 tries; check the network (pip's own message is above)"
    sleep 2
  done
}
