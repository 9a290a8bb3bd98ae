#!/usr/bin/env bash
# Evaluates the alert rules and dashboard queries of etcd's own mixin on what three members measure, with Prometheus' own
# engine: every expression has to be understood, every metric in it has to be there, no alert may be raised while all is
# well, and those that page operators have to be raised when two members are gone.
#
#   KELSON=<kelson binary> mixin.sh
#
#   KELSON           the store; an etcd serves as well
#   MIXIN            directory contrib/mixin of etcd's module; by default that of go.etcd.io/etcd/v3 v3.7.1
#   ABSENT           metrics that need not be there, with commas between
#   ARTIFACTS        optional directory that keeps the logs of the members
#   SKIP=1           exit with 0, not 2, if a binary or tool is not there
#
# Everything listens on loopback, and everything started here is ended here. Takes a minute, and the first time some more for
# Prometheus' modules. Exit 0: every step is ok. 1: some step failed. 2: the steps could not be run.

set -u -o pipefail
export LC_ALL=C
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
KUBERNETES=$HERE/../kubernetes

# shellcheck source=../kubernetes/steps.sh
. "$KUBERNETES/steps.sh"
need_tools curl go openssl jq
need_binaries KELSON
make_scratch
# shellcheck source=../kubernetes/certificates.sh
. "$KUBERNETES/certificates.sh"
# shellcheck source=../kubernetes/members.sh
. "$KUBERNETES/members.sh"

finish() {
  echo "mixin: $STEPS steps, $FAILURES failed; store $("$KELSON" --version | head -n 2 | tr '\n' ' ')"
  [ "$FAILURES" = 0 ] && exit 0
  exit 1
}

if [ -z "${MIXIN:-}" ]; then
  MIXIN=$(go mod download -json go.etcd.io/etcd/v3@v3.7.1 2> /dev/null | jq -r '.Dir // empty')/contrib/mixin
fi
[ -e "$MIXIN/config.libsonnet" ] || cannot_run "no mixin in MIXIN=$MIXIN"
(cd "$HERE" && go build -o "$SCRATCH/mixin" .) || cannot_run "the program beside this file cannot be built"

evaluate() {
  local name targets=""
  for name in "${MEMBERS[@]}"; do targets+="${targets:+,}http://127.0.0.1:${METRICS_PORT[$name]}"; done
  "$SCRATCH/mixin" --mixin="$MIXIN" --targets="$targets" --absent="${ABSENT:-}" "$@"
}

MEMBER_FLAGS=(--metrics=extensive)   # etcdGRPCRequestsSlow is about histograms that are not there without it
read -r -a ports <<< "$(free_ports 9)"
choose_member_ports "${ports[@]}"
make_authority && make_certificates || cannot_run "openssl makes no certificates"
for name in "${MEMBERS[@]}"; do start_member "$name"; done
check_soon 60 "three members are healthy" all_healthy
[ "$FAILURES" = 0 ] || { tell_logs; finish; }
check "all is measured, and no alert raised" evaluate
for name in a b; do kill_member "$name"; done
without_leader() { [ "$(member_metric c etcd_server_has_leader)" = 0 ]; }
check_soon 30 "the third one says that it has no leader" without_leader
check "the alerts for lost members are raised" evaluate \
  --raised=etcdMembersDown,etcdInsufficientMembers,etcdNoLeader
finish
