# The three members of the scripts beside this file: starting, killing and finding their leader. Sourced, not run.
# Uses KELSON, SCRATCH and the certificates there; adds the pids it starts to STARTED.

MEMBERS=(a b c)
MEMBER_FLAGS=()   # beside those that kubeadm gives
declare -A CLIENT_PORT PEER_PORT METRICS_PORT MEMBER_PID

is_free() { ! (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

# free_ports <count>: prints as many consecutive ports that nobody listens on.
free_ports() {
  local base offset
  while :; do
    base=$((20000 + RANDOM % 12000))
    for ((offset = 0; offset < $1; offset++)); do is_free $((base + offset)) || continue 2; done
    seq -s ' ' "$base" $((base + $1 - 1))
    return
  done
}

# choose_member_ports <nine ports>
choose_member_ports() {
  local name
  for name in "${MEMBERS[@]}"; do
    CLIENT_PORT[$name]=$1
    PEER_PORT[$name]=$2
    METRICS_PORT[$name]=$3
    shift 3
  done
}

# start_member <name>: the flags are those that kubeadm gives to etcd.
start_member() {
  local name=$1 other cluster="" pki=$SCRATCH/pki
  for other in "${MEMBERS[@]}"; do cluster+="${cluster:+,}$other=https://127.0.0.1:${PEER_PORT[$other]}"; done
  "$KELSON" --name="$name" --data-dir="$SCRATCH/member-$name" \
    --listen-client-urls="https://127.0.0.1:${CLIENT_PORT[$name]}" \
    --advertise-client-urls="https://127.0.0.1:${CLIENT_PORT[$name]}" \
    --listen-peer-urls="https://127.0.0.1:${PEER_PORT[$name]}" \
    --initial-advertise-peer-urls="https://127.0.0.1:${PEER_PORT[$name]}" \
    --listen-metrics-urls="http://127.0.0.1:${METRICS_PORT[$name]}" \
    --initial-cluster="$cluster" --initial-cluster-state=new \
    --cert-file="$pki/server.crt" --key-file="$pki/server.key" --client-cert-auth=true --trusted-ca-file="$pki/ca.crt" \
    --peer-cert-file="$pki/peer.crt" --peer-key-file="$pki/peer.key" --peer-client-cert-auth=true \
    --peer-trusted-ca-file="$pki/ca.crt" \
    --snapshot-count=10000 --watch-progress-notify-interval=5s --feature-gates=InitialCorruptCheck=true \
    "${MEMBER_FLAGS[@]}" >> "$ARTIFACTS/member-$name.log" 2>&1 &
  MEMBER_PID[$name]=$!
  STARTED+=($!)
}

# Kills with SIGKILL and returns when the process is gone.
kill_member() {
  kill -KILL "${MEMBER_PID[$1]}"
  wait "${MEMBER_PID[$1]}" 2> /dev/null
  return 0
}

# Stops in order, as systemd and kubelet do, and returns when the process is gone.
stop_member() {
  kill -TERM "${MEMBER_PID[$1]}"
  wait "${MEMBER_PID[$1]}" 2> /dev/null
  return 0
}

# member_metric <name> <metric>: its value, or nothing.
member_metric() {
  curl -s -m 2 "http://127.0.0.1:${METRICS_PORT[$1]}/metrics" | sed -n "s/^$2 //p"
}

member_is_healthy() {
  curl -s -m 5 "http://127.0.0.1:${METRICS_PORT[$1]}/health" | grep -q '"health":"true"'
}

all_healthy() {
  local name
  for name in "${MEMBERS[@]}"; do member_is_healthy "$name" || return 1; done
}

# Prints the name of the leader; fails if no member says that it leads.
leader() {
  local name
  for name in "${MEMBERS[@]}"; do
    [ "$(member_metric "$name" etcd_server_is_leader)" = 1 ] && echo "$name" && return
  done
  return 1
}

# Prints the name of a member that does not lead.
follower() {
  local name leading
  leading=$(leader) || return 1
  for name in "${MEMBERS[@]}"; do [ "$name" != "$leading" ] && echo "$name" && return; done
}

revisions_are_equal() {
  local name first
  first=$(member_metric a etcd_debugging_mvcc_current_revision)
  [ -n "$first" ] || return 1
  for name in "${MEMBERS[@]}"; do
    [ "$(member_metric "$name" etcd_debugging_mvcc_current_revision)" = "$first" ] || return 1
  done
}
