#!/bin/bash
# What `make run` calls: Holdfast on loopback, in the foreground, with Valkeys of its own; Ctrl-C ends all of them.
#
#   NODES=3 (default)   nodes a, b, c in zones az-a, az-b, az-c, TLS between them
#   NODES=1             one node, alone
#
# Everything is kept in build/run (RUN_DIR): settings, certificates, logs, data. So the next run goes on where this one ended.
# Ports: 6379 (clients), 6479 (stale reads), 9121 (admin) and those behind them, if they are free, else any; PORT, READER_PORT and
# ADMIN_PORT choose others. The ports between the members stay what they were at first: the group's log knows them.
set -eu
binary=$1
folder=${RUN_DIR:-build/run}
nodes=${NODES:-3}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

taken=" "
port_is_free() { ! (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null && [[ $taken != *" $1 "* ]]; }
choose_port() { # variable wanted
    local chosen=$2
    while ! port_is_free "$chosen"; do chosen=$((20000 + RANDOM % 10000)); done
    taken+="$chosen "
    printf -v "$1" %s "$chosen"
}

declare -A pid=() port=() reader=() admin=()
stopping=no
stop() {
    stopping=yes
    for name in "${!pid[@]}"; do kill -TERM "${pid[$name]}" 2> /dev/null || true; done
}
trap stop INT TERM

# A node that was killed leaves its Valkey behind, for its next life to find. After us there is none.
end_valkey() { # name
    local socket=$folder/$1/valkey/valkey.sock
    [ ! -S "$socket" ] || timeout 5 valkey-cli -s "$socket" shutdown nosave > /dev/null 2>&1 || true
}

# Its output, each line with its name before it. The pipe's other end must not die of Ctrl-C before the node does.
start() { # name words...
    local name=$1
    shift
    if [ "$nodes" = 1 ]; then
        "$binary" "$@" &
    else
        "$binary" "$@" > >(trap '' INT TERM && exec sed -u "s/^/$name  /") 2>&1 &
    fi
    pid[$name]=$!
}

# Until each of them answers its clients.
wait_until_they_serve() {
    local name
    for name in $names; do
        for _ in $(seq 600); do
            [ "$stopping" = no ] || return 0
            kill -0 "${pid[$name]}" 2> /dev/null || { echo "node $name did not start" >&2; return 1; }
            [ "$(timeout 2 valkey-cli -p "${port[$name]}" ping 2> /dev/null || true)" != PONG ] || break
            sleep 0.1
        done
    done
}

# Until all have ended. Those that end before they are asked to are named: the others go on.
wait_for_the_end() {
    local name code status=0
    while [ ${#pid[@]} -gt 0 ]; do
        wait -n "${pid[@]}" 2> /dev/null || true # a signal interrupts it
        for name in "${!pid[@]}"; do
            kill -0 "${pid[$name]}" 2> /dev/null && continue
            code=0
            wait "${pid[$name]}" || code=$?
            unset "pid[$name]"
            if [ "$stopping" = no ]; then
                echo "node $name has ended ($code)${1//NAME/$name}"
                [ ${#pid[@]} -gt 0 ] || status=1
            elif [ $code != 0 ]; then
                status=1
            fi
        done
    done
    return $status
}

run_one() {
    names=node-1
    choose_port "port[node-1]" "${PORT:-6379}"
    choose_port "admin[node-1]" "${ADMIN_PORT:-9121}"
    start node-1 config/holdfast.conf --port "${port[node-1]}" --admin-port "${admin[node-1]}" --valkey-spawn yes \
        --data-dir "$folder/data"
    wait_until_they_serve || return 1
    echo
    echo "Talk to it:  valkey-cli -p ${port[node-1]}      $binary ctl --admin 127.0.0.1:${admin[node-1]} status" \
        "     http://127.0.0.1:${admin[node-1]}/ (the page; /metrics, /status)      Ctrl-C ends it"
    wait_for_the_end ""
}

# The same lines for all; made once.
write_members() {
    local name peer file=$folder/members.conf
    if [ ! -f "$file" ]; then
        for name in $names; do
            choose_port peer $((17000 + RANDOM % 3000))
            echo "member $name az-$name 127.0.0.1:$peer"
        done > "$file.new"
        mv "$file.new" "$file"
        return 0
    fi
    while IFS=: read -r _ peer; do
        port_is_free "$peer" || { echo "port $peer of $file is taken: is this group running already?" >&2; return 1; }
        taken+="$peer "
    done < "$file"
}

write_certificates() {
    local name fresh=()
    for name in $names; do
        openssl x509 -checkend 86400 -noout -in "$folder/certs/$name.crt" > /dev/null 2>&1 && continue
        rm -f "$folder/certs/$name.crt" "$folder/certs/$name.key" # none, or soon too old
        fresh+=("$name")
    done
    [ ${#fresh[@]} = 0 ] || bash config/certs.sh "$folder/certs" holdfast-run "${fresh[@]}" > "$folder/certs.log" 2>&1 ||
        { cat "$folder/certs.log" >&2; return 1; }
}

write_settings() { # name
    cat > "$folder/$1.conf" << END
# Node $1 of \`make run\`; written anew by each run. Explanations: config/holdfast.conf
include $folder/members.conf
node $1
cluster holdfast-run
peer-tls-cert-file $folder/certs/$1.crt
peer-tls-key-file $folder/certs/$1.key
peer-tls-ca-cert-file $folder/certs/ca.crt
port ${port[$1]}
reader-port ${reader[$1]}
admin-port ${admin[$1]}
data-dir $folder/$1
valkey-spawn yes
END
}

say_how() {
    local name
    echo
    printf '%-6s%-6s%-22s%-26s%s\n' node zone clients "reads, maybe stale" "the page (/metrics, /status)"
    for name in $names; do
        printf '%-6s%-6s%-22s%-26s%s\n' "$name" "az-$name" "valkey-cli -p ${port[$name]}" "valkey-cli -p ${reader[$name]}" \
            "http://127.0.0.1:${admin[$name]}/"
    done
    echo
    echo "Every client port serves; the leader does the work. Who that is:   $binary ctl --admin 127.0.0.1:${admin[a]} members"
    echo "Hand over:   $binary ctl --admin 127.0.0.1:ADMIN transfer      Break:   kill -9 ${pid[a]}      Ctrl-C ends all"
}

run_three() {
    local name i=0
    names="a b c"
    write_members && write_certificates || return 1 # set -e means nothing in here
    for name in $names; do
        choose_port "port[$name]" $((${PORT:-6379} + i))
        choose_port "reader[$name]" $((${READER_PORT:-6479} + i))
        choose_port "admin[$name]" $((${ADMIN_PORT:-9121} + i))
        write_settings "$name"
        i=$((i + 1))
    done
    for name in $names; do start "$name" "$folder/$name.conf"; done
    wait_until_they_serve || return 1
    [ "$stopping" = yes ] || say_how
    wait_for_the_end ". Start it again:  $binary $folder/NAME.conf"
}

case $nodes in
1) run=run_one ;;
3) run=run_three ;;
*) echo "NODES is 1 or 3" >&2; exit 2 ;;
esac
status=0
$run || status=$?
if [ ${#pid[@]} -gt 0 ]; then # one did not start
    stop
    wait_for_the_end "" || true
fi
for name in data a b c; do end_valkey "$name"; done
exit $status
