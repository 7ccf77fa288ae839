import copy

import pytest
import torch

from optimum_ssgr import likelihood
from optimum_ssgr.errors import ConfigError
from optimum_ssgr.likelihood import response_nll

from .models import random_model, slow_but


LENGTHS = [(3, 5), (7, 1), (1, 20), (0, 6), (12, 12), (2, 30), (5, 9)]


def naive(model, sequences):
    """One sequence after the other, one token after the other."""
    found = []
    for prompt, response in sequences:
        ids = [*prompt, *response]
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        found.append(-sum(scores[place - 1, ids[place]].item() for place in range(max(len(prompt), 1), len(ids))))
    return found


def draw(vocabulary):
    """Random sequences of `LENGTHS`, with a token that is used for padding at the end of one."""
    generator = torch.Generator().manual_seed(0)
    drawn = [[torch.randint(3, vocabulary, (count,), generator=generator).tolist() for count in pair] for pair in LENGTHS]
    drawn[0][1][-1] = 0
    return drawn


@pytest.mark.parametrize(
    "name",
    slow_but(["llama", "llama tied", "gemma2, sliding", "mistral, sliding", "phi", "gpt2", "mixtral", "gpt-oss"], ["llama"]),
)
@pytest.mark.parametrize("batch_tokens", [1, 40, 16384])
def test_as_one_token_after_the_other(name, batch_tokens, monkeypatch):
    model = random_model(name)
    monkeypatch.setattr(likelihood, "SCORES", 704 * 11)  # the head runs on 11 tokens at a time
    sequences = draw(704)
    assert response_nll(model, sequences, batch_tokens) == pytest.approx(naive(model, sequences), rel=1e-4)


def test_of_the_embedded_reasoner(reasoner):
    model, _ = reasoner
    sequences = draw(model.config.vocab_size)
    expected = naive(model, sequences)
    assert response_nll(model, sequences, desc="likelihood") == pytest.approx(expected, rel=1e-4)
    assert response_nll(copy.deepcopy(model).bfloat16(), sequences) == pytest.approx(expected, rel=0.05)
    assert response_nll(model, []) == []
    with torch.no_grad():
        assert model(torch.tensor([[1, 5]])).logits.shape == (1, 2, model.config.vocab_size)  # it runs as before
    with pytest.raises(ConfigError, match="a trace has 1025 tokens but the model's context holds 1024"):
        response_nll(model, [([1], [5] * 1024)])


def test_dropout_takes_no_part():
    model = random_model("gpt2").train()
    assert response_nll(model, draw(704)) == response_nll(model, draw(704))
