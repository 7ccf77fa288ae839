"""`optimum-cli ssgr`: the root of the commands."""

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from .calibrate import CalibrateCommand
from .chat import ChatCommand
from .demo import DemoCommand
from .evaluate import EvaluateCommand
from .inspect import InspectCommand
from .prune import PruneCommand
from .push import PushCommand
from .recover import RecoverCommand
from .select import SelectCommand
from .study import StudyCommand


class SSGRCommand(BaseOptimumCLICommand):
    """The group of commands."""

    COMMAND = CommandInfo("ssgr", "Prune reasoning models with calibration data they wrote themselves.")
    SUBCOMMANDS = (
        CommandInfo("calibrate", "Let a model write its own calibration set, verified and selected.", CalibrateCommand),
        CommandInfo("select", "Select another calibration set from rollouts that are there.", SelectCommand),
        CommandInfo("prune", "Prune a model, block by block.", PruneCommand),
        CommandInfo("recover", "Fine-tune a pruned model on the dense model's traces, with its zeros kept.", RecoverCommand),
        CommandInfo("evaluate", "Measure accuracy, length, truncation and loops on problems.", EvaluateCommand),
        CommandInfo("study", "Compare strategies, methods and sparsities, with figures.", StudyCommand),
        CommandInfo("inspect", "Show the sparsity of a checkpoint without building the model.", InspectCommand),
        CommandInfo("push", "Publish a checkpoint, a calibration set or the comparison page on the Hub.", PushCommand),
        CommandInfo("chat", "Chat with dense and pruned models side by side, in the browser.", ChatCommand),
        CommandInfo("demo", "Run all of it on the embedded tiny reasoner, offline.", DemoCommand),
    )
