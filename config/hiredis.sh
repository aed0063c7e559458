#!/bin/sh
# Builds $D/lib/libhiredis.a (hiredis 1.2) from Debian 13's source, for systems whose own hiredis is older than 1.0 (Debian 12).
#
# The source comes through apt with a private state under $D: the system's apt is left as it is, root is not needed, and apt checks the
# signatures. The mirror is the one that this system's own apt sources use; DEBIAN_URI and DEBIAN_SECURITY_URI override it.
# Needs: apt, dpkg-dev, a compiler, debian-archive-keyring >= 2023.3+deb12u2 (it has Debian 13's keys).
set -eu
D=${1:-build/deps}
[ -f "$D/lib/libhiredis.a" ] && exit 0
mkdir -p "$D/apt/lists/partial" "$D/apt/cache/archives/partial" "$D/src"
D=$(cd "$D" && pwd)

base() { # suite, label: the URI this system gets that suite from; the second form works with empty lists, too
    u=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Label: $2" "Codename: $1" | head -n 1)
    [ -n "$u" ] || u=$(apt-get update --print-uris | sed -n "s|^'\(.*\)/dists/$1/InRelease'.*|\1|p" | head -n 1)
    echo "$u"
}
. /etc/os-release
MAIN=${DEBIAN_URI:-}
SEC=${DEBIAN_SECURITY_URI:-}
if [ -z "$MAIN" ] && [ "$ID" = debian ]; then
    MAIN=$(base "$VERSION_CODENAME" Debian)
    SEC=${SEC:-$(base "$VERSION_CODENAME-security" Debian-Security)}
fi
[ -n "$MAIN" ] || { echo "no Debian mirror in the apt sources: set DEBIAN_URI" >&2; exit 1; }
[ -n "$SEC" ] || echo "warning: no security mirror in the apt sources (or set DEBIAN_SECURITY_URI)" >&2
KEYRING=$(dpkg -L debian-archive-keyring | grep '/debian-archive-keyring\.gpg$' | head -n 1)

entry() { printf 'Types: deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n' "$1" "$2" "$KEYRING"; }
{ entry "$MAIN" trixie; [ -z "$SEC" ] || entry "$SEC" trixie-security; } > "$D/apt/trixie.sources"
cat > "$D/apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$D/apt/trixie.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$D/apt/lists";
Dir::Cache "$D/apt/cache";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
if [ "$(id -u)" = 0 ]; then echo 'APT::Sandbox::User "root";' >> "$D/apt/apt.conf"; fi
echo "hiredis: fetching Debian 13's source (this system's own is too old)"
apt-get -qq -c "$D/apt/apt.conf" update

cd "$D/src"
rm -rf hiredis-*/
apt-get -qq -c "$D/apt/apt.conf" source "hiredis${HIREDIS_VER:+=$HIREDIS_VER}" > "$D/apt/source.log" 2>&1 ||
    { cat "$D/apt/source.log" >&2; exit 1; }
echo "82ad632d31ee05da13b537c124f819eb88e18851d9cb0c30ae0552084811588c  hiredis_1.2.0.orig.tar.gz" | sha256sum -c --quiet
rm -rf "$D/apt/lists" # 23 MB of index, no longer needed

cd hiredis-1.2.0
mkdir -p "$D/lib" "$D/include/hiredis" "$D/share/doc/hiredis"
O=
for f in alloc sds read hiredis net async sockcompat; do
    ${CC:-cc} -std=c99 -O2 -g -fPIC -D_FORTIFY_SOURCE=2 -fstack-protector-strong -c $f.c -o $f.o
    O="$O $f.o"
done
rm -f libhiredis.a
ar rcs libhiredis.a $O
cp alloc.h async.h hiredis.h read.h sds.h sockcompat.h "$D/include/hiredis/"
cp COPYING "$D/share/doc/hiredis/"
mv libhiredis.a "$D/lib/"
head -n 1 debian/changelog
