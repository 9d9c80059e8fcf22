# Shared by the scripts of this folder: where things are, how progress and failures are told.
# shellcheck shell=bash
set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/macula
# The cluster's name sets it apart from another one on the same machine; so do its addresses.
name=${MACULA_CLUSTER_NAME:-macula}
# The first two numbers of the cluster's own /16: nodes in .0, pods in .11 and .12, services from .96.
net=${MACULA_CLUSTER_NET:-10.250}
state=${MACULA_CLUSTER_STATE:-/var/lib/macula-cluster}/$name
[[ $name =~ ^[a-z][a-z0-9]{0,9}$ ]] || { echo "MACULA_CLUSTER_NAME=$name: one to ten letters and digits" >&2; exit 2; }
[[ $net =~ ^[0-9]+\.[0-9]+$ ]] || { echo "MACULA_CLUSTER_NET=$net: two numbers, such as 10.250" >&2; exit 2; }

started=$(date +%s%N)
tell() { local ds=$((($(date +%s%N) - started) / 100000000)); printf "%4d.%ds  %s\n" $((ds / 10)) $((ds % 10)) "$*"; }
fail() { printf '\n%s\n' "$*" >&2; exit 1; }

# Which cluster is meant: kind where docker and kind answer, else our own from parts.
which_cluster() {
  case ${CLUSTER:-} in
    own | kind | current) echo "$CLUSTER" ;;
    '') if command -v kind >/dev/null && docker info >/dev/null 2>&1; then echo kind; else echo own; fi ;;
    *) fail "CLUSTER=$CLUSTER: it is own, kind or current" ;;
  esac
}

# The processes of our own cluster carry a mark in their environment, so that they are found
# whatever became of the `up` that started them. Pods die with the node whose namespace they are in.
mark="MACULA_CLUSTER_PART=$state"
marked() {
  { grep -lzxF "$mark" /proc/[0-9]*/environ || true; } 2>/dev/null | cut -d/ -f3
}

# Names the first part that has ended, with the last lines of its log.
check_parts() {
  local ended node part
  for ended in "$state"/n[12]/run/*.ended; do
    [ -e "$ended" ] || continue
    node=$(basename "$(dirname "$(dirname "$ended")")"); part=$(basename "$ended" .ended)
    printf '\n%s on node-%s has ended (status %s). The last lines of its log, %s:\n' \
      "$part" "${node#n}" "$(cat "$ended")" "$state/$node/log/$part.log" >&2
    tail -n 15 "$state/$node/log/$part.log" >&2 || true
    return 1
  done
}

# await SECONDS WHAT COMMAND...: until the command succeeds; a dead part ends the wait at once.
await() {
  local until=$(($(date +%s) + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    check_parts || exit 1
    [ "$(date +%s)" -lt "$until" ] || fail "$what: it did not come about in time. Logs are in $state/n1/log and $state/n2/log."
    sleep 0.2
  done
}

# The Debian packages behind these commands are installed where that is possible, else named.
need() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    tell "installing ${missing[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    fail "Missing: ${missing[*]}. On Debian: sudo apt-get install ${missing[*]}"
  fi
}
