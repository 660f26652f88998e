# syntax=docker/dockerfile:1
# The bot's image with what lets Lambda speak HTTP to it: https://github.com/aws/aws-lambda-web-adapter
ARG BOT_IMAGE
FROM public.ecr.aws/awsguru/aws-lambda-adapter:1.0.0 AS adapter
FROM ${BOT_IMAGE}
COPY --from=adapter /lambda-adapter /opt/extensions/lambda-adapter
