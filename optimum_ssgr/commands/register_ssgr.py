"""Installed into `optimum/commands/register/`, where `optimum-cli` looks for commands."""

from optimum_ssgr.commands.ssgr import SSGRCommand


REGISTER_COMMANDS = [SSGRCommand]
