#!/usr/bin/env bash
# Checks the licence of every crate that varve is built from against the list in deny.toml.
#
# The same check as `cargo deny check licenses`, which reads the same list and agrees, but takes two minutes to build.
# A crate passes when its licence expression can be met with allowed licences alone. Crates of the workspace are ours.
set -euo pipefail
cd "$(dirname "$0")/.."

allowed=$(sed -n '/^allow = \[/,/^\]/s/^ *"\([^"]*\)".*/\1/p' deny.toml)
[ -n "$allowed" ] || { echo "licences: deny.toml allows nothing" >&2; exit 1; }
crates=$(cargo tree --locked --workspace --all-features --target all --edges normal,build,dev --prefix none --no-dedupe \
    --format '{p}|{l}' | sed 's/ (proc-macro)//; /^$/d' | sort -u)

printf '%s\n' "$crates" | awk -F'|' -v allowed="$allowed" '
    # expression := term { OR term };  term := factor { AND factor };  factor := "(" expression ")" | name [WITH name]
    function expression(  ok) { ok = term(); while (token[at] == "OR") { at++; if (term()) ok = 1 } return ok }
    function term(  ok) { ok = factor(); while (token[at] == "AND") { at++; if (!factor()) ok = 0 } return ok }
    function factor(  ok, name) {
        if (token[at] == "(") { at++; ok = expression(); if (token[at] != ")") bad = 1; at++; return ok }
        name = token[at++]
        if (token[at] == "WITH") { name = name " WITH " token[at + 1]; at += 2 }
        return name in allow
    }
    function passes(text) {
        gsub(/\//, " OR ", text); gsub(/\(/, " ( ", text); gsub(/\)/, " ) ", text)
        delete token; count = split(text, token, " "); at = 1; bad = 0
        return expression() && !bad && at == count + 1
    }
    BEGIN { n = split(allowed, names, "\n"); for (i = 1; i <= n; i++) allow[names[i]] = 1 }
    { total++ }
    !passes($2) { failed++; printf "licences: %s: %s\n", $1, $2 == "" ? "no licence named" : "\"" $2 "\" is not allowed" }
    END { printf "licences: %d crates, %d not allowed\n", total, failed; exit failed > 0 || total == 0 }'
