#!/usr/bin/env bash
# Works with two unmodified kube-apiservers on three members over mutual TLS as controllers do: informers over ConfigMaps,
# encrypted Secrets, Deployments and a custom resource, through ten thousand lives of objects while members are killed, the
# leader is moved and one of the apiservers is killed; controllers that elect a leader; all members restarted in order under
# load, in which no call may fail; lists of 20,000 objects in pages. No event may be lost or doubled, every cache has to end as
# a fresh list is, and the informers of the apiserver that is left alone may not list a second time. Prints latencies and the
# store's CPU before the faults, to be held beside etcd's; with -lives=0, nothing else is done.
#
#   KUBE_APISERVER=<binary> KELSON=<kelson binary> informers.sh [<flag of the program in informers/>...]
#
#   KUBE_APISERVER   build-kube-apiserver.sh beside this file makes one
#   KELSON           the store; an etcd 3.6 or newer serves as well
#   ARTIFACTS        optional directory that keeps the logs of all processes and the metrics of the apiservers
#   LOST_WRITES=ok   count the calls that fail while members are restarted in order, but pass: see first-light.sh
#   SKIP=1           exit with 0, not 2, if a binary or tool is not there
#
# Everything listens on loopback, and everything started here is ended here. Takes about six minutes.
# Exit 0: every step is ok. 1: some step failed. 2: the steps could not be run.

set -u -o pipefail
export LC_ALL=C
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2

# shellcheck source=steps.sh
. "$HERE/steps.sh"
need_tools curl go openssl
need_binaries KUBE_APISERVER KELSON
make_scratch
# shellcheck source=certificates.sh
. "$HERE/certificates.sh"
# shellcheck source=members.sh
. "$HERE/members.sh"
# shellcheck source=apiserver.sh
. "$HERE/apiserver.sh"

(cd "$HERE/informers" && go build -o "$SCRATCH/informers" .) || cannot_run "the program in informers/ cannot be built"

finish() {
  echo "informers: $STEPS steps, $FAILURES failed; store $("$KELSON" --version | head -n 2 | tr '\n' ' ')," \
    "apiserver $("$KUBE_APISERVER" --version)"
  [ "$FAILURES" = 0 ] && exit 0
  exit 1
}

give_up() {
  tell_logs
  finish
}

# The apiserver that is killed, and the one that is left alone.
FIRST_PORT=""
LAST_PORT=""
FIRST_PID=""

# Both tell of each compaction in their log.
COMPACTOR=(--etcd-compaction-interval=60s --vmodule=compact=4)

start_first() {
  start_apiserver "$FIRST_PORT" "${COMPACTOR[@]}"
  FIRST_PID=$API_PID
}

boot() {
  local ports name
  read -r -a ports <<< "$(free_ports 11)"
  choose_member_ports "${ports[@]:0:9}"
  FIRST_PORT=${ports[9]}
  LAST_PORT=${ports[10]}
  make_authority && make_certificates && make_apiserver_secrets || cannot_run "openssl makes no certificates"
  for name in "${MEMBERS[@]}"; do start_member "$name"; done
  check_soon 60 "three members are healthy" all_healthy
  [ "$FAILURES" = 0 ] || give_up
  start_apiserver "$LAST_PORT" "${COMPACTOR[@]}"
  check_soon 120 "the apiserver that is left alone is ready" apiserver_is_ready
  start_first
  check_soon 120 "the apiserver that will be killed is ready" apiserver_is_ready
  [ "$FAILURES" = 0 ] || give_up
}

# Milliseconds of CPU that all members have used.
members_cpu() {
  local name total=0 fields
  for name in "${MEMBERS[@]}"; do
    read -r -a fields < "/proc/${MEMBER_PID[$name]}/stat"
    total=$((total + fields[13] + fields[14]))
  done
  echo $((total * 1000 / $(getconf CLK_TCK)))
}

FAULTS=0
LOSSY=false
[ "${LOST_WRITES:-}" = ok ] && LOSSY=true
is_lossless() { [ "$1" = 0 ] || [ "$LOSSY" = true ]; }

# strike: the next fault, and waits until all is well again.
strike() {
  local name
  FAULTS=$((FAULTS + 1))
  case $((FAULTS % 4)) in
    1) name=$(follower) && kill_member "$name" ;;
    2) name=$(leader) && kill_member "$name" ;;
    3) name=$(leader) && stop_member "$name" ;; # hands over first
    0)
      kill -KILL "$FIRST_PID"
      wait "$FIRST_PID" 2> /dev/null
      sleep 1
      start_first
      until_true 120 apiserver_is_ready || failed "the apiserver is not back"
      return
      ;;
  esac
  [ -n "$name" ] || { failed "nobody to strike"; return; }
  sleep $((FAULTS % 3))
  start_member "$name"
  until_true 60 member_is_healthy "$name" || failed "$name is not back"
}

# roll: each member stopped and started in order, one after the other.
roll() {
  local name
  for name in "${MEMBERS[@]}"; do
    sleep 2
    stop_member "$name"
    sleep 1
    start_member "$name"
    until_true 60 member_is_healthy "$name" || failed "$name is not back"
  done
  sleep 2
}

# Requests that both apiservers have answered with a 5xx since their start. Clients may not see them all: they repeat some.
server_errors() {
  for API_PORT in "$FIRST_PORT" "$LAST_PORT"; do
    api_curl -m 20 "$(api_url /metrics)" | grep -E '^apiserver_request_total\{.*code="5'
  done | awk '{ total += $NF } END { print total + 0 }'
}

# follow <flag>...: runs the program; counts its steps as ours, measures between its marks and strikes between others.
follow() {
  local line part begun="" ended="" striking="" next=0 cpu=0 errors=0
  exec 3< <("$SCRATCH/informers" --servers="https://127.0.0.1:$FIRST_PORT,https://127.0.0.1:$LAST_PORT" --token="$TOKEN" \
    --crd="$HERE/virtual-machine-crd.json" --rolled="$SCRATCH/rolled" --streams="$(since 34)" \
    --lossy="$LOSSY" "$@" 2> "$ARTIFACTS/informers.log"; echo "ended $?")
  while [ -z "$ended" ]; do
    part=""
    if IFS= read -r -t 2 -u 3 part; then
      line=$begun$part
      begun=""
    else
      line=""
      begun+=$part   # the time is up, maybe within a line
    fi
    case $line in
      "ok      "*) ok "${line#ok      }" ;;
      "FAILED  "*) failed "${line#FAILED  }" ;;
      "begin calm") cpu=$(members_cpu) ;;
      "end calm") echo "        the members used $(($(members_cpu) - cpu)) ms of CPU meanwhile" ;;
      "begin faults") striking=yes ;;
      "end faults") striking="" && ok "$FAULTS faults meanwhile" ;;
      "begin rolling")
        errors=$(server_errors)
        roll
        touch "$SCRATCH/rolled"
        ;;
      "end rolling")
        errors=$(($(server_errors) - errors))
        check "all members restarted in order: $errors requests answered with a 5xx" is_lossless "$errors"
        ;;
      "ended "*) ended=${line#ended } ;;
      "") ;;
      *) echo "$line" ;;
    esac
    if [ -n "$striking" ] && [ "$SECONDS" -ge "$next" ]; then
      strike
      next=$((SECONDS + 4))
    fi
  done
  exec 3<&-
  [ "$ended" = 0 ] || { [ "$ended" = 1 ] && [ "$FAILURES" != 0 ]; } ||
    failed "the program ended with $ended: $(tail -n 3 "$ARTIFACTS/informers.log")"
}

# compactors_share: both log into one file, with the time of day. Where two work that do not know of each other, there are
# two compactions in an interval.
compactors_share() {
  grep -oE '^I[0-9]{4} [0-9:]{8}\.[0-9]+ +[0-9]+ compact.go:[0-9]+\] etcd: compacted rev' "$ARTIFACTS/kube-apiserver.log" |
    awk '{ split($2, time, ":"); now = (time[1] * 60 + time[2]) * 60 + time[3]
      if (NR > 1 && (now - before + 86400) % 86400 < 55) exit 1
      before = now } END { if (NR == 0) exit 1 }'
}

# metric_is_counted <metric with labels, a regular expression>: some sample of the apiserver left alone is above zero.
metric_is_counted() { grep -E "^$1" "$ARTIFACTS/end.metrics" | grep -qvE ' 0$'; }

closing() {
  API_PORT=$LAST_PORT
  keep_metrics end
  check "reads were served from the watch cache, as fresh as the store" \
    metric_is_counted 'apiserver_watch_cache_consistent_read_total\{.*success="true"'
  check "secrets went through encryption" \
    metric_is_counted 'apiserver_storage_transformation_operations_total\{.*transformer_prefix="k8s:enc:aescbc'
  if [ "$(since 37)" = true ]; then
    check "lists came from the store as streams" \
      metric_is_counted 'grpc_client_handled_total\{grpc_code="OK",grpc_method="RangeStream"'
  fi
  [ "$FAULTS" = 0 ] || check "the apiservers share the compactor: one compaction in an interval" compactors_share
  check "nothing in the apiservers' log tells of a broken promise" log_is_clean
  check_soon 30 "all members are healthy" all_healthy
}

boot
follow "$@"
closing
finish
