#!/usr/bin/env bash
# Thousands of requests made up from the API's own document, against a real host: no answer may be a 5xx, and
# none may be one that the document does not have. Opt-in, for it needs PyPI:
#
#   tests/schemathesis.sh [CASES]
#
# There are at least CASES of them, 2000 unless said otherwise, shared out among the operations. SEED repeats a run. Half of
# the ids that are made up are replaced by those of things that are there, or nearly every answer would be a 404.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cases=${1:-2000}
seed=${SEED:-1}
version=4.32.5
work=$(mktemp -d)
# For root, Postgres runs as somebody else, who has to come in.
chmod 755 "$work"
host=

leave() {
    [ -z "$host" ] || { kill "$host" && wait "$host"; } 2>/dev/null || true
    echo "schemathesis: its report and the host's log are in $work" >&2
}
trap leave EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "schemathesis==$version"

cargo build --workspace --bin backstitch
program=$(realpath "${CARGO_TARGET_DIR:-target}/debug/backstitch")
"$program" dev --json --listen 127.0.0.1:0 --data-dir "$work/data" >"$work/ready" 2>"$work/log" &
host=$!
url=
for _ in $(seq 600); do
    url=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["url"])' <"$work/ready" 2>/dev/null) && break
    kill -0 "$host" || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
export BACKSTITCH_HOST=$url

# Something to be found: runs that wait, one that has closed, and a schedule that starts nothing.
"$program" build examples/approval --out "$work/approval.wasm"
"$program" deploy "$work/approval.wasm"
input='{"subject":"s","requester":"r","manager":"m","timeout":"3 days"}'
for id in open-1 open-2 closed; do "$program" run start approval "$input" --id "$id"; done
"$program" run terminate closed
"$program" schedule create there approval --every 1h --paused

cat >"$work/hooks.py" <<'PYTHON'
import schemathesis


@schemathesis.serializer("application/wasm")
def wasm(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def map_path_parameters(ctx, parameters):
    """Half of what is made up is made something that is there; which half depends on it alone."""
    there = {"id": ["open-1", "open-2", "closed"], "name": ["there", "manager-approval"], "op": [0]}
    for name, value in (parameters or {}).items():
        size = len(str(value))
        if size % 2 and name in there:
            parameters[name] = there[name][size // 2 % len(there[name])]
    return parameters
PYTHON

# The tenant is fixed, or nearly every answer would be that there is none of that name.
operations=$("$program" internal openapi | grep -c '"operationId"')
cd "$work" # where it keeps notes of its own
SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$work venv/bin/st run "$url/v1/openapi.json" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --phases examples,coverage,fuzzing --max-examples $(((cases + operations - 1) / operations)) --seed "$seed" \
    --header 'backstitch-tenant: default' --continue-on-failure --report ndjson --report-dir .
