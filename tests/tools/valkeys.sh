#!/bin/bash
# Other versions of Valkey beside the installed one, to run the tests against: out of Debian's suites, unpacked into a folder,
# with the libraries they need. Nothing is installed and apt's own settings stay as they are.
#
#   tests/tools/valkeys.sh build/valkeys                     Debian 13's and the newest: trixie and sid
#   tests/tools/valkeys.sh build/valkeys bookworm-backports  others, by suite
#
#   build/valkeys/8.1/bin/valkey-server          also valkey-cli, valkey-benchmark ...
#   build/valkeys/8.1/root/                      what the packages hold
#   build/valkeys/list                           the servers, one a line (read by the tests)
#
#   VALKEY_SERVER=$PWD/build/valkeys/8.1/bin/valkey-server /usr/bin/python3 -m pytest tests/e2e/test_canon_stream.py
#
# For Debian 12 and 13. The mirror is the one that apt takes Debian from here.
set -eu

[ $# -ge 1 ] || { sed -n '5,12s/^# \?//p' "$0"; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
[ $# -ge 1 ] || set -- trixie sid

# shellcheck disable=SC2016 # the format is apt's
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -1)
[ -n "$mirror" ] || { echo "apt knows no Debian mirror: run apt-get update first"; exit 1; }
keyring=$(find /usr/share/keyrings -name 'debian-archive-keyring.*' | sort | head -1)

apt_folder() { # suite, folder: a private apt with that suite alone, which knows of nothing installed
    mkdir -p "$2/lists/partial" "$2/archives/partial"
    : > "$2/status"
    echo "deb [signed-by=$keyring] $mirror $1 main" > "$2/sources.list"
    cat > "$2/apt.conf" <<CONF
Dir::Etc::sourcelist "$2/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$2/lists";
Dir::State::status "$2/status";
Dir::Cache "$2";
Acquire::Languages "none";
APT::Sandbox::User "root";
CONF
}

dependencies() { # package: the libraries it depends on, and the packages of Valkey
    apt-cache show --no-all-versions "$1" | sed -n 's/^\(Pre-\)\?Depends: //p' | tr ',' '\n' |
        sed 's/|.*//; s/(.*//; s/:any//; s/ //g' | grep -E '^(lib|valkey)' || true
}

fetch() { # folder: downloads valkey-server and all that it depends on
    local known=" " queue="valkey-server" package
    while [ -n "$queue" ]; do
        # shellcheck disable=SC2086 # a list of words
        set -- $queue
        package=$1
        shift
        queue="$*"
        case "$known" in *" $package "*) continue ;; esac
        known="$known$package "
        queue="$queue $(dependencies "$package" | tr '\n' ' ')"
    done
    # shellcheck disable=SC2086
    (cd "$folder/apt/debs" && apt-get download -q $known > /dev/null)
}

wrapper() { # root, program, where: runs it with its own loader and libraries
    cat > "$3" <<RUN
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/../root
loader=\$(echo "\$root"/usr/lib/*/ld-linux*.so.* "\$root"/lib/*/ld-linux*.so.*)
libraries=\$(echo "\$root"/usr/lib/*-linux-gnu "\$root"/lib/*-linux-gnu | tr ' ' :)
exec "\${loader%% *}" --library-path "\$libraries" --argv0 "\$0" "\$root/usr/bin/$2" "\$@"
RUN
    chmod +x "$3"
}

one() { # suite
    local root="$folder/apt/root" version deb program
    rm -rf "$folder/apt"
    mkdir -p "$folder/apt/debs" "$root"
    apt_folder "$1" "$folder/apt/conf"
    export APT_CONFIG="$folder/apt/conf/apt.conf"
    apt-get update -qq
    fetch
    for deb in "$folder"/apt/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
    mkdir "$folder/apt/bin"
    for program in "$root"/usr/bin/valkey-*; do
        wrapper "$root" "$(basename "$program")" "$folder/apt/bin/$(basename "$program")"
    done
    version=$("$folder/apt/bin/valkey-server" --version | sed -n 's/.* v=\([0-9]*\.[0-9]*\)\..*/\1/p')
    [ -n "$version" ] || { echo "$1: its valkey-server does not run"; exit 1; }
    rm -rf "${folder:?}/$version"
    mkdir "$folder/$version"
    mv "$root" "$folder/apt/bin" "$folder/$version/"
    rm -rf "$folder/apt"
    "$folder/$version/bin/valkey-server" --version
}

for suite in "$@"; do one "$suite"; done
ls -d "$folder"/*/bin/valkey-server > "$folder/list"
