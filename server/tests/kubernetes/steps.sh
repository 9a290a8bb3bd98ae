# Steps that are reported one by one, and the end of all that was started. Sourced, not run.
# The head of the script that uses it says what it does and needs; it is shown to whom something is missing.

cannot_run() {
  echo "${0##*/}: $*" >&2
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
  [ -n "${SKIP:-}" ] && echo "${0##*/}: SKIPPED" >&2 && exit 0
  exit 2
}

need_tools() {
  local tool
  for tool in "$@"; do command -v "$tool" > /dev/null || cannot_run "$tool is not installed"; done
}

# need_binaries <variable>...: each names an executable file.
need_binaries() {
  local binary
  for binary in "$@"; do
    [ -n "${!binary:-}" ] || cannot_run "$binary is not set"
    [ -x "$(command -v "${!binary}")" ] || cannot_run "$binary=${!binary} is not an executable file"
  done
}

STARTED=()   # pids to end

# make_scratch: sets SCRATCH, and ARTIFACTS if nobody has. Both end with the script, but for an ARTIFACTS of somebody's own.
make_scratch() {
  SCRATCH=$(mktemp -d) || cannot_run "no scratch directory"
  ARTIFACTS=${ARTIFACTS:-$SCRATCH}
  mkdir -p "$ARTIFACTS" || cannot_run "no directory $ARTIFACTS"
  trap clean_up EXIT
  trap 'exit 2' INT TERM
}

clean_up() {
  local pid
  for pid in "${STARTED[@]}"; do kill -KILL "$pid" 2> /dev/null; done
  wait 2> /dev/null
  rm -rf "$SCRATCH"
}

STEPS=0
FAILURES=0

ok() { STEPS=$((STEPS + 1)); echo "ok      $*"; }
failed() { STEPS=$((STEPS + 1)); FAILURES=$((FAILURES + 1)); echo "FAILED  $*"; }

# check <title> <command...>: one step, ok if the command succeeds.
check() {
  local title=$1
  shift
  if "$@"; then ok "$title"; else failed "$title"; fi
}

# until_true <seconds> <command...>: asks again and again.
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# check_soon <seconds> <title> <command...>
check_soon() { check "$2" until_true "$1" "${@:3}"; }

# The last words of everything, where nothing that follows could work.
tell_logs() { tail -n 5 "$ARTIFACTS"/member-?.log "$ARTIFACTS/kube-apiserver.log" 2> /dev/null | cut -c 1-400; }
