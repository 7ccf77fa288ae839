"""What processes that `tests.processes` starts have loaded already: they are forked from one that has imported this."""

import functools
import gc

from optimum import subpackages
from optimum.commands.optimum_cli import main as main

from optimum_ssgr.commands import evaluate as evaluate
from optimum_ssgr.commands import prune as prune
from optimum_ssgr.evaluation import compare as compare
from optimum_ssgr.pruner import SSGRPruner as SSGRPruner
from optimum_ssgr.reasoner.text import documents
from optimum_ssgr.recovery import recover as recover
from optimum_ssgr.study import run as run


documents("train")  # which parses Python's whole library
subpackages.load_namespace_modules = functools.cache(subpackages.load_namespace_modules)  # reads the metadata of all packages
subpackages.load_subpackages()
gc.collect()
gc.freeze()  # whoever is forked would otherwise go through all of it, and copy it
