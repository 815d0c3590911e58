"""The settings: what they mean, which values they take, how they are read from YAML and the command line."""
