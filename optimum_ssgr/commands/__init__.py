"""The `optimum-cli ssgr` commands; this package loads nothing heavy until a command runs."""
