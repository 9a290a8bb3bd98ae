#!/usr/bin/env bash
# Runs stock etcdctl through its commands against two systems of three members each, and compares what it
# prints and how it exits, command by command. Ids, hashes, times, sizes, terms, log indexes and ports are
# masked; revisions are not, so both systems must also count alike.
#
#   ETCD=<etcd binary> KELSON=<kelson binary> [ETCDCTL=<etcdctl binary>] compare.sh [--full] [--verbose]
#
#   --full      also `check perf`, which takes a minute for each system
#   --verbose   print both outputs of every command, not only of those that differ
#
# Exit 0: no difference. 1: some command differs. 2: the comparison could not be made.

set -u -o pipefail

# Commands are ended by SIGINT, as a person ends them. Whoever starts this script in the background of another has SIGINT
# ignored for all of it, for good: then `watch` would never end.
if [ -z "${SIGINT_IS_DEFAULT:-}" ]; then
  SIGINT_IS_DEFAULT=1 exec env --default-signal=INT "$BASH" "$0" "$@"
fi
export LC_ALL=C

readonly ETCDCTL=${ETCDCTL:-etcdctl}
export -n ETCDCTL   # etcdctl takes every ETCDCTL_ variable for a flag of its own
FULL=no
VERBOSE=no
for argument in "$@"; do
  case $argument in
    --full) FULL=yes ;;
    --verbose) VERBOSE=yes ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done

give_up() { echo "compare.sh: $*" >&2; exit 2; }

: "${ETCD:?names the etcd binary}" "${KELSON:?names the kelson binary}"
command -v "$ETCDCTL" > /dev/null || give_up "no etcdctl: $ETCDCTL"

SCRATCH=$(mktemp -d) || give_up "no scratch directory"
SERVERS=()   # pids to end
declare -A PORTS   # side -> its three client ports
SIDE=""      # the system commands go to at the moment

clean_up() {
  local pid
  for pid in "${SERVERS[@]}"; do kill -KILL "$pid" 2> /dev/null; done
  wait 2> /dev/null
  rm -rf "$SCRATCH"
}
trap clean_up EXIT
trap 'exit 2' INT TERM

# --- the two systems -------------------------------------------------------------------------------------

is_free() { ! (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

# Prints six ports nobody listens on.
free_ports() {
  local base
  while :; do
    base=$((20000 + RANDOM % 12000))
    for offset in 0 1 2 3 4 5; do is_free $((base + offset)) || continue 2; done
    echo $((base)) $((base + 1)) $((base + 2)) $((base + 3)) $((base + 4)) $((base + 5))
    return
  done
}

# start_system <side> <binary>
start_system() {
  local side=$1 binary=$2 ports name index cluster
  read -r -a ports <<< "$(free_ports)"
  PORTS[$side]="${ports[0]} ${ports[1]} ${ports[2]}"
  cluster="a=http://127.0.0.1:${ports[3]},b=http://127.0.0.1:${ports[4]},c=http://127.0.0.1:${ports[5]}"
  index=0
  for name in a b c; do
    "$binary" --name="$name" --data-dir="$SCRATCH/$side-$name" \
      --listen-client-urls="http://127.0.0.1:${ports[index]}" \
      --advertise-client-urls="http://127.0.0.1:${ports[index]}" \
      --listen-peer-urls="http://127.0.0.1:${ports[index + 3]}" \
      --initial-advertise-peer-urls="http://127.0.0.1:${ports[index + 3]}" \
      --initial-cluster="$cluster" > "$SCRATCH/$side-$name.log" 2>&1 &
    SERVERS+=($!)
    disown
    index=$((index + 1))
  done
}

endpoints() {
  local ports
  read -r -a ports <<< "${PORTS[$SIDE]}"
  echo "127.0.0.1:${ports[0]},127.0.0.1:${ports[1]},127.0.0.1:${ports[2]}"
}

# etcdctl against the first member of the current system.
one() { "$ETCDCTL" --endpoints="$(endpoints | cut -d, -f1)" "$@"; }

# etcdctl against all members of the current system.
all() { "$ETCDCTL" --endpoints="$(endpoints)" "$@"; }

id_of() { one member list | sed -n "s/^\([0-9a-f]*\), started, $1,.*/\1/p"; }

# until_true <what> <command...>: asks again and again, for half a minute.
until_true() {
  local what=$1 tries=0
  shift
  until "$@" > /dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
      tail -n 3 "$SCRATCH/$SIDE"-?.log >&2
      give_up "system $SIDE: gave up waiting for $what"
    fi
    sleep 0.1
  done
}

all_named() { [ "$(one member list | grep -c ', started, ')" = 3 ]; }
leads_first() { one endpoint status | grep -q ', true, false, [0-9]'; }

# Waits for all members and gives the lead to the first, so that both systems have the same leader.
settle() {
  until_true "healthy members" all endpoint health
  until_true "the names of all members" all_named
  leads_first || all move-leader "$(id_of a)" > /dev/null 2>&1
  until_true "the first member to lead" leads_first
}

# --- comparing -------------------------------------------------------------------------------------------

mask() {
  local ports
  read -r -a ports <<< "${PORTS[$SIDE]}"
  sed -E \
    -e '/^(┌|├|└|\+-)/d; s/│/|/g' \
    -e "s#(http://)?127\.0\.0\.1:${ports[0]}\b#client-a#g" \
    -e "s#(http://)?127\.0\.0\.1:${ports[1]}\b#client-b#g" \
    -e "s#(http://)?127\.0\.0\.1:${ports[2]}\b#client-c#g" \
    -e "s#http://127\.0\.0\.1:[0-9]+#peer#g" \
    -e 's/\b[0-9]{15,20}\b/ID/g' \
    -e 's/\b[0-9a-f]{13,16}\b/ID/g' \
    -e 's/("(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|hash)": ?)[0-9]+/\1N/g' \
    -e 's/("(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|Hash)" : )[0-9]+/\1N/g' \
    -e 's/(true|false)(,? \|?) *(true|false)(,? \|?) *[0-9]+(,? \|?) *[0-9]+(,? \|?) *[0-9]+/\1\2 \3\4 TERM\5 INDEX\6 APPLIED/' \
    -e 's/^(\|? *client-[abc](,| *\|) *)[0-9]+(,| *\||$)/\1HASH\3/' \
    -e 's/\b[0-9]+(\.[0-9]+)?(µs|us|ns|ms)/TIME/g; s/\b[0-9]+\.[0-9]+s\b/TIME/g; s/"took": ?"[^"]*"/"took":"TIME"/g' \
    -e 's/2\.1 GB/QUOTA/g; s/\b[0-9.]+ [kM]?B\b/SIZE/g; s/\b-?[0-9]+%/PERCENT/g' \
    -e 's/remaining\([0-9]+s\)/remaining(REST)/; s/"ttl":[0-9]+/"ttl":REST/; s/("TTL" : )[0-9]+/\1REST/' \
    -e 's/^\{"level":.*"msg":("[^"]*").*"error":("[^"]*").*/LOG \1 \2/; s/^\{"level":.*"msg":("[^"]*").*/LOG \1/' \
    -e 's/-{2,}/--/g; s/ {2,}/ /g'
}

STEPS=0
DIFFERENT=()

# compare [--sorted] <title> <command...>: runs the command on both systems. --sorted for output whose order
# follows ids or the speed of members.
compare() {
  local order=cat split='s/},{/},\n{/g' title status
  if [ "$1" = --sorted ]; then order=sort split='s/},{/}\n{/g; s/\[{/[\n{/; s/}\]/}\n]/'; shift; fi
  title=$1
  shift
  for SIDE in A B; do
    "$@" > "$SCRATCH/raw" 2> "$SCRATCH/raw-errors"
    status=$?
    {
      sed "$split" "$SCRATCH/raw" | mask | $order
      mask < "$SCRATCH/raw-errors" | $order | sed 's/^/stderr: /'
      echo "exit $status"
    } > "$SCRATCH/$SIDE"
  done
  if grep -q 'unknown flag' "$SCRATCH/A"; then
    echo "skip  $title: not in this etcdctl"
    return
  fi
  STEPS=$((STEPS + 1))
  if cmp -s "$SCRATCH/A" "$SCRATCH/B"; then
    echo "same  $title"
    [ "$VERBOSE" = no ] || sed 's/^/        /' "$SCRATCH/A"
  else
    echo "DIFF  $title"
    diff --side-by-side --width=160 "$SCRATCH/A" "$SCRATCH/B"
    DIFFERENT+=("$title")
  fi
}

# in_background <lines> <command...>: runs a command that does not end by itself, waits until it has printed
# that many lines and falls silent, interrupts it and prints what it wrote.
in_background() {
  local lines=$1 pid
  shift
  : > "$SCRATCH/long"
  set -m
  "$@" > "$SCRATCH/long" 2>&1 &
  pid=$!
  set +m
  wait_for_silence "$SCRATCH/long" "$lines"
  kill -INT "-$pid"
  wait "$pid" 2> /dev/null
  cat "$SCRATCH/long"
}

# wait_for_silence <file> <lines>: a file that does not come to that many lines is a difference to report, so
# this waits no longer than ten seconds.
wait_for_silence() {
  local before=-1 now tries=0
  while now=$(wc -l < "$1"); [ "$tries" -lt 50 ] && { [ "$now" -lt "$2" ] || [ "$now" != "$before" ]; }; do
    before=$now
    tries=$((tries + 1))
    sleep 0.2
  done
}

has_lines() { [ "$(wc -l < "$1")" -ge "$2" ]; }

# --- commands that need more than one line ---------------------------------------------------------------

txn_of() { printf '%s\n' "$@" | one txn; }
txn_interactive() { printf '%s\n' "$@" | one txn --interactive; }
put_from_stdin() { printf 'from stdin' | one put stdin/key; }
rev() { one get no-such-key -w fields | sed -n 's/^"Revision" : //p'; }
compact_to_now() { one compaction "$(($(rev) + $1))" "${@:2}"; }

# The current lease of each system, as etcdctl names it.
declare -A LEASE
grant() {
  one lease grant "$1" > "$SCRATCH/grant" || return
  LEASE[$SIDE]=$(sed -n 's/^lease \([0-9a-f]*\) granted.*/\1/p' "$SCRATCH/grant")
  cat "$SCRATCH/grant"
}
put_with_lease() { one put "$1" "$2" --lease="${LEASE[$SIDE]}"; }
lease_call() { one lease "$1" "${LEASE[$SIDE]}" "${@:2}"; }

# Watches through stdin: create, an event, progress until it is answered.
watch_interactive() {
  local pid answered=0
  mkfifo "$SCRATCH/stdin"
  : > "$SCRATCH/long"
  one watch --interactive < "$SCRATCH/stdin" > "$SCRATCH/long" 2>&1 &
  pid=$!
  exec 4> "$SCRATCH/stdin"
  echo "watch $* " >&4
  wait_for_silence "$SCRATCH/long" 3
  # A server may drop the request while a watcher is catching up, so it is made until it is answered.
  while ! grep -q 'progress notify' "$SCRATCH/long" && [ "$answered" -lt 100 ]; do
    echo progress >&4
    answered=$((answered + 1))
    sleep 0.1
  done
  kill -INT "$pid"
  exec 4>&-
  wait "$pid" 2> /dev/null
  rm "$SCRATCH/stdin"
  uniq "$SCRATCH/long"
}

watch_with_command() {
  # shellcheck disable=SC2016  # the watch expands it
  in_background 4 one watch "$@" -- \
    sh -c 'echo "$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"'
}

# Two candidates for one lock: the second gets it when the first is interrupted.
lock_in_turn() {
  local first second
  : > "$SCRATCH/first"
  set -m
  one lock turn > "$SCRATCH/first" 2>&1 &
  first=$!
  set +m
  until_true "the first lock" has_lines "$SCRATCH/first" 1
  one lock turn echo second holds > "$SCRATCH/second" 2>&1 &
  second=$!
  until_true "the second in line" second_in_line
  cat "$SCRATCH/second"
  kill -INT "-$first"
  wait "$first" 2> /dev/null
  wait "$second"
  echo "second exits $?"
  cat "$SCRATCH/first" "$SCRATCH/second"
}
second_in_line() { [ "$(one get --prefix turn/ --keys-only | grep -c turn/)" = 2 ]; }

elect_and_listen() {
  local candidate
  : > "$SCRATCH/first"
  set -m
  one elect poll proposal > "$SCRATCH/first" 2>&1 &
  candidate=$!
  set +m
  until_true "the election" has_lines "$SCRATCH/first" 2
  in_background 2 one elect --listen poll
  kill -INT "-$candidate"
  wait "$candidate" 2> /dev/null
  cat "$SCRATCH/first"
  one get --prefix poll/
}

mirror() {
  local pid source
  source=$(endpoints | cut -d, -f1)
  : > "$SCRATCH/mirror"
  set -m
  one make-mirror "$source" --prefix=m/ --dest-prefix=copy/ "$@" > "$SCRATCH/mirror" 2>&1 &
  pid=$!
  set +m
  until_true "the first copy" one_has copy/1 one
  one put m/2 two
  one del m/1
  until_true "the second copy" one_has copy/2 two
  until_true "the copied deletion" one_lacks copy/1
  kill -INT "-$pid"
  wait "$pid" 2> /dev/null
  one get --prefix copy/
}
one_has() { [ "$(one get "$1" --print-value-only)" = "$2" ]; }
one_lacks() { [ -z "$(one get "$1")" ]; }

check_perf() { all check perf --load=s 2>&1 | tr '\r' '\n' | grep -E '^(PASS|FAIL)' | sed -E 's/[0-9.]+/N/g'; }

move_leader_and_back() {
  all move-leader "$(id_of b)"
  echo "exit $?"
  until_true "the second member to lead" not leads_first
  one move-leader "$(id_of c)"   # only asks the first member, which does not lead any more
  echo "exit $?"
  settle
}
not() { ! "$@"; }

# --- the list --------------------------------------------------------------------------------------------

start_system A "$ETCD"
start_system B "$KELSON"
for SIDE in A B; do settle; done

"$ETCDCTL" version | head -n 1
for format in simple json fields table; do
  compare "put -w $format" one put "format/$format" value -w "$format"
  compare "get -w $format" one get format/simple -w "$format"
done
for key in k/1 k/2 k/3 k/10 l/1; do compare "put $key" one put "$key" "value of $key"; done
compare "put an empty value" one put k/empty ""
compare "put again" one put k/2 "another value"
compare "put --prev-kv" one put k/2 "a third value" --prev-kv
compare "put --prev-kv of a new key" one put k/new v --prev-kv
compare "put --ignore-value" one put k/2 --ignore-value
compare "put --ignore-value of an absent key" one put absent --ignore-value
compare "put with an unknown lease" one put k/2 v --lease=4711
compare "put from stdin" put_from_stdin
compare "put an empty key" one put "" v

compare "get" one get k/1
compare "get an absent key" one get absent
compare "get an empty key" one get ""
compare "get a range" one get k/1 k/3
compare "get --prefix" one get --prefix k/
compare "get --prefix of everything" one get --prefix ""
compare "get --from-key" one get --from-key k/3
compare "get --limit" one get --prefix k/ --limit=2
compare "get --limit -w json" one get --prefix k/ --limit=2 -w json
compare "get --rev" one get k/2 --rev=13
compare "get --rev of the future" one get k/2 --rev=100000
for order in ASCEND DESCEND; do
  for target in CREATE KEY MODIFY VALUE VERSION; do
    # Keys of one version may come in any order, so there are none in this range.
    compare "get --order=$order --sort-by=$target" one get k/1 k/20 --order=$order --sort-by=$target
  done
done
compare "get with an unknown order" one get k/1 --order=SIDEWAYS
compare "get --keys-only" one get --prefix k/ --keys-only
compare "get --count-only -w fields" one get --prefix k/ --count-only -w fields
compare "get --print-value-only" one get --prefix k/ --print-value-only
compare "get --consistency=s" one get --prefix k/ --consistency=s
compare "get --consistency=l" one get --prefix k/ --consistency=l
compare "get --min-mod-rev" one get --prefix k/ --min-mod-rev=13 --max-mod-rev=15
compare "get --hex" one get k/1 --hex
compare "get -w json of history" one get k/2 -w json
compare "get --stream" one get --prefix k/ --stream

compare "del" one del k/new
compare "del an absent key" one del absent
compare "del --prev-kv" one del k/10 --prev-kv
compare "del a range" one del --range l/0 l/9
compare "del --prefix" one del --prefix format/
compare "del -w json" one del --prefix stdin/ -w json --prev-kv
compare "del --from-key of nothing" one del --from-key z

compare "txn that succeeds" txn_of 'version("k/1") = "1"' '' 'put k/1 changed' 'get k/1' 'del k/empty' '' \
  'get k/2' ''
compare "txn that fails" txn_of 'value("k/1") = "nonsense"' '' 'put k/1 wrong' '' \
  'get k/1' 'put other right' ''
compare "txn on revisions" txn_of 'mod("k/1") > "1"' 'create("k/2") < "1000"' '' 'get --prefix k/' '' ''
compare "txn on an absent key" txn_of 'create("fresh") = "0"' '' 'put fresh made' '' 'get fresh' ''
compare "txn on it again" txn_of 'create("fresh") = "0"' '' 'put fresh made' '' 'get fresh' ''
compare "txn without anything" txn_of '' '' ''
compare "txn with a duplicate key" txn_of '' 'put k/1 a' 'put k/1 b' '' ''
compare "txn --interactive" txn_interactive 'ver("k/1") > "0"' '' 'get k/1' '' 'get k/2' ''
compare "txn with a malformed comparison" txn_of 'nonsense' '' '' ''

compare "watch --rev" in_background 6 one watch k/2 --rev=2
compare "watch --prefix --rev" in_background 15 one watch --prefix k/ --rev=2
compare "watch --prev-kv" in_background 9 one watch k/2 --rev=2 --prev-kv
compare "watch a range" in_background 3 one watch k/1 k/2 --rev=2
compare "watch -w json" in_background 1 one watch k/1 --rev=2 -w json
compare "watch -w fields" in_background 6 one watch k/1 --rev=2 -w fields
compare "watch --interactive with progress" watch_interactive k/2 --rev=2
compare "watch with a command" watch_with_command k/2 --rev=2
compare "compaction" compact_to_now -3
compare "compaction again" compact_to_now -3
compare "compaction of the future" compact_to_now 100
compare "compaction --physical" compact_to_now 0 --physical
compare "watch of a compacted revision" one watch k/2 --rev=2
compare "get of a compacted revision" one get k/2 --rev=2

compare "lease grant" grant 600
compare "put with a lease" put_with_lease leased/1 one
compare "get of a leased key -w json" one get leased/1 -w json
compare "lease list" one lease list
compare "lease list -w json" one lease list -w json
compare "lease timetolive" lease_call timetolive
compare "lease timetolive --keys" lease_call timetolive --keys
compare "lease timetolive -w json" lease_call timetolive --keys -w json
compare "lease timetolive -w fields" lease_call timetolive -w fields
# Not earlier: a lease lists its keys in any order.
compare "put with a lease, again" put_with_lease leased/2 two
compare "lease keep-alive --once" lease_call keep-alive --once
compare "lease keep-alive --once -w json" lease_call keep-alive --once -w json
compare "lease revoke" lease_call revoke
compare "get after the revocation" one get --prefix leased/
compare "lease revoke again" lease_call revoke
compare "lease timetolive after the revocation" lease_call timetolive
compare "lease keep-alive after the revocation" lease_call keep-alive --once
compare "lease grant below the least" grant 1
compare "lease grant above the most" one lease grant 9000000001

compare "lock with a command" one lock name echo held
compare "lock with a command that fails" one lock name false
compare "lock held until interrupted" in_background 1 one lock name
compare "lock in turn" lock_in_turn
compare "elect and listen" elect_and_listen

for format in simple json table fields; do
  compare --sorted "endpoint health -w $format" all endpoint health -w "$format"
  compare "endpoint status -w $format" all endpoint status -w "$format"
  compare "endpoint hashkv -w $format" all endpoint hashkv -w "$format"
  compare --sorted "member list -w $format" one member list -w "$format"
done
compare --sorted "member list --hex -w json" one member list --hex -w json
compare --sorted "endpoint health --cluster" one endpoint health --cluster
compare --sorted "endpoint status --cluster" one endpoint status --cluster
compare "endpoint health of nobody" one endpoint health --endpoints=127.0.0.1:1 --command-timeout=1s
compare "alarm list" one alarm list
compare "alarm disarm" one alarm disarm
compare "move-leader" move_leader_and_back
compare "move-leader to nobody" all move-leader 1234567890abcdef
compare "defrag" all defrag
compare --sorted "defrag --cluster" one defrag --cluster --command-timeout=30s

compare "put before mirroring" one put m/1 one
compare "make-mirror" mirror

compare "auth status" one auth status
[ "$FULL" = no ] || compare "check perf --load=s" check_perf

echo
if [ "${#DIFFERENT[@]}" = 0 ]; then
  echo "$STEPS commands, no difference"
else
  echo "$STEPS commands, ${#DIFFERENT[@]} differ:"
  printf '  %s\n' "${DIFFERENT[@]}"
  exit 1
fi
