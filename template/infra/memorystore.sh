#!/usr/bin/env bash
# The bot on Cloud Run, and its records in Memorystore for Redis, in a network of their own.
#
#   infra/memorystore.sh create            network, instance, image repository, service account, secrets
#   infra/memorystore.sh deploy            builds the image and runs it; also for updates
#   infra/memorystore.sh bot COMMAND...    runs a command of the bot there: doctor, state forget 123
#   infra/memorystore.sh delete            deletes all of that, and every record
#
# NAME (the bot's short name) and REGION must be in the environment; the project is gcloud's. Each step can be
# run again. `create` reads the bot's token from standard input: infra/memorystore.sh create < token
set -euo pipefail
self=$(cd "$(dirname "$0")" && pwd)/${0##*/}
cd "${self%/*}/.."
usage() {
    sed -n '2,11s/^# \{0,1\}//p' "$self" >&2
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
need NAME REGION
[[ $NAME =~ ^[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]] || {
    echo "NAME takes 6 to 30 characters (a-z, 0-9, -), since the service account is called so" >&2
    exit 2
}

project=$(gcloud config get-value core/project)
[[ $project && $project != "(unset)" ]] || {
    echo "${self##*/}: gcloud has no project: gcloud config set project PROJECT_ID" >&2
    exit 2
}
account="$NAME@$project.iam.gserviceaccount.com"
image="$REGION-docker.pkg.dev/$project/$NAME/bot:$(git rev-parse --short HEAD 2> /dev/null || date +%s)"

is_there() { "$@" > /dev/null 2>&1; }

soon() { # COMMAND...: again for two minutes, since what was just made is not known everywhere
    for _ in {1..12}; do
        "$@" && return
        sleep "${MEMORYSTORE_PAUSE:-10}"
    done
    return 1
}

keep() { # NAME: a secret, from standard input, that the bot alone may read
    is_there gcloud secrets describe "$1" || gcloud secrets create "$1" --replication-policy=automatic
    gcloud secrets versions add "$1" --data-file=-
    soon gcloud secrets add-iam-policy-binding "$1" --member="serviceAccount:$account" \
        --role=roles/secretmanager.secretAccessor > /dev/null
}

instance() { gcloud redis instances describe "$NAME" --region="$REGION" --format="value($1)"; }

create() {
    local token certificates password host port
    token=$(cat)
    exec < /dev/null # nothing else reads it
    gcloud services enable compute.googleapis.com redis.googleapis.com run.googleapis.com \
        secretmanager.googleapis.com artifactregistry.googleapis.com iam.googleapis.com
    is_there gcloud iam service-accounts describe "$account" || gcloud iam service-accounts create "$NAME"
    is_there gcloud compute networks describe "$NAME" ||
        gcloud compute networks create "$NAME" --subnet-mode=custom
    is_there gcloud compute networks subnets describe "$NAME" --region="$REGION" ||
        gcloud compute networks subnets create "$NAME" --network="$NAME" --region="$REGION" --range=10.10.0.0/24
    # A replica in another zone, an hourly snapshot, and writes refused rather than users evicted.
    is_there gcloud redis instances describe "$NAME" --region="$REGION" ||
        gcloud redis instances create "$NAME" --region="$REGION" --network="$NAME" --tier=standard --size=1 \
            --redis-version=redis_7_2 --enable-auth --transit-encryption-mode=server-authentication \
            --persistence-mode=rdb --rdb-snapshot-period=1h --redis-config=maxmemory-policy=noeviction
    is_there gcloud artifacts repositories describe "$NAME" --location="$REGION" ||
        gcloud artifacts repositories create "$NAME" --location="$REGION" --repository-format=docker
    printf %s "$token" | keep "$NAME-token"
    certificates=$(instance "serverCaCerts[].cert")
    password=$(gcloud redis instances get-auth-string "$NAME" --region="$REGION" --format="value(authString)")
    host=$(instance host)
    port=$(instance port)
    # The password is in no command line: printf is the shell's own.
    printf 'rediss://:%s@%s:%s/0' "${password:?}" "${host:?}" "${port:?}" | keep "$NAME-redis-url"
    tr ';' '\n' <<< "${certificates:?}" | keep "$NAME-redis-ca"
}

settings() { # what the service and the command have in common; options of gcloud, one a line
    local secrets="BOT_TOKEN=$NAME-token:latest,REDIS_URL=$NAME-redis-url:latest"
    printf '%s\n' --region="$REGION" --service-account="$account" --network="$NAME" --subnet="$NAME" \
        --vpc-egress=private-ranges-only --set-secrets="$secrets,/etc/redis/ca.pem=$NAME-redis-ca:latest"
}

deploy() {
    local number url common variables
    gcloud auth configure-docker "$REGION-docker.pkg.dev" --quiet
    docker build --platform=linux/amd64 --tag="$image" .
    docker push "$image"
    mapfile -t common < <(settings)
    number=$(gcloud projects describe "$project" --format="value(projectNumber)")
    url="https://$NAME-$number.$REGION.run.app/telegram"
    # A new process may reach the network only after a minute or more; the probe goes on for longer than the bot.
    # https://docs.cloud.google.com/run/docs/configuring/vpc-direct-vpc (read in November 2026)
    variables="NAMESPACE=$NAME,WEBHOOK_URL=$url,REDIS_CA_FILE=/etc/redis/ca.pem,REDIS_CONNECT_TIMEOUT=180"
    # Cloud Run gives a process 10 s to stop. Background work needs a processor between requests, too.
    gcloud run deploy "$NAME" --image="$image" "${common[@]}" --allow-unauthenticated --port=8080 \
        --min-instances=1 --max-instances=3 --concurrency=40 --timeout=60 --no-cpu-throttling \
        --set-env-vars="$variables,SHUTDOWN_TIMEOUT=4" \
        --liveness-probe="httpGet.path=/healthz,periodSeconds=10,timeoutSeconds=5,failureThreshold=3" \
        --startup-probe="httpGet.path=/readyz,periodSeconds=5,timeoutSeconds=5,failureThreshold=48"
    gcloud run jobs deploy "$NAME-command" --image="$image" "${common[@]}" --args=doctor --max-retries=0 \
        --set-env-vars="$variables"
}

bot() {
    local arguments
    arguments=$(IFS=,; echo "$*")
    gcloud run jobs execute "$NAME-command" --region="$REGION" --args="$arguments" --wait
}

remove() { # KIND NAME OPTION...: deletes it, and says so when it is there all the same
    local kind
    read -ra kind <<< "$1"
    gcloud "${kind[@]}" delete "${@:2}" --quiet && return
    ! is_there gcloud "${kind[@]}" describe "${@:2}" || left+=("$1 $2")
}

delete() {
    local left=()
    gcloud projects describe "$project" > /dev/null # or nothing would be found, for want of rights
    remove "run services" "$NAME" --region="$REGION"
    remove "run jobs" "$NAME-command" --region="$REGION"
    remove "redis instances" "$NAME" --region="$REGION"
    for secret in token redis-ca redis-url; do remove secrets "$NAME-$secret"; done
    remove "artifacts repositories" "$NAME" --location="$REGION"
    remove "iam service-accounts" "$account"
    remove "compute networks subnets" "$NAME" --region="$REGION"
    remove "compute networks" "$NAME"
    ((${#left[@]})) || return 0
    printf 'still there: %s\n' "${left[@]}" >&2
    echo "Cloud Run keeps a subnet for one to two hours after its last use: delete again then." >&2
    return 1
}

case "${1-} $#" in
"create 1" | "deploy 1" | "delete 1") "$1" ;;
bot\ [2-9]) shift && bot "$@" ;;
*)
    usage
    ;;
esac
