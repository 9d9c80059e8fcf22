#!/bin/sh
# Adds two numbers: {"a":1,"b":2} on standard input, their sum on standard output.
# A handler for: macula-node serve math.add -- examples/add.sh
#
# POSIX sh, sed and awk only. It reads flat objects such as the one above and no other JSON.
set -eu

body=$(cat | tr -d '\n\r\t ')

fail() {
    echo "add.sh: $1; expected {\"a\":NUMBER,\"b\":NUMBER}" >&2
    exit 1
}

# Prints the number under a key of the object, or nothing.
number() {
    printf '%s' "$body" | sed -n "s/^{\(.*,\)\{0,1\}\"$1\":\(-\{0,1\}[0-9][0-9]*\(\.[0-9][0-9]*\)\{0,1\}\([eE][-+]\{0,1\}[0-9][0-9]*\)\{0,1\}\)\(,.*\)\{0,1\}}\$/\2/p"
}

a=$(number a)
b=$(number b)
[ -n "$a" ] || fail "no number under \"a\""
[ -n "$b" ] || fail "no number under \"b\""

# %.15g is all that a double holds, without the noise of 0.1 + 0.2.
awk -v a="$a" -v b="$b" 'BEGIN { printf "%.15g\n", a + b }'
