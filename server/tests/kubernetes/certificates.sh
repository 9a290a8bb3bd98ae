# Certificates as kubeadm makes them for etcd: one authority; for the members one pair towards clients and one towards peers,
# each for both directions; one for the apiserver. Sourced, not run. Uses SCRATCH.

CA=$SCRATCH/pki/ca

# sign <name> <common name> <extended key usage>: a key and a certificate for 127.0.0.1, beside each other. Files appear by
# rename, so that who re-reads them never sees half of one.
sign() {
  local name=$1 common=$2 usage=$3 target=$SCRATCH/pki/$1
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$common" \
    -keyout "$target.key.new" -out "$target.csr" 2> /dev/null || return 1
  openssl x509 -req -in "$target.csr" -CA "$CA.crt" -CAkey "$CA.key" -set_serial "0x$(openssl rand -hex 8)" -days 2 \
    -extfile <(printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$usage") \
    -out "$target.crt.new" 2> /dev/null || return 1
  mv "$target.key.new" "$target.key" && mv "$target.crt.new" "$target.crt" && rm -f "$target.csr"
}

# make_authority: once.
make_authority() {
  mkdir -p "$SCRATCH/pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=etcd-ca" -days 2 \
    -addext keyUsage=critical,keyCertSign,digitalSignature -keyout "$CA.key" -out "$CA.crt" 2> /dev/null
}

# make_certificates: all of them, also anew while they are in use.
make_certificates() {
  sign server member serverAuth,clientAuth &&
    sign peer member serverAuth,clientAuth &&
    sign apiserver kube-apiserver-etcd-client clientAuth
}
