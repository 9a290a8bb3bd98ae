#!/usr/bin/env bash
# Builds an unmodified kube-apiserver from its published Go module.
#
#   build-kube-apiserver.sh <output file> [version, such as v1.36.3; the newest release if left out]
#
# k8s.io/kubernetes cannot be built by `go install`: its go.mod replaces the k8s.io modules it lives together
# with by directories of its own repository. The same modules are published under v0.<minor>.<patch>, so an
# otherwise empty module that replaces each by that version builds the same program. Needs go and jq, about
# 4 GB of memory and, on two cores, ten minutes.

set -eu -o pipefail

[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
output=$(realpath -m "$1")
workshop=$(mktemp -d)
trap 'rm -rf "$workshop"' EXIT
cd "$workshop"
export GOFLAGS=-mod=mod

version=${2:-$(go list -m -versions k8s.io/kubernetes | tr ' ' '\n' | grep -E '^v1\.[0-9]+\.[0-9]+$' | sort -V | tail -n 1)}
published=v0.${version#v1.}
minor=${published#v0.}
minor=${minor%%.*}

go mod init apiserver
go mod edit -require "k8s.io/kubernetes@$version"
its_go_mod=$(go mod download -json "k8s.io/kubernetes@$version" | jq -r .GoMod)
for module in $(grep -oE 'k8s\.io/[a-z-]+ => \./staging' "$its_go_mod" | cut -d ' ' -f 1); do
  go mod edit -replace "$module=$module@$published"
done
cat > import.go <<'GO'
//go:build tools

package apiserver

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
GO
go mod tidy -e > tidy.log 2>&1 || true   # complains about tests of other modules that are not published

names=k8s.io/component-base/version
go build -o "$output" \
  -ldflags "-s -w -X $names.gitVersion=$version -X $names.gitMajor=1 -X $names.gitMinor=$minor" \
  k8s.io/kubernetes/cmd/kube-apiserver
"$output" --version
