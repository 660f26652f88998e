#!/usr/bin/env bash
# The database at Upstash, by its developer API.
#
#   infra/upstash.sh create NAME REGION PLAN   creates it and writes REDIS_URL into .env, without showing it
#   infra/upstash.sh show ID                   what it is, and whether it is as the bot needs it
#   infra/upstash.sh delete ID                 deletes it, and everything in it
#
# UPSTASH_EMAIL and UPSTASH_API_KEY must be in the environment; the console gives the key (Account, Management API).
# https://upstash.com/docs/devops/developer-api/redis/create_database_global (read in November 2026)
set -euo pipefail
self=$(cd "$(dirname "$0")" && pwd)/${0##*/}
cd "${self%/*}/.."
usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$self" >&2
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
need UPSTASH_EMAIL UPSTASH_API_KEY

call() { # METHOD PATH [JSON]
    curl --silent --show-error --fail-with-body --request "$1" --header "Content-Type: application/json" \
        --config <(printf 'user = "%s:%s"\n' "$UPSTASH_EMAIL" "$UPSTASH_API_KEY") \
        ${3:+--data "$3"} "${UPSTASH_API:-https://api.upstash.com/v2}$2"
}

case "${1-} $#" in
"create 4")
    grep -qs '^REDIS_URL=' .env && { echo "REDIS_URL is set in .env already" >&2; exit 1; }
    [[ ! -s .env || -z $(tail -c 1 .env) ]] || echo >> .env # so that what is added is a line of its own
    body="{\"database_name\": \"$2\", \"platform\": \"aws\", \"primary_region\": \"$3\", \"plan\": \"$4\","
    call POST /redis/database "$body \"tls\": true, \"eviction\": false}" | python3 -c '
import json, os, sys

made = json.load(sys.stdin)
host = made["endpoint"] if "." in made["endpoint"] else made["endpoint"] + ".upstash.io"
url = "rediss://default:{}@{}:{}".format(made["password"], host, made["port"])
with open(os.open(".env", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
    file.write("REDIS_URL=" + url + "\n")
print("created", made["database_id"], "at", host)'
    ;;
"show 2")
    call GET "/redis/database/$2?credentials=hide" | python3 -c '
import json, sys

shown = json.load(sys.stdin)
for name in ("database_name", "state", "primary_region", "type", "tls", "eviction"):
    print(name, shown.get(name))
for name in ("db_max_clients", "db_max_request_size", "db_max_commands_per_second", "db_disk_threshold"):
    print(name, shown.get(name))
if shown.get("eviction"):
    sys.exit("Eviction is on: when the database is full, users are forgotten. Switch it off in the console.")'
    ;;
"delete 2") call DELETE "/redis/database/$2" ;;
*)
    usage
    ;;
esac
