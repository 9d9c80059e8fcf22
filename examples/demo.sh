#!/usr/bin/env bash
# One mesh of five processes on this machine, and two realms on it: `shop` and `bank`. Each hears and
# calls its own; neither learns of the other. Ends with 1 when a message or an answer did not arrive,
# or a foreign one did.
set -euo pipefail

dir=$(mktemp -d)
pids=()
finish() {
  status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ $status -ne 0 ]; then
    echo "the demo failed; the nodes' last words:" >&2
    tail -n 5 "$dir"/*.log >&2 || true
  fi
  rm -rf "$dir"
}
trap finish EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

udp=${DEMO_UDP:-29443}
api=${DEMO_API:-27780}

say "1. An authority, and a certificate for each node"
show macula-node authority init --dir "$dir/authority" --mesh demo.main
issue() { # NAME ROLE [ARGUMENT...]
  local name=$1 role=$2
  shift 2
  macula-node authority issue --dir "$dir/authority" --role "$role" --name "$name" --out "$dir/$name" "$@" >/dev/null
}
issue seed bootstrap
issue door gateway
issue shop.one peer --realm com.example.shop
issue shop.two peer --realm com.example.shop
issue bank.one peer --realm com.example.bank
echo "issued: seed (bootstrap), door (gateway), shop.one, shop.two, bank.one (peers)"

say "2. Five nodes, one process each"
node() { # NAME ROLE NUMBER [REALM]
  local name=$1 role=$2 number=$3 realm=${4:-}
  {
    echo "trustDomain: cluster.local"
    echo "mesh: demo.main"
    echo "role: $role"
    [ -z "$realm" ] || echo "realm: $realm"
    echo "name: $name"
    echo "identity: { key: $name/key.pem, certificate: $name/certificate.pem, bundle: $name/bundle.pem }"
    echo "listen: 127.0.0.1:$((udp + number))"
    [ "$role" = bootstrap ] || echo "seeds: [\"127.0.0.1:$udp\"]"
    [ "$role" != peer ] || echo "api: { listen: \"127.0.0.1:$((api + 10 * number))\" }"
    echo "admin: { listen: \"127.0.0.1:$((api + 10 * number + 1))\" }"
  } >"$dir/$name.yaml"
  macula-node run --config "$dir/$name.yaml" >"$dir/$name.log" 2>&1 &
  pids+=($!)
}
ready() { # NUMBER
  for _ in $(seq 200); do
    curl -fs -o /dev/null "http://127.0.0.1:$((api + 10 * $1 + 1))/healthz/ready" && return
    sleep 0.05
  done
  fail "node $1 is not ready after ten seconds"
}
node seed bootstrap 0
node door gateway 1
node shop.one peer 2 com.example.shop
node shop.two peer 3 com.example.shop
node bank.one peer 4 com.example.bank
for number in 0 1 2 3 4; do ready $number; done
shop_one=http://127.0.0.1:$((api + 20))
shop_two=http://127.0.0.1:$((api + 30))
bank_one=http://127.0.0.1:$((api + 40))
show macula-node status --url "$shop_one"

say "3. The shop publishes; its other peer hears it, the bank hears nothing"
# What a subscriber says on stderr tells when it can be found.
subscribe() { # URL NAME COUNT
  macula-node sub 'sensor.**' --count "$3" --timeout 5s --url "$1" >"$dir/$2.heard" 2>"$dir/$2.sub" &
  subscriber=$!
  for _ in $(seq 100); do
    grep -q subscribed "$dir/$2.sub" && return
    sleep 0.05
  done
  fail "$2 could not subscribe"
}
subscribe "$bank_one" bank 1; bank=$subscriber
subscribe "$shop_two" shop 3; shop=$subscriber
for value in 21.5 21.6 21.7; do
  show macula-node pub sensor.temp "$value" --url "$shop_one"
done
wait $shop || fail "the shop's second peer did not hear all three messages"
echo "shop.two heard:"
cat "$dir/shop.heard"
for value in 21.5 21.6 21.7; do
  grep -q "$value" "$dir/shop.heard" || fail "$value did not arrive"
done

say "4. The shop serves a procedure; its other peer calls it, the bank finds nobody"
: >"$dir/serve.log"
macula-node serve math.add --url "$shop_two" -- "$(dirname "$0")/add.sh" >"$dir/serve.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
  grep -q serving "$dir/serve.log" && break
  sleep 0.05
done
printf '$ macula-node call math.add ...   (from shop.one)\n'
answer=$(macula-node call math.add '{"a":1,"b":2}' --timeout 2s --url "$shop_one")
echo "$answer"
[ "$answer" = 3 ] || fail "the answer was not 3"
printf '$ macula-node call math.add ...   (from bank.one)\n'
code=0
macula-node call math.add '{"a":1,"b":2}' --timeout 2s --url "$bank_one" || code=$?
[ $code -eq 4 ] || fail "the bank's call ended with $code, and not with 4: nobody provides it"

say "5. The bank dials a peer of the shop, and is refused by name"
code=0
macula-node ping "127.0.0.1:$((udp + 2))" --config "$dir/bank.one.yaml" || code=$?
[ $code -eq 5 ] || fail "the bank's ping ended with $code, and not with 5: refused"

code=0
wait $bank || code=$?
[ $code -eq 3 ] || fail "the bank's subscriber ended with $code, and not with 3: nothing heard"
[ ! -s "$dir/bank.heard" ] || fail "the bank heard: $(cat "$dir/bank.heard")"

say "Done: three messages and one answer within the shop; the bank heard nothing and found nobody."
