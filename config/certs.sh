#!/bin/bash
# Certificates for the members of a group, from a CA of their own: for trying things out, for tests, and for small installations.
#
#     certs.sh DIR CLUSTER NODE...
#     certs.sh --revoke DIR FILE.crt...
#
# The first makes DIR if need be, and in it
#
#     ca.crt, ca.key          the CA; made at the first call, used by later ones
#     NODE.crt, NODE.key      for each NODE: proves to be NODE.CLUSTER, to members that it dials and to members that dial it
#
# so that the next node of a group is one more call. Nothing is ever overwritten: a NODE that has a file already is an error, and then
# nothing is made. A node needs three files: its own two, and ca.crt.
#
#     certs.sh certs orders a b c
#     a.conf:  cluster orders
#              node a
#              peer-tls-cert-file certs/a.crt
#              peer-tls-key-file certs/a.key
#              peer-tls-ca-cert-file certs/ca.crt
#
# The second revokes certificates of this CA that got into wrong hands: it writes DIR/ca.crl, a list of all that were ever revoked, for
# ten years (DIR/ca.index remembers them). It counts where it stands in the CA file of the nodes:
#
#     certs.sh --revoke certs certs/c.crt && cat certs/ca.crt certs/ca.crl > /etc/holdfast/ca.crt     then SIGHUP
#
# Who has ca.key can become a member: keep it away from the nodes. Keys are ECDSA P-256, readable by their owner only. Node certificates
# hold DNS:NODE.CLUSTER, DNS:localhost and IP:127.0.0.1, are for servers and clients (serverAuth, clientAuth), and last DAYS (825) days, the
# CA 3650; all are valid from yesterday on, so that a clock that is behind does no harm. To replace one, move the old files away and call
# again; to replace the CA, see config/README.md.
set -euo pipefail
umask 077

fail() { echo "certs.sh: $*" >&2; exit 1; }
quietly() { "$@" > "$work/said" 2>&1 || { cat "$work/said" >&2; fail "$1 $2 failed"; }; }
[ $# -ge 3 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
if [ "$1" = --revoke ]; then
    dir=$2
    shift 2
    [ -e "$dir/ca.crt" ] && [ -e "$dir/ca.key" ] || fail "$dir has no ca.crt and ca.key"
    work=$(mktemp -d "$dir/.certs.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    [ ! -e "$dir/ca.index" ] || cp "$dir/ca.index" "$work/index"
    touch "$work/index"
    printf '%s\n' '[ca]' 'default_ca = it' '[it]' "database = $work/index" 'default_md = sha256' 'unique_subject = no' > "$work/config"
    authority=(openssl ca -config "$work/config" -cert "$dir/ca.crt" -keyfile "$dir/ca.key")
    for file; do
        quietly openssl verify -no_check_time -CAfile "$dir/ca.crt" "$file"
        serial=$(openssl x509 -in "$file" -noout -serial)
        cut -f 4 "$work/index" | grep -qxF "${serial#serial=}" || quietly "${authority[@]}" -revoke "$file"
    done
    quietly "${authority[@]}" -gencrl -crldays 3650 -out "$work/ca.crl"
    chmod 644 "$work/ca.crl"
    mv "$work/index" "$dir/ca.index"
    mv "$work/ca.crl" "$dir/ca.crl"
    echo "$dir/ca.crl: $(wc -l < "$dir/ca.index") revoked"
    exit
fi
dir=$1 cluster=$2
shift 2
days=${DAYS:-825}
command -v openssl > /dev/null || fail "openssl is not installed"
name='^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$' # it stands in a certificate as a DNS name
[[ $cluster =~ $name ]] || fail "'$cluster' cannot be a cluster's name"
[[ $days =~ ^[0-9]{1,5}$ ]] || fail "DAYS is not a number of days: '$days'"
for node; do
    [[ $node =~ $name && $node != ca ]] || fail "'$node' cannot be a node's name here"
    [ ! -e "$dir/$node.crt" ] && [ ! -e "$dir/$node.key" ] || fail "$dir/$node.crt or .key is there already"
done
[ $# = "$(printf '%s\n' "$@" | sort -u | wc -l)" ] || fail "a node is named twice"
mkdir -p "$dir"
have=0
[ ! -e "$dir/ca.crt" ] || have=$((have + 1))
[ ! -e "$dir/ca.key" ] || have=$((have + 2))
case $have in
1) fail "$dir has a ca.crt without its ca.key" ;;
2) fail "$dir has a ca.key without its ca.crt" ;;
esac

work=$(mktemp -d "$dir/.certs.XXXXXX") # files appear in DIR whole, or not at all
trap 'rm -rf "$work"' EXIT
new_key() { quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
publish() { chmod 644 "$work/$1.crt"; mv -n "$work/$1.key" "$work/$1.crt" "$dir"; }
date_of() { date -u -d "$1" +%Y%m%d%H%M%SZ; }

# certify NAME SUBJECT DAYS CA-CERTIFICATE CA-KEY EXTENSIONS [option of openssl ca]: $work/NAME.crt, of $work/NAME.key
certify() {
    : > "$work/index"
    printf '%s\n' '[ca]' 'default_ca = it' '[it]' "database = $work/index" "new_certs_dir = $work" 'policy = any' 'default_md = sha256' \
        'rand_serial = yes' 'unique_subject = no' '[any]' 'commonName = supplied' '[extensions]' "$6" > "$work/config"
    quietly openssl req -new -key "$work/$1.key" -out "$work/request" -subj "/CN=$2"
    quietly openssl ca -batch -notext -config "$work/config" -extensions extensions -in "$work/request" -out "$work/$1.crt" \
        -cert "$4" -keyfile "$5" -startdate "$(date_of 'yesterday')" -enddate "$(date_of "+$3 days")" "${@:7}"
}

if [ $have = 0 ]; then
    new_key "$work/ca.key"
    certify ca "$cluster CA" 3650 "$work/ca.crt" "$work/ca.key" $'basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign\nsubjectKeyIdentifier = hash' -selfsign
    publish ca
fi
for node; do
    new_key "$work/$node.key"
    certify "$node" "$node" "$days" "$dir/ca.crt" "$dir/ca.key" $'basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature\nextendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n'"subjectAltName = DNS:$node.$cluster,DNS:localhost,IP:127.0.0.1"
    publish "$node"
done
echo "$dir: ca.crt$(printf ', %s.crt and .key' "$@")"
