"""The DynamoDB engine: one item per user, written conditionally."""
