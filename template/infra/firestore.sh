#!/usr/bin/env bash
# The bot on Cloud Run, and its records in Firestore.
#
#   infra/firestore.sh create            database, rules, image repository, service account, the token
#   infra/firestore.sh deploy            builds the image and runs it; also for updates
#   infra/firestore.sh bot COMMAND...    runs a command of the bot there: doctor, state forget 123
#   infra/firestore.sh delete            deletes the bot, and leaves the database
#
# NAME (the bot's short name), REGION (of Cloud Run) and LOCATION (of Firestore, for good) must be in the
# environment; the project is gcloud's, and the bot's own. Each step can be run again. `create` reads the bot's
# token from standard input: infra/firestore.sh create < token
set -euo pipefail
self=$(cd "$(dirname "$0")" && pwd)/${0##*/}
cd "${self%/*}/.."
usage() {
    sed -n '2,12s/^# \{0,1\}//p' "$self" >&2
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
need NAME REGION LOCATION

project=$(gcloud config get-value core/project)
identity=$NAME
((${#NAME} >= 6 && ${#NAME} <= 30)) || identity="${NAME:0:26}-bot" # what Google takes for an account's name
account="$identity@$project.iam.gserviceaccount.com"
image="$REGION-docker.pkg.dev/$project/$NAME/bot:$(git rev-parse --short HEAD 2> /dev/null || date +%s)"

is_there() { "$@" > /dev/null 2>&1; }

create() {
    local token
    token=$(cat)
    exec < /dev/null # nothing else reads it
    gcloud services enable firestore.googleapis.com firebaserules.googleapis.com run.googleapis.com \
        secretmanager.googleapis.com artifactregistry.googleapis.com iam.googleapis.com
    # Whose account is not there has not made the database either: what follows would replace another's rules.
    if ! is_there gcloud iam service-accounts describe "$account"; then
        if is_there gcloud firestore databases describe --database='(default)'; then
            echo "$project has a database already: take a project of the bot's own" >&2
            exit 1
        fi
        gcloud iam service-accounts create "$identity"
    fi
    # Yesterday's state can be read back for a week, and nobody deletes the database by mistake.
    is_there gcloud firestore databases describe --database='(default)' ||
        gcloud firestore databases create --database='(default)' --location="$LOCATION" \
            --type=firestore-native --enable-pitr --delete-protection
    # Clients of Firebase may read and write nothing; no field needs an index; records expire by `expires_at`.
    npx --yes firebase-tools@15 deploy --project "$project" --only firestore --non-interactive
    is_there gcloud artifacts repositories describe "$NAME" --location="$REGION" ||
        gcloud artifacts repositories create "$NAME" --location="$REGION" --repository-format=docker
    # Documents, and nothing else of the project.
    gcloud projects add-iam-policy-binding "$project" --member="serviceAccount:$account" \
        --role=roles/datastore.user --condition=None > /dev/null
    is_there gcloud secrets describe "$NAME-token" ||
        gcloud secrets create "$NAME-token" --replication-policy=automatic
    printf %s "$token" | gcloud secrets versions add "$NAME-token" --data-file=-
    gcloud secrets add-iam-policy-binding "$NAME-token" --member="serviceAccount:$account" \
        --role=roles/secretmanager.secretAccessor > /dev/null
}

settings() { # what the service and the command have in common; options of gcloud, one a line
    printf '%s\n' --region="$REGION" --service-account="$account" --set-secrets="BOT_TOKEN=$NAME-token:latest"
}

deploy() {
    local number url common variables
    gcloud auth configure-docker "$REGION-docker.pkg.dev" --quiet
    docker build --platform=linux/amd64 --tag="$image" .
    docker push "$image"
    mapfile -t common < <(settings)
    number=$(gcloud projects describe "$project" --format="value(projectNumber)")
    url="https://$NAME-$number.$REGION.run.app/telegram"
    # Not NAMESPACE: the collection is the one that firestore.indexes.json is about.
    variables="WEBHOOK_URL=$url,GOOGLE_CLOUD_PROJECT=$project"
    # Cloud Run gives a process 10 s to stop. Background work needs a processor between requests, too.
    gcloud run deploy "$NAME" --image="$image" "${common[@]}" --allow-unauthenticated --port=8080 \
        --min-instances=1 --max-instances=3 --concurrency=40 --timeout=60 --no-cpu-throttling \
        --set-env-vars="$variables,SHUTDOWN_TIMEOUT=4" \
        --liveness-probe="httpGet.path=/healthz,periodSeconds=10,timeoutSeconds=5,failureThreshold=3" \
        --startup-probe="httpGet.path=/readyz,periodSeconds=5,timeoutSeconds=5,failureThreshold=12"
    gcloud run jobs deploy "$NAME-command" --image="$image" "${common[@]}" --args=doctor --max-retries=0 \
        --set-env-vars="$variables"
}

bot() {
    local arguments since code=0
    arguments=$(IFS=,; echo "$*")
    since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    gcloud run jobs execute "$NAME-command" --region="$REGION" --args="$arguments" --wait || code=$?
    sleep 10 # what it said comes to the log a little later
    gcloud run jobs logs read "$NAME-command" --region="$REGION" --order=asc --log-filter="timestamp>=\"$since\""
    return "$code"
}

delete() {
    gcloud run services delete "$NAME" --region="$REGION" --quiet || true
    gcloud run jobs delete "$NAME-command" --region="$REGION" --quiet || true
    gcloud secrets delete "$NAME-token" --quiet || true
    gcloud artifacts repositories delete "$NAME" --location="$REGION" --quiet || true
    gcloud iam service-accounts delete "$account" --quiet || true
}

case "${1-} $#" in
"create 1" | "deploy 1" | "delete 1") "$1" ;;
bot\ [2-9]) shift && bot "$@" ;;
*)
    usage
    ;;
esac
