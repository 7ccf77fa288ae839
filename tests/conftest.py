import os

import pytest
import torch

from optimum_ssgr.checkpoints.load import load_model


os.environ["HF_HUB_OFFLINE"] = "1"  # for the commands that tests start: none may reach for the network
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)  # the models are tiny: more threads only wait for one another


@pytest.fixture(scope="session")
def reasoner():
    """The embedded model and its tokenizer; tests that prune must copy the model."""
    return load_model("tiny-reasoner")
