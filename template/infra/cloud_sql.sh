#!/usr/bin/env bash
# Creates the instance at Cloud SQL, the bot's service account, and its user in the database. See DEPLOY.md.
# Wants PROJECT and REGION in the environment. A step that was done before says so and stops: go on by hand from there.
set -euo pipefail

instance=bot
account=bot@$PROJECT.iam.gserviceaccount.com
user=bot@$PROJECT.iam

gcloud services enable --project "$PROJECT" sqladmin.googleapis.com run.googleapis.com artifactregistry.googleapis.com \
    secretmanager.googleapis.com iam.googleapis.com

# It has a public address, at which only Google's connectors are let in.
gcloud sql instances create "$instance" --project "$PROJECT" --region "$REGION" --database-version POSTGRES_17 \
    --edition enterprise --tier db-f1-micro --storage-auto-increase --backup-start-time 03:00 \
    --enable-point-in-time-recovery --deletion-protection --connector-enforcement REQUIRED \
    --database-flags cloudsql.iam_authentication=on
gcloud sql databases create bot --project "$PROJECT" --instance "$instance"

gcloud iam service-accounts create bot --project "$PROJECT" --display-name "Telegram bot"
for role in roles/cloudsql.client roles/cloudsql.instanceUser; do
    gcloud projects add-iam-policy-binding "$PROJECT" --member "serviceAccount:$account" --role "$role" --condition None
done
gcloud sql users create "$user" --project "$PROJECT" --instance "$instance" --type cloud_iam_service_account

# The user may make tables in its database, and nothing else.
gcloud sql users set-password postgres --project "$PROJECT" --instance "$instance" --prompt-for-password
cloud-sql-proxy --port 5433 "$PROJECT:$REGION:$instance" &
proxy=$!
trap 'kill "$proxy"' EXIT
sleep 5
psql "host=127.0.0.1 port=5433 user=postgres dbname=bot" --set "user=$user" --file - <<'SQL'
GRANT USAGE, CREATE ON SCHEMA public TO :"user";
SQL
