#!/usr/bin/env bash
# Prints what an executable is made of, as SPDX 2.3 in JSON: Spikefold itself, the shared libraries it loads (with the Debian packages
# and versions that they come from here) and the header libraries compiled into it. usage: sbom.sh EXECUTABLE VERSION
set -euo pipefail
executable=$1 version=$2
declare -A licence=(  # as each project declares it; packages that are not named: NOASSERTION
  [libabsl]=Apache-2.0 [libssl]=Apache-2.0 [libpcre2]=BSD-3-Clause [libutf8proc]=MIT [libxxhash]=BSD-2-Clause [libzstd]=BSD-3-Clause
  [libc6]=LGPL-2.1-or-later [libgcc]="GPL-3.0-or-later WITH GCC-exception-3.1" [libstdc++]="GPL-3.0-or-later WITH GCC-exception-3.1"
  [libcli11]=BSD-3-Clause [libeigen3]=MPL-2.0 [nlohmann-json3]=MIT)
licence_of() {
  local prefix
  for prefix in "${!licence[@]}"; do
    if [[ $1 == "$prefix"* ]]; then printf '%s' "${licence[$prefix]}"; return; fi
  done
  printf NOASSERTION
}
# The package of a file; on a merged /usr dpkg may know it by the other name.
package_of() { { dpkg-query -S "$1" || dpkg-query -S "${1#/usr}" || dpkg-query -S "/usr$1"; } 2>/dev/null | head -1 | cut -d: -f1; }

packages=()
while read -r library; do
  package=$(package_of "$(readlink -f "$library")") || true
  packages+=("${package:-$(basename "$library")}")
done < <(ldd "$executable" | grep -o '/[^ ]*\.so[^ ]*')
packages+=(libcli11-dev libeigen3-dev nlohmann-json3-dev)
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)

digest=$(sha256sum "$executable" | cut -d' ' -f1)
entry() {  # ID NAME VERSION LICENCE
  printf '    {"SPDXID": "SPDXRef-%s", "name": "%s", "versionInfo": "%s", "downloadLocation": "NOASSERTION", "filesAnalyzed": false,\n' "$1" "$2" "$3"
  printf '     "licenseConcluded": "NOASSERTION", "licenseDeclared": "%s", "copyrightText": "NOASSERTION"' "$4"
}
printf '{\n  "spdxVersion": "SPDX-2.3",\n  "dataLicense": "CC0-1.0",\n  "SPDXID": "SPDXRef-DOCUMENT",\n  "name": "spikefold-%s",\n' "$version"
printf '  "documentNamespace": "https://spdx.org/spdxdocs/spikefold-%s-%s",\n' "$version" "${digest:0:16}"
printf '  "creationInfo": {"created": "%s", "creators": ["Tool: spikefold-sbom"]},\n' "$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%FT%TZ)"
printf '  "packages": [\n'
entry spikefold spikefold "$version" Apache-2.0
printf ',\n     "checksums": [{"algorithm": "SHA256", "checksumValue": "%s"}]}' "$digest"
for package in "${packages[@]}"; do
  printf ',\n'
  entry "${package//[^A-Za-z0-9.-]/-}" "$package" "$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null | head -1 || true)" "$(licence_of "$package")"
  printf '}'
done
printf '\n  ],\n  "relationships": [\n    {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-spikefold"}'
for package in "${packages[@]}"; do
  printf ',\n    {"spdxElementId": "SPDXRef-spikefold", "relationshipType": "DEPENDS_ON", "relatedSpdxElement": "SPDXRef-%s"}' "${package//[^A-Za-z0-9.-]/-}"
done
printf '\n  ]\n}\n'
