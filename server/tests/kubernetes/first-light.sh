#!/usr/bin/env bash
# Runs an unmodified kube-apiserver on three members over mutual TLS and works with it as its users do: a namespace,
# ConfigMaps, an encrypted Secret, a custom resource with spec and status; applies and patches, finalizers, lists in pages,
# watches, stale writes, events that expire, compaction. One member is killed with SIGKILL meanwhile, then the leader; then
# all certificates are replaced and all members restarted in order, one after the other; and no call may fail.
#
#   KUBE_APISERVER=<binary> KELSON=<kelson binary> first-light.sh
#
#   KUBE_APISERVER   build-kube-apiserver.sh beside this file makes one; tested with 1.33, 1.36 and 1.37
#   KELSON           the store; an etcd 3.6 or newer serves as well, to tell whose fault a failure is
#   ARTIFACTS        optional directory that keeps the logs of all processes and the apiserver's metrics
#   LOST_WRITES=ok   count the writes that fail while the leader is replaced, but pass: etcd loses those that
#                    its followers had passed on to the lost leader
#   SKIP=1           exit with 0, not 2, if a binary or tool is not there
#
# Everything listens on loopback, and everything started here is ended here. Takes about a minute.
# Exit 0: every step is ok. 1: some step failed. 2: the steps could not be run.

set -u -o pipefail
export LC_ALL=C
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2

# shellcheck source=steps.sh
. "$HERE/steps.sh"
need_tools curl jq openssl
need_binaries KUBE_APISERVER KELSON
make_scratch
# shellcheck source=certificates.sh
. "$HERE/certificates.sh"
# shellcheck source=members.sh
. "$HERE/members.sh"
# shellcheck source=apiserver.sh
. "$HERE/apiserver.sh"

# expect <title> <HTTP status> [<jq filter that must be true of the answer>]: one step about the last call.
expect() {
  local title=$1 code=$2 filter=${3:-true}
  if [ "$CODE" = "$code" ] && [ "$(json "$filter")" = true ]; then
    ok "$title"
  else
    failed "$title: HTTP $CODE, wanted $code and $filter: $(head -c 600 <<< "$BODY")"
  fi
}

finish() {
  echo "first-light: $STEPS steps, $FAILURES failed; $CALLS apiserver calls, slowest $SLOWEST_MS ms;" \
    "store $("$KELSON" --version | head -n 2 | tr '\n' ' '), apiserver $("$KUBE_APISERVER" --version)"
  [ "$FAILURES" = 0 ] && exit 0
  exit 1
}

# Ends the run where nothing that follows could work.
give_up() {
  tell_logs
  finish
}

# --- what is written -------------------------------------------------------------------------------------

readonly NAMESPACE=/api/v1/namespaces/first-light
readonly CRDS=/apis/apiextensions.k8s.io/v1/customresourcedefinitions
readonly MACHINES=/apis/example.com/v1/namespaces/first-light/virtualmachines
readonly MERGE=application/merge-patch+json

# machine <name> <cpus>
machine() {
  jq -n --arg name "$1" --argjson cpus "$2" '{apiVersion: "example.com/v1", kind: "VirtualMachine",
    metadata: {name: $name}, spec: {cpus: $cpus, memory: "2Gi", running: true}}'
}

EXPECTED_EVENTS=()   # what the watch has to see, in order: "<type> <name>"

create_machine() {
  call POST "$MACHINES" "$(machine "$1" 2)"
  [ "$CODE" = 201 ] && EXPECTED_EVENTS+=("ADDED $1")
}

set_phase() {
  call PATCH "$MACHINES/$1/status" "{\"status\":{\"phase\":\"$2\"}}" "$MERGE"
  [ "$CODE" = 200 ] && EXPECTED_EVENTS+=("MODIFIED $1")
}

delete_machine() {
  call DELETE "$MACHINES/$1"
  [ "$CODE" = 200 ] && EXPECTED_EVENTS+=("DELETED $1")
}

# --- watching --------------------------------------------------------------------------------------------

# watch_machines <file> <query>: follows the events into the file, for ten minutes at most.
watch_machines() {
  api_curl -N -m 600 "$(api_url "$MACHINES?watch=true&$2")" > "$1" 2> /dev/null &
  WATCH_PID=$!
  STARTED+=($!)
}

# watched <file> <jq filter>: the filter's output for each whole line that has arrived.
watched() { jq -R -r "fromjson? | $2" "$1" 2> /dev/null; }

seen_events() { watched "$SCRATCH/watch" 'select(.type != "BOOKMARK") | "\(.type) \(.object.metadata.name)"'; }
watch_is_complete() { [ "$(seen_events | wc -l)" -ge "${#EXPECTED_EVENTS[@]}" ]; }
watch_equals_writes() { diff <(printf '%s\n' "${EXPECTED_EVENTS[@]}") <(seen_events); }
watch_is_ascending() {
  watched "$SCRATCH/watch" '.object.metadata.resourceVersion' > "$SCRATCH/versions"
  sort -n -c "$SCRATCH/versions"
}
watch_is_alive() { kill -0 "$WATCH_PID" 2> /dev/null; }

# --- the steps -------------------------------------------------------------------------------------------

boot() {
  local ports name
  read -r -a ports <<< "$(free_ports 10)"
  choose_member_ports "${ports[@]:0:9}"
  make_authority && make_certificates || cannot_run "openssl makes no certificates"
  for name in "${MEMBERS[@]}"; do start_member "$name"; done
  check_soon 60 "three members are healthy" all_healthy
  [ "$FAILURES" = 0 ] || give_up
  # Short, so that both happen while the steps run.
  make_apiserver_secrets && start_apiserver "${ports[9]}" --etcd-compaction-interval=10s --event-ttl=5s
  check_soon 120 "kube-apiserver is ready" apiserver_is_ready
  [ "$FAILURES" = 0 ] || give_up
  keep_metrics start
}

built_in_objects() {
  local version
  call POST /api/v1/namespaces '{"metadata":{"name":"first-light"}}'
  expect "namespace created" 201 '.status.phase == "Active"'
  call POST "$NAMESPACE/configmaps" '{"metadata":{"name":"settings"},"data":{"colour":"blue"}}'
  expect "ConfigMap created" 201
  version=$(json .metadata.resourceVersion)
  call POST "$NAMESPACE/configmaps" '{"metadata":{"name":"settings"}}'
  expect "ConfigMap created a second time is refused" 409 '.reason == "AlreadyExists"'
  call PUT "$NAMESPACE/configmaps/settings" \
    "{\"metadata\":{\"name\":\"settings\",\"resourceVersion\":\"$version\"},\"data\":{\"colour\":\"green\"}}"
  expect "ConfigMap updated" 200 ".metadata.resourceVersion != \"$version\""
  call PUT "$NAMESPACE/configmaps/settings" \
    "{\"metadata\":{\"name\":\"settings\",\"resourceVersion\":\"$version\"},\"data\":{\"colour\":\"red\"}}"
  expect "ConfigMap update from an old version is refused" 409 '.reason == "Conflict"'
  call GET "$NAMESPACE/configmaps/settings"
  expect "ConfigMap read" 200 '.data.colour == "green"'
  call PATCH "$NAMESPACE/configmaps/settings" \
    "{\"data\":{\"large\":\"$(head -c 60000 /dev/zero | tr '\0' x)\"}}" "$MERGE"
  expect "ConfigMap of 60 kB patched" 200 '.data.large | length == 60000'
}

is_stored() { grep -rqF "$1" "$SCRATCH"/member-?; }
is_not_stored() { ! is_stored "$1"; }

# The other ways in which an object is written: applied, patched, on conditions, with finalizers.
ways_to_write() {
  local settings=$NAMESPACE/configmaps/settings apply=application/apply-patch+yaml uid
  call PATCH "$NAMESPACE/configmaps/applied?fieldManager=first" \
    '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"a":"1"}}' "$apply"
  expect "object created by server-side apply" 201 '.data == {"a": "1"}'
  call PATCH "$NAMESPACE/configmaps/applied?fieldManager=second" \
    '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"b":"2"}}' "$apply"
  expect "another manager applies a field of its own" 200 '.data == {"a": "1", "b": "2"}'
  call PATCH "$NAMESPACE/configmaps/applied?fieldManager=second" \
    '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"a":"3","b":"2"}}' "$apply"
  expect "and is refused the first one's" 409 '.details.causes[0].reason == "FieldManagerConflict"'
  call PATCH "$settings" '[{"op":"test","path":"/data/colour","value":"green"},
    {"op":"replace","path":"/data/colour","value":"red"}]' application/json-patch+json
  expect "JSON patch" 200 '.data.colour == "red"'
  call PATCH "$settings" '[{"op":"test","path":"/data/colour","value":"green"}]' application/json-patch+json
  expect "JSON patch whose test fails is refused" 422
  call PATCH "$settings" '{"metadata":{"finalizers":["example.com/kept"]},"data":{"colour":"green"}}' \
    application/strategic-merge-patch+json
  expect "strategic merge patch adds a finalizer" 200 '.metadata.finalizers == ["example.com/kept"]'
  uid=$(json .metadata.uid)
  call DELETE "$settings" '{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}'
  expect "deletion on the condition of another uid is refused" 409
  call DELETE "$settings" "{\"preconditions\":{\"uid\":\"$uid\"}}"
  expect "deletion waits for the finalizer" 200 '.metadata.deletionTimestamp != null'
  call GET "$settings"
  expect "the object is still there" 200
  call PATCH "$settings" '{"metadata":{"finalizers":null}}' "$MERGE"
  expect "the finalizer is done" 200
  call GET "$settings"
  expect "and the object with it" 404
  call POST "$NAMESPACE/configmaps" '{"metadata":{"name":"settings"},"data":{"colour":"green"}}'
  expect "an object of the same name is a new one" 201 ".metadata.uid != \"$uid\""
  call POST "$NAMESPACE/secrets" '{"metadata":{"name":"word"},"stringData":{"word":"unspoken-word"}}'
  expect "Secret created, encrypted at rest" 201
  call GET "$NAMESPACE/secrets/word"
  expect "Secret read" 200 '.data.word == "dW5zcG9rZW4td29yZA=="'
  check "what is not secret is in the members' files as it is" is_stored "example.com/kept"
  check "the Secret's word is not" is_not_stored "unspoken-word"
}

too_large_object() {
  jq -n --arg large "$(head -c 100000 /dev/zero | tr '\0' x)" \
    '{apiVersion: "example.com/v1", kind: "VirtualMachine", metadata: {name: "vast"},
      spec: {cpus: 1, memory: ($large * 20)}}' > "$SCRATCH/vast"
  call POST "$MACHINES" "@$SCRATCH/vast"
  CODE=${CODE/413/500}   # 1.36 makes it a 500; the text is the store's in either case
  expect "object of 2 MB is refused as too large" 500 '.message | test("request is too large")'
}

is_established() {
  call GET "$CRDS/virtualmachines.example.com"
  [ "$(json '.status.conditions[] | select(.type == "Established").status')" = True ] || return 1
  call GET "$MACHINES"
  [ "$CODE" = 200 ]
}

custom_resource() {
  local version
  call POST "$CRDS" "$(cat "$HERE/virtual-machine-crd.json")"
  expect "CRD created" 201
  check_soon 30 "CRD is established and served" is_established
  call GET "$MACHINES"
  expect "list of no objects" 200 '.items | length == 0'
  watch_machines "$SCRATCH/watch" "allowWatchBookmarks=true&resourceVersion=$(json .metadata.resourceVersion)"
  create_machine vm-1
  expect "object created" 201 '.metadata.generation == 1'
  version=$(json .metadata.resourceVersion)
  call PUT "$MACHINES/vm-1" "$(machine vm-1 4 | jq ".metadata.resourceVersion = \"$version\"")"
  expect "object's spec updated" 200 '.metadata.generation == 2 and .spec.cpus == 4'
  EXPECTED_EVENTS+=("MODIFIED vm-1")
  set_phase vm-1 Running
  expect "object's status updated apart from its spec" 200 '.metadata.generation == 2 and .status.phase == "Running"'
  call POST "$MACHINES" "$(machine vm-0 0)"
  expect "object that breaks the schema is refused" 422
}

# Five objects in pages of two; what is written between the pages must not show.
pages() {
  local name list_version next
  for name in vm-2 vm-3 vm-4 vm-5; do create_machine $name; done
  call GET "$MACHINES?limit=2"
  expect "first page of two" 200 '[.items[].metadata.name] == ["vm-1", "vm-2"] and .metadata.remainingItemCount == 3'
  list_version=$(json .metadata.resourceVersion)
  next=$(json .metadata.continue)
  create_machine vm-31
  delete_machine vm-4
  call GET "$MACHINES?limit=2&continue=$next"
  expect "second page, as of the first" 200 "[.items[].metadata.name] == [\"vm-3\", \"vm-4\"] and
    .metadata.remainingItemCount == 1 and .metadata.resourceVersion == \"$list_version\""
  next=$(json .metadata.continue)
  call GET "$MACHINES?limit=2&continue=$next"
  expect "last page, as of the first" 200 "[.items[].metadata.name] == [\"vm-5\"] and
    (.metadata.continue // \"\") == \"\" and .metadata.resourceVersion == \"$list_version\""
  call GET "$MACHINES"
  expect "a new list shows what was written since" 200 \
    '[.items[].metadata.name] == ["vm-1", "vm-2", "vm-3", "vm-31", "vm-5"]'
  call GET "$MACHINES?resourceVersion=$list_version&resourceVersionMatch=Exact"
  expect "a list at the old version does not" 200 \
    '[.items[].metadata.name] == ["vm-1", "vm-2", "vm-3", "vm-4", "vm-5"]'
  OLD_VERSION=$list_version
}

initial_events_ended() {
  watched "$SCRATCH/streamed" 'select(.type == "BOOKMARK").object.metadata.annotations[]' | grep -q true
}
streamed_names() { watched "$SCRATCH/streamed" 'select(.type == "ADDED").object.metadata.name' | sort | tr '\n' ' '; }

streaming_list() {
  local main_watch=$WATCH_PID
  watch_machines "$SCRATCH/streamed" \
    "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
  check_soon 10 "streaming list ends its initial events with a bookmark" initial_events_ended
  check "streaming list has all objects" [ "$(streamed_names)" = "vm-1 vm-2 vm-3 vm-31 vm-5 " ]
  kill "$WATCH_PID"
  WATCH_PID=$main_watch
}

# --- members that are killed -----------------------------------------------------------------------------

LOST_CALLS=0

# must <HTTP status> [<jq filter>]: a call that may not fail, whatever happens to members.
must() {
  [ "$CODE" = "$1" ] && [ "$(json "${2:-true}")" = true ] && return
  LOST_CALLS=$((LOST_CALLS + 1))
  echo "        call: HTTP $CODE, wanted $1 ${2:-}: $(json '.message // .kind')"
}

# The life of one object in five calls.
live_through() {
  create_machine "$1"; must 201
  set_phase "$1" Running; must 200
  call GET "$MACHINES/$1"; must 200 '.status.phase == "Running"'
  call GET "$MACHINES"; must 200 "any(.items[].metadata.name; . == \"$1\")"
  delete_machine "$1"; must 200
}

# Reads on and on beside the writer, so that reads are under way when a member dies. Leaves one line for
# each answer that is not 200.
read_on() {
  while [ ! -e "$SCRATCH/stop-reading" ]; do
    call GET "$NAMESPACE/configmaps"
    [ "$CODE" = 200 ] || echo "list $CODE $BODY" >> "$SCRATCH/failed-reads"
    call GET "$NAMESPACE/configmaps/settings"
    [ "$CODE" = 200 ] || echo "get $CODE $BODY" >> "$SCRATCH/failed-reads"
    echo 2 >> "$SCRATCH/reads"
  done
}

# begin_load: readers from here on; what the writer does is counted anew.
begin_load() {
  SLOWEST_BEFORE=$SLOWEST_MS
  SLOWEST_MS=0
  LOST_CALLS=0
  rm -f "$SCRATCH/stop-reading" "$SCRATCH/failed-reads" "$SCRATCH/reads"
  read_on &
  READER=$!
  STARTED+=("$READER")
}

# end_load <title> <calls of the writer>: stops the readers and says what failed since begin_load.
end_load() {
  local title=$1 calls=$2
  touch "$SCRATCH/stop-reading"
  wait "$READER"
  if [ "$LOST_CALLS" != 0 ] && [ "${LOST_WRITES:-}" = ok ]; then
    ok "$title: $LOST_CALLS calls failed, and LOST_WRITES=ok allows it"
  else
    check "$title: none of the $calls calls of a writer failed, slowest $SLOWEST_MS ms" [ "$LOST_CALLS" = 0 ]
  fi
  [ "$SLOWEST_BEFORE" -gt "$SLOWEST_MS" ] && SLOWEST_MS=$SLOWEST_BEFORE
  check "$title: none of $(($(wc -l < "$SCRATCH/reads") * 2)) reads beside failed" [ ! -s "$SCRATCH/failed-reads" ]
  head -n 3 "$SCRATCH/failed-reads" 2> /dev/null | cut -c 1-300
  check "$title: the watch goes on" watch_is_alive
}

# lose_member <title> <name>: kills it between two writes of a steady series. A write that the killed process
# itself was working on would have no known outcome, with any store; every other call has to succeed.
lose_member() {
  local title=$1 name=$2 round
  begin_load
  for round in 1 2 3; do live_through "before-$round"; done
  kill_member "$name"
  for round in 1 2 3 4 5 6; do live_through "after-$round"; done
  end_load "$title ($name) killed" $((9 * 5))
  start_member "$name"
  check_soon 60 "$title ($name) is back and healthy" member_is_healthy "$name"
}

# roll: new certificates, then each member stopped and started in order, under a writer and a reader.
roll() {
  local name round
  begin_load
  live_through before-rotation
  check "all certificates replaced" make_certificates
  for name in "${MEMBERS[@]}"; do
    live_through "before-$name"
    stop_member "$name"
    for round in 1 2 3; do live_through "without-$name-$round"; done
    start_member "$name"
    until_true 60 member_is_healthy "$name" || failed "$name is not back"
    live_through "after-$name"
  done
  end_load "rolling restart" $((16 * 5))
}

# --- what time does --------------------------------------------------------------------------------------

event_is_gone() {
  call GET "$NAMESPACE/events/brief"
  [ "$CODE" = 404 ]
}

is_compacted() {
  call GET "$MACHINES?resourceVersion=$OLD_VERSION&resourceVersionMatch=Exact"
  [ "$CODE" = 410 ]
}

event_with_lease() {
  call POST "$NAMESPACE/events" '{"metadata":{"name":"brief"},"reason":"FirstLight","involvedObject":
    {"kind":"Namespace","name":"first-light","namespace":"first-light"}}'
  expect "event created, to expire after 5 s" 201
}

passing_time() {
  check_soon 60 "event is gone with its lease" event_is_gone
  check_soon 60 "the version of the old list is compacted: 410" is_compacted
}

ending() {
  local name
  call GET "$MACHINES"
  expect "all objects that were not deleted are there" 200 \
    '[.items[].metadata.name] == ["vm-1", "vm-2", "vm-3", "vm-31", "vm-5"]'
  for name in vm-1 vm-2 vm-3 vm-31; do delete_machine $name; done
  call DELETE "$MACHINES"
  expect "collection deleted" 200
  EXPECTED_EVENTS+=("DELETED vm-5")
  check_soon 10 "the watch has seen all ${#EXPECTED_EVENTS[@]} writes" watch_is_complete
  check "each once and in their order" watch_equals_writes
  check "at ascending versions" watch_is_ascending
  call DELETE "$NAMESPACE/configmaps/settings"
  expect "ConfigMap deleted" 200
  call DELETE "$CRDS/virtualmachines.example.com"
  expect "CRD deleted" 200
  call GET /readyz?verbose
  check "kube-apiserver is still ready" [ "$CODE" = 200 ]
}

# The apiserver goes first: its leases and its compactor would keep the revision moving.
closing() {
  keep_metrics end
  check "nothing in kube-apiserver's log tells of a broken promise" log_is_clean
  kill "$API_PID"
  wait "$API_PID" 2> /dev/null
  check_soon 30 "all members are at the same revision" revisions_are_equal
}

boot
built_in_objects
ways_to_write
event_with_lease
custom_resource
too_large_object
pages
[ "$(since 34)" = false ] || streaming_list   # 1.33 has it off
lose_member "a follower" "$(follower)"
lose_member "the leader" "$(leader)"
roll
passing_time
ending
closing
finish
