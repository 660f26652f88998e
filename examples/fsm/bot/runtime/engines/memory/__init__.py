"""The memory engine: records in a dict, lost at exit."""
