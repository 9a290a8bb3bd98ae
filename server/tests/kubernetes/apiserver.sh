# kube-apiservers of the scripts beside this file, and calls to them. Sourced, not run.
# Uses KUBE_APISERVER, SCRATCH, ARTIFACTS and CLIENT_PORT; adds the pids it starts to STARTED.

API_PORT=""        # the secure port
API_PID=""
CODE=""            # HTTP status of the last call; 000 if there was no answer
BODY=""            # and its body
CALLS=0            # calls made by `call`
SLOWEST_MS=0       # the longest of them

# make_apiserver_secrets: once, before the first apiserver; several share them.
make_apiserver_secrets() {
  openssl genrsa -out "$SCRATCH/service-account.key" 2048 2> /dev/null || return 1
  TOKEN=$(openssl rand -hex 16)
  echo "$TOKEN,first-light,first-light,system:masters" > "$SCRATCH/tokens.csv"
  cat > "$SCRATCH/encryption.yaml" << YAML
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: first, secret: $(openssl rand -base64 32)}]}
  - identity: {}
YAML
}

# start_apiserver <port> [<flag>...]: sets API_PORT and API_PID. Secrets are encrypted at rest; the advertised address is a
# documentation address that nobody connects to.
start_apiserver() {
  local name servers=""
  API_PORT=$1
  shift
  for name in "${MEMBERS[@]}"; do servers+="${servers:+,}https://127.0.0.1:${CLIENT_PORT[$name]}"; done
  "$KUBE_APISERVER" --etcd-servers="$servers" --etcd-cafile="$SCRATCH/pki/ca.crt" \
    --etcd-certfile="$SCRATCH/pki/apiserver.crt" --etcd-keyfile="$SCRATCH/pki/apiserver.key" \
    --encryption-provider-config="$SCRATCH/encryption.yaml" \
    --bind-address=127.0.0.1 --secure-port="$API_PORT" --advertise-address=192.0.2.1 \
    --cert-dir="$SCRATCH/certificates-$API_PORT" \
    --token-auth-file="$SCRATCH/tokens.csv" --authorization-mode=RBAC --anonymous-auth=false \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$SCRATCH/service-account.key" \
    --service-account-signing-key-file="$SCRATCH/service-account.key" \
    --service-cluster-ip-range=10.0.0.0/24 \
    --v=2 "$@" >> "$ARTIFACTS/kube-apiserver.log" 2>&1 &
  API_PID=$!
  STARTED+=($!)
}

# since <minor version>: prints whether the apiserver is as new as that.
since() {
  local version
  version=$("$KUBE_APISERVER" --version)   # Kubernetes v1.37.2
  version=${version#*v1.}
  [ "${version%%.*}" -ge "$1" ] && echo true || echo false
}

api_url() { echo "https://127.0.0.1:$API_PORT$1"; }

# The apiserver's certificate is its own, made at its start; the token is the proof of either side here.
api_curl() { curl -s -k --http1.1 -H "Authorization: Bearer $TOKEN" "$@"; }

# call <method> <path> [<body> [<content type>]]: sets CODE and BODY. 60 s is the apiserver's own limit.
call() {
  local method=$1 path=$2 answer tail seconds milliseconds
  local options=(-m 70 -X "$method" -w '\n%{http_code} %{time_total}')
  [ $# -ge 3 ] && options+=(-H "Content-Type: ${4:-application/json}" --data-binary "$3")
  answer=$(api_curl "${options[@]}" "$(api_url "$path")")
  tail=${answer##*$'\n'}
  BODY=${answer%$'\n'*}
  CODE=${tail%% *}
  seconds=${tail##* }
  milliseconds=$((10#${seconds%.*} * 1000 + 10#$(cut -c 1-3 <<< "${seconds#*.}000")))
  CALLS=$((CALLS + 1))
  [ "$milliseconds" -gt "$SLOWEST_MS" ] && SLOWEST_MS=$milliseconds
  return 0
}

# json <jq filter> [<jq options>]: reads BODY.
json() { jq -r "$@" <<< "$BODY" 2> /dev/null; }

apiserver_is_ready() {
  kill -0 "$API_PID" 2> /dev/null || return 1
  [ "$(api_curl -m 5 "$(api_url /readyz)")" = ok ]
}

# keep_metrics <name>: for a look afterwards at what the apiserver asked of its store.
keep_metrics() { api_curl -m 20 "$(api_url /metrics)" > "$ARTIFACTS/$1.metrics"; }

# What would show in the apiserver's log if the store broke one of its promises.
log_is_clean() {
  ! grep -E 'PrevKv=nil|panic:|panicked: true|Cache consistency check failed|ache.*inconsisten|missing a revision' \
    "$ARTIFACTS/kube-apiserver.log" | cut -c 1-300 | grep .
}
