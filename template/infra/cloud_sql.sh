#!/usr/bin/env bash
# Creates the instance at Cloud SQL, the bot's service account, and its user in the database. See DEPLOY.md.
# Wants PROJECT and REGION in the environment. It can be run again: what is there stays as it is.
set -euo pipefail
self=$0
need() { # VARIABLE...
    local variable
    for variable in "$@"; do
        [[ -n ${!variable-} ]] && continue
        echo "${self##*/}: $variable is not set in the environment (its first lines say more)" >&2
        exit 2
    done
}
need PROJECT REGION

instance=bot
name=telegram-bot # an account's has 6 characters at least
account=$name@$PROJECT.iam.gserviceaccount.com
user=$name@$PROJECT.iam

is_there() { "$@" > /dev/null 2>&1; }

gcloud services enable --project "$PROJECT" sqladmin.googleapis.com run.googleapis.com artifactregistry.googleapis.com \
    secretmanager.googleapis.com iam.googleapis.com

is_there gcloud iam service-accounts describe "$account" --project "$PROJECT" ||
    gcloud iam service-accounts create "$name" --project "$PROJECT" --display-name "Telegram bot"

# It has a public address, at which only Google's connectors are let in.
is_there gcloud sql instances describe "$instance" --project "$PROJECT" ||
    gcloud sql instances create "$instance" --project "$PROJECT" --region "$REGION" --database-version POSTGRES_17 \
        --edition enterprise --tier db-f1-micro --storage-auto-increase --backup-start-time 03:00 \
        --enable-point-in-time-recovery --deletion-protection --connector-enforcement REQUIRED \
        --database-flags cloudsql.iam_authentication=on
is_there gcloud sql databases describe bot --project "$PROJECT" --instance "$instance" ||
    gcloud sql databases create bot --project "$PROJECT" --instance "$instance"

# At this instance, and at no other of the project. https://cloud.google.com/sql/docs/postgres/iam-conditions
this="resource.name == 'projects/$PROJECT/instances/$instance' && resource.type == 'sqladmin.googleapis.com/Instance'"
for role in roles/cloudsql.client roles/cloudsql.instanceUser; do
    gcloud projects add-iam-policy-binding "$PROJECT" --member "serviceAccount:$account" --role "$role" \
        --condition "expression=$this,title=the-bots-instance" > /dev/null
done
gcloud sql users list --project "$PROJECT" --instance "$instance" --format "value(name)" |
    grep --fixed-strings --line-regexp "$user" > /dev/null ||
    gcloud sql users create "$user" --project "$PROJECT" --instance "$instance" --type cloud_iam_service_account

# The user may make tables in its database, and nothing else.
gcloud sql users set-password postgres --project "$PROJECT" --instance "$instance" --prompt-for-password
cloud-sql-proxy --gcloud-auth --port 5433 "$PROJECT:$REGION:$instance" &
proxy=$!
trap 'kill "$proxy"' EXIT
for _ in {1..60}; do
    kill -0 "$proxy" # it has not ended by itself
    is_there pg_isready --host 127.0.0.1 --port 5433 && break
    sleep 1
done
psql "host=127.0.0.1 port=5433 user=postgres dbname=bot" --set "user=$user" --set ON_ERROR_STOP=1 --file - <<'SQL'
GRANT USAGE, CREATE ON SCHEMA public TO :"user";
SQL
