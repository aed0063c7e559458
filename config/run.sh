#!/bin/bash
# One node with a Valkey of its own in build/run, in the foreground: Ctrl-C ends both. `make run` calls it.
# Ports: 6379 and 9121 if they are free, else any. PORT=n and ADMIN_PORT=n choose.
set -eu
binary=$1
folder=${RUN_DIR:-build/run}

port_is_free() { ! (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
choose_port() { # wanted
    local port=$1
    while ! port_is_free "$port"; do port=$((20000 + RANDOM % 10000)); done
    echo "$port"
}
port=${PORT:-$(choose_port 6379)}
admin_port=${ADMIN_PORT:-$(choose_port 9121)}
mkdir -p "$folder"

"$binary" config/holdfast.conf --port "$port" --admin-port "$admin_port" --valkey-spawn yes --data-dir "$folder/data" &
pid=$!
# Ctrl-C reaches the whole process group; holdfast ends its Valkey and itself. We wait for that.
trap 'kill -TERM "$pid" 2> /dev/null || true' INT TERM
for _ in $(seq 300); do
    kill -0 "$pid" 2> /dev/null || { echo "holdfast did not start" >&2; wait "$pid"; exit 1; }
    [ "$(timeout 2 valkey-cli -p "$port" ping 2> /dev/null || true)" != PONG ] || break
    sleep 0.1
done
echo
echo "Talk to it:  valkey-cli -p $port        metrics: http://127.0.0.1:$admin_port/metrics        Ctrl-C ends it"
status=0
while kill -0 "$pid" 2> /dev/null; do
    status=0
    wait "$pid" || status=$? # a signal interrupts wait: ask again
done
exit "$status"
