#!/bin/bash
# Installs what building, testing and measuring need and is not there. Debian 12 and 13, as root or with sudo. When nothing is
# missing it asks dpkg once and ends.
#
# Debian 12 has no Valkey and an old libraft: both come from bookworm-backports, which is added to apt's sources as a file of its own if
# it is not there yet. Its mirror is the one that this system already gets Debian from (DEBIAN_URI overrides it). hiredis: see hiredis.sh.
#
# No server that is installed here is started, now or at the next boot; what was running goes on.
set -eu

common=(build-essential pkg-config libevent-dev liblmdb-dev libxxhash-dev uthash-dev libjansson-dev libcmocka-dev
        libssl-dev openssl
        python3-pytest python3-pytest-timeout python3-pytest-xdist python3-redis python3-selenium chromium chromium-driver prometheus prometheus-redis-exporter haproxy nutcracker curl iproute2 nftables)
[ "${DOCKER:-0}" = 0 ] || common+=(docker.io docker-compose debootstrap iptables)
backports=(valkey-server valkey-tools libraft-dev)
raft_min=0.22

. /etc/os-release
[ "${ID:-}" = debian ] && release=${VERSION_CODENAME:-} || release=
[ "$release" != trixie ] || common+=(libhiredis-dev)
[ "${DOCKER:-0}" = 0 ] || [ "$release" != trixie ] || common+=(docker-cli)
command -v node > /dev/null || common+=(nodejs)
command -v npm > /dev/null || common+=(npm)

declare -A installed=()
while read -r status name version; do
    [ "$status" != installed ] || installed[$name]=$version
done < <(dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' "${common[@]}" "${backports[@]}" 2> /dev/null || true)

missing=()
for p in "${common[@]}"; do [ -n "${installed[$p]:-}" ] || missing+=("$p"); done
missing_backports=()
for p in "${backports[@]}"; do [ -n "${installed[$p]:-}" ] || missing_backports+=("$p"); done
if [ -n "${installed[libraft-dev]:-}" ] && dpkg --compare-versions "${installed[libraft-dev]}" lt "$raft_min"; then
    missing_backports+=(libraft-dev)
fi
# A Valkey that was not installed from a package will do.
if command -v valkey-server > /dev/null && command -v valkey-cli > /dev/null && command -v valkey-benchmark > /dev/null; then
    kept=()
    for p in "${missing_backports[@]}"; do [[ $p = valkey-* ]] || kept+=("$p"); done
    missing_backports=("${kept[@]}")
fi
[ ${#missing[@]} -gt 0 ] || [ ${#missing_backports[@]} -gt 0 ] || exit 0

if [ "$release" != bookworm ] && [ "$release" != trixie ]; then
    echo "make deps knows Debian 12 and 13. Missing here: ${missing[*]} ${missing_backports[*]}" >&2
    exit 1
fi
sudo=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || { echo "to install ${missing[*]} ${missing_backports[*]}: be root, or install sudo" >&2; exit 1; }
    sudo=(sudo)
fi
echo "installing: ${missing[*]} ${missing_backports[*]}"

# ---- the mirror of a suite, from apt's own sources; the second form works before the first `apt-get update`, too ----
mirror_of() {
    local uri
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $1" "${@:2}" | head -n 1)
    [ -n "$uri" ] || uri=$(apt-get update --print-uris 2> /dev/null | sed -n "s|^'\(.*\)/dists/$1/InRelease'.*|\1|p" | head -n 1)
    echo "${uri%/}"
}

if [ "$release" = bookworm ] && [ ${#missing_backports[@]} -gt 0 ] && [ -z "$(mirror_of bookworm-backports)" ]; then
    mirror=${DEBIAN_URI:-$(mirror_of bookworm 'Origin: Debian' 'Label: Debian')}
    [ -n "$mirror" ] || { echo "no Debian mirror in the apt sources: set DEBIAN_URI" >&2; exit 1; }
    keyring=$(dpkg -L debian-archive-keyring | grep '/debian-archive-keyring\.gpg$' | head -n 1)
    printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: %s\n' "$mirror" "$keyring" |
        "${sudo[@]}" tee /etc/apt/sources.list.d/bookworm-backports-holdfast.sources > /dev/null
fi

# ---- no daemon starts while we install: policy-rc.d says 101, "forbidden"; what was there is put back ----
policy=/usr/sbin/policy-rc.d
saved=$policy.before-holdfast
restore_policy() {
    "${sudo[@]}" rm -f "$policy"
    if [ -e "$saved" ] || [ -L "$saved" ]; then "${sudo[@]}" mv "$saved" "$policy"; fi
}
if { [ -e "$policy" ] || [ -L "$policy" ]; } && [ ! -e "$saved" ] && [ ! -L "$saved" ] &&
    ! grep -qs 'written by holdfast' "$policy"; then # ours is there only if an earlier run was killed
    "${sudo[@]}" mv "$policy" "$saved"
fi
trap restore_policy EXIT
printf '#!/bin/sh\n# written by holdfast: make deps\nexit 101\n' | "${sudo[@]}" tee "$policy" > /dev/null
"${sudo[@]}" chmod 755 "$policy"

apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"; }
apt update
if [ ${#missing_backports[@]} -gt 0 ] && [ "$release" = bookworm ]; then
    apt install -y --no-install-recommends -t bookworm-backports "${missing_backports[@]}"
elif [ ${#missing_backports[@]} -gt 0 ]; then
    missing+=("${missing_backports[@]}")
fi
[ ${#missing[@]} -eq 0 ] || apt install -y --no-install-recommends "${missing[@]}"

# New servers stay off at boot, too: they are tools here.
for p in valkey-server haproxy nutcracker prometheus prometheus-redis-exporter; do
    [[ " ${missing[*]} ${missing_backports[*]} " = *" $p "* ]] || continue
    if command -v systemctl > /dev/null; then "${sudo[@]}" systemctl disable "$p" > /dev/null 2>&1 || true; fi
done
