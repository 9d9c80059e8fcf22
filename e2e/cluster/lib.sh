# Shared by the scripts of this folder: where things are, how progress and failures are told.
# shellcheck shell=bash
set -euo pipefail
umask 077 # keys, tokens and kubeconfigs are among what is written

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/macula
# A name and addresses set a cluster apart from another one on the same machine.
name=${MACULA_CLUSTER_NAME:-macula}
net=${MACULA_CLUSTER_NET:-10.250}
# Root's clusters are the machine's, whoever became root.
if [ "$(id -u)" = 0 ]; then folder=/var/lib/macula-cluster; else folder=$cache/cluster; fi
state=${MACULA_CLUSTER_STATE:-$folder}/$name
[[ $state != *[[:space:]]* ]] || { echo "There is a blank in $state: MACULA_CLUSTER_STATE names another folder" >&2; exit 2; }

started=${MACULA_STARTED:-$(date +%s%N)}
tell() {
  local tenths=$((($(date +%s%N) - started) / 100000000))
  printf '%4d.%ds  %s\n' $((tenths / 10)) $((tenths % 10)) "$*"
}
fail() { printf '\n%s\n' "$*" >&2; exit 1; }

[[ $name =~ ^[a-z][a-z0-9]{0,9}$ ]] || fail "MACULA_CLUSTER_NAME=$name: it is one to ten small letters and digits"
[[ $net =~ ^[0-9]{1,3}\.[0-9]{1,3}$ ]] || fail "MACULA_CLUSTER_NET=$net: it is the first two numbers of a /16, such as 10.250"

# The cluster that is there by its own record, or the one that is asked for: kind where docker and kind
# answer, else our own from parts.
which_cluster() {
  if [ -s "$state/which" ]; then cat "$state/which"; else wanted_cluster; fi
}
wanted_cluster() {
  case ${CLUSTER:-} in
    own | kind | current) echo "$CLUSTER" ;;
    '') if command -v kind >/dev/null && docker info >/dev/null 2>&1; then echo kind; else echo own; fi ;;
    *) fail "CLUSTER=$CLUSTER: it is own, kind or current" ;;
  esac
}

# The Debian packages behind these commands (or files) are installed where that is possible, else named.
need() { # COMMAND:PACKAGE...
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    tell "installing ${missing[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 ||
      fail "apt-get could not install ${missing[*]}"
  else
    fail "Missing: ${missing[*]}. On Debian and its kin: sudo apt-get install ${missing[*]}"
  fi
}

# The processes of our own cluster carry this in their environment, so that they are found whatever became
# of the `up` that started them. (Pods do not; they end with the node whose process namespace they are in.)
mark="MACULA_CLUSTER_PART=$state"
marked() {
  { grep -lzxF "$mark" /proc/[0-9]*/environ || true; } 2>/dev/null | cut -d/ -f3
}

# Fails when our range, or a part of it, is routed somewhere already. (The default route holds every range.)
addresses_free() {
  local taken
  taken=$(ip -4 route show root "$net.0.0/16"; ip -4 route show match "$net.0.0/16" | grep -v '^default' || true)
  [ -z "$taken" ] || fail "The addresses $net.0.0/16 are taken on this machine:
$taken
Choose others: MACULA_CLUSTER_NET=10.251, or 172.30 (with MACULA_CLUSTER_NAME=other, if they belong to another cluster of ours)."
}

# The control groups of that name, once their processes are gone (those of pods have no mark, and end a little later).
remove_cgroups() { # NAME
  for _ in {1..100}; do
    cgroups "$1" | xargs -r rmdir 2>/dev/null || true
    [ -n "$(cgroups "$1")" ] || return 0
    sleep 0.1
  done
  fail "These control groups do not go away:"$'\n'"$(cgroups "$1")"
}
cgroups() { # NAME: the innermost first
  local hierarchy
  for hierarchy in $(findmnt -rno TARGET -t cgroup,cgroup2 | grep "^/sys/fs/cgroup"); do
    find "$hierarchy/$1" -depth -type d 2>/dev/null || true
  done
}

# Names each part of our own cluster that has ended, with the last lines of its log.
check_parts() {
  local sound=0 node part file
  for file in "$state"/n[12]/run/*.ended; do
    [ -e "$file" ] || continue
    part=$(basename "$file" .ended); node=$(basename "$(dirname "$(dirname "$file")")")
    obituary "$part on node-${node#n}" "with status $(cat "$file")" "$state/$node/log/$part.log"
    sound=1
  done
  for file in "$state"/n[12]/run/pid "$state/bridge.pid"; do
    [ -s "$file" ] || continue
    grep -qzxF "$mark" "/proc/$(cat "$file")/environ" 2>/dev/null && continue
    case $file in
      */bridge.pid) obituary "the nodes' network" "altogether" "$state/nodes.log" ;;
      */n1/*) obituary "node-1" "altogether" "$state/nodes.log" ;;
      *) obituary "node-2" "altogether" "$state/nodes.log" ;;
    esac
    sound=1
  done
  return $sound
}
obituary() { # WHAT HOW LOG
  printf '\n%s has ended %s. The last lines of %s:\n' "$1" "$2" "$3" >&2
  tail -n 15 "$3" 2>/dev/null | cut -c1-300 | sed 's/^/  | /' >&2 || true
}
