"""The Firestore engine: a document per user, written conditionally."""
