"""A conversation in steps, as an example: copy this folder for one of your own, or make it yours."""
