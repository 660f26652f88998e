#!/usr/bin/env bash
# The database at Redis Cloud, by its REST API, in a paid Essentials plan.
#
#   infra/redis_cloud.sh plans CLOUD                 plans at AWS, GCP or AZURE that keep data and encrypt
#   infra/redis_cloud.sh payments                    ways to pay that the account has
#   infra/redis_cloud.sh create NAME PLAN PAYMENT    subscribes to a plan and creates the database in it as the
#                                                    bot needs it; REDIS_URL goes into .env and is not shown
#   infra/redis_cloud.sh show SUBSCRIPTION DATABASE
#   infra/redis_cloud.sh delete SUBSCRIPTION [DATABASE]
#
# REDIS_CLOUD_KEY and REDIS_CLOUD_SECRET must be in the environment: the account key and a user key, from the
# console (Access Management, API Keys). https://api.redislabs.com/v1/cloud-api-docs (read in November 2026)
set -euo pipefail
self=$(cd "$(dirname "$0")" && pwd)/${0##*/}
cd "${self%/*}/.."
usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$self" >&2
    exit 2
}
need() { # VARIABLE...
    local variable
    for variable in "$@"; do
        [[ -n ${!variable-} ]] && continue
        echo "${self##*/}: $variable is not set in the environment (its first lines say more)" >&2
        exit 2
    done
}
(($#)) || usage
need REDIS_CLOUD_KEY REDIS_CLOUD_SECRET

call() { # METHOD PATH, and the JSON on standard input: it may hold a password
    curl --silent --show-error --fail-with-body --request "$1" --header "Content-Type: application/json" \
        --config <(printf 'header = "x-api-key: %s"\nheader = "x-api-secret-key: %s"\n' \
            "$REDIS_CLOUD_KEY" "$REDIS_CLOUD_SECRET") \
        --data @- "${REDIS_CLOUD_API:-https://api.redislabs.com}/v1$2"
}

field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

reaches() { # PATH STATUS: waits until what is there has it, and says all about it
    local answer="" status=unknown until=$((SECONDS + ${REDIS_CLOUD_PATIENCE:-900}))
    while ((SECONDS < until)); do
        # What goes wrong in passing is asked again.
        answer=$(call GET "$1" < /dev/null) && status=$(field status <<< "$answer" 2> /dev/null) || status=unknown
        case "$status" in
        "$2") echo "$answer" && return ;;
        *error* | *fail* | *delet*) break ;;
        esac
        sleep "${REDIS_CLOUD_PAUSE:-5}"
    done
    echo "$1 is $status, not $2: $(field response <<< "$answer" 2> /dev/null)" >&2
    return 1
}

made() { # waits for the task of an answer, and says the id of what it made
    local answer task
    answer=$(cat)
    task=$(field taskId <<< "$answer" 2> /dev/null) || { echo "$answer" >&2 && return 1; }
    answer=$(reaches "/tasks/$task" processing-completed) || return
    python3 -c 'import json, sys; print(json.load(sys.stdin)["response"].get("resourceId", "done"))' <<< "$answer"
}

case "${1-} $#" in
"plans 2")
    call GET "/fixed/plans?provider=$2" < /dev/null | python3 -c '
import json, sys

for plan in json.load(sys.stdin)["plans"]:
    if plan["supportDataPersistence"] and plan["supportSsl"]:
        size = "{size:>8g} {sizeMeasurementUnit}".format(**plan)
        price = "{price:>6} {priceCurrency} per {pricePeriod}".format(**plan)
        names = ("id", "region", "connections", "name")
        print(plan["id"], size, price, *(str(plan[name]) for name in names[1:]), sep="  ")'
    ;;
"payments 1") call GET /payment-methods < /dev/null ;;
"create 4")
    grep -qs '^REDIS_URL=' .env && { echo "REDIS_URL is set in .env already" >&2; exit 1; }
    [[ ! -s .env || -z $(tail -c 1 .env) ]] || echo >> .env # so that what is added is a line of its own
    body="{\"name\": \"$2\", \"planId\": $3, \"paymentMethodId\": $4}"
    trap 'echo "Before you try again, look in the console: a subscription may be there." >&2' ERR
    subscription=$(call POST /fixed/subscriptions <<< "$body" | made)
    echo "subscription $subscription"
    path="/fixed/subscriptions/$subscription"
    trap 'echo "Subscription $subscription is there and costs: go on in the console (DEPLOY.md), or delete it." >&2' ERR
    reaches "$path" active > /dev/null
    password=$(openssl rand -hex 24)
    # It is kept before the database has it, which may come about though its answer is lost.
    (umask 077 && printf 'REDIS_URL=rediss://default:%s@ENDPOINT\n' "$password" >> .env)
    database=$(call POST "$path/databases" <<JSON | made
{"name": "$2", "enableTls": true, "dataPersistence": "aof-every-1-second", "dataEvictionPolicy": "noeviction",
 "password": "$password"}
JSON
    )
    place=$(reaches "$path/databases/$database" active | field publicEndpoint)
    python3 - "$place" <<'PYTHON'
import sys
from pathlib import Path

env = Path(".env")
before, _, after = env.read_text("utf-8").rpartition("@ENDPOINT")
env.write_text(f"{before}@{sys.argv[1]}{after}", "utf-8")
PYTHON
    echo "database $database at $place"
    ;;
"show 3")
    call GET "/fixed/subscriptions/$2/databases/$3" < /dev/null | python3 -c '
import json, sys

shown = json.load(sys.stdin)
names = ("name", "status", "region", "publicEndpoint", "dataPersistence", "dataEvictionPolicy", "replication")
for name in names:
    print(name, shown.get(name))'
    ;;
"delete 2" | "delete 3")
    [[ $# -eq 2 ]] || call DELETE "/fixed/subscriptions/$2/databases/$3" < /dev/null | made
    call DELETE "/fixed/subscriptions/$2" < /dev/null | made
    ;;
*)
    usage
    ;;
esac
