"""What is special about the provider: the way to the server there, and what `bot doctor` looks for."""
