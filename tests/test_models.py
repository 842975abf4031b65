"""Networks: what is tested.

| test | what must hold |
|---|---|
| shapes | any number of frames from 8 on, several front-ends, one logit an utterance |
| size | 100,000 to 250,000 parameters with the settings of params.yaml; parts add up |
| alone or in a batch | the same value |
| spectrum | undoes the DCT |
| attention | weights are shares, and are those behind the logit; order of distant moments hardly matters |
| gradients | reach every parameter |
| saved and loaded | same logits, same bytes, ordinary file rights |
| errors | unknown names get the nearest valid one; broken or missing files one line that names them |
| windows | cover a recording without gaps, none too short |
"""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from safetensors.torch import load_file, save_file

from aasist_lib import models
from aasist_lib.errors import UserError

ABOUT = dict(model=dict(name="cnn_attention", width=16, heads=2, dropout=0.3), coefficients=24, channels=3)


def network(**options):
    torch.manual_seed(1)
    return models.build("cnn_attention", **{"coefficients": 60, "channels": 3, **options}).eval()


def features(batch=2, coefficients=60, frames=100):
    return torch.randn(batch, coefficients, frames, generator=torch.Generator().manual_seed(2)) * 20


@pytest.mark.parametrize("frames", [8, 9, 11, 50, 401, 800])
def test_any_length(frames):
    assert network()(features(3, frames=frames)).shape == (3,)


@pytest.mark.parametrize("coefficients, channels", [(20, 1), (40, 2), (39, 3), (80, 1), (12, 3), (15, 3)])
def test_any_front_end(coefficients, channels):
    net = network(coefficients=coefficients, channels=channels)
    assert torch.isfinite(net(features(coefficients=coefficients))).all()


def test_size():
    counts = models.parameters(network(width=64, heads=4, dropout=0.3))
    assert 100_000 <= counts["total"] <= 250_000
    assert sum(counts.values()) == 2 * counts["total"]


def test_alone_or_in_a_batch():
    net, batch = network(), features(5)
    with torch.inference_mode():
        alone = torch.cat([net(utterance[None]) for utterance in batch])
        torch.testing.assert_close(net(batch), alone, atol=1e-5, rtol=1e-5)


def test_spectrum_undoes_the_dct():
    net, features = network(spectrum=True), torch.randn(2, 60, 30)
    with torch.no_grad():
        bands, scaled = net.cnn[0](features), net.cnn[0].scale(features).reshape(2, 3, 20, 30)
    np.testing.assert_allclose(bands, scipy.fft.idct(scaled.numpy(), axis=2, norm="ortho"), atol=1e-5)


def test_attention_is_what_the_logit_used():
    net, x = network(), features(frames=120)
    between, pooling = net.attention(x)
    assert between.shape == (2, 4, 30, 30) and pooling.shape == (2, 30)
    torch.testing.assert_close(between.sum(-1), torch.ones(2, 4, 30))
    torch.testing.assert_close(pooling.sum(-1), torch.ones(2))
    # the same logit from these weights by hand
    tokens, _ = net.transformer(net.tokens(x), need_weights=True)
    mean = torch.einsum("bn,bnw->bw", pooling, tokens)
    variance = torch.einsum("bn,bnw->bw", pooling, (tokens - mean[:, None]) ** 2)
    by_hand = net.output(torch.cat([mean, variance.clamp(min=1e-5).sqrt()], 1))[:, 0]
    torch.testing.assert_close(by_hand, net(x), atol=1e-5, rtol=1e-4)


def test_attention_has_no_positions():
    net = network()
    tokens = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(net.transformer(tokens)[0][:, order], net.transformer(tokens[:, order])[0])


def test_dropout_in_training_only():
    net, x = network(), features()
    assert torch.equal(net(x), net(x))
    net.transformer.train()
    assert not torch.equal(net(x), net(x))


def test_gradients_reach_every_parameter():
    net = network().train()
    net(features(8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for _, p in net.named_parameters())


def test_gradients_stay_finite_where_all_is_alike():
    net = network().train()
    net(torch.zeros(4, 60, 64)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_saved_and_loaded(tmp_path):
    net = network(width=16, heads=2, coefficients=24)
    models.save(net, tmp_path / "a", ABOUT)
    models.save(net, tmp_path / "b", ABOUT)
    for name in ("network.safetensors", "network.json"):
        first = tmp_path / "a" / name
        assert first.read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert stat.S_IMODE(first.stat().st_mode) & 0o044 == 0o044  # DVC and colleagues read it
    assert len(list((tmp_path / "a").iterdir())) == 2
    loaded, about = models.load(tmp_path / "a")
    assert about == ABOUT and not loaded.training
    x = features(coefficients=24)
    assert torch.equal(loaded(x), net(x))


def without(weights: dict, name: str) -> dict:
    return {key: value for key, value in weights.items() if key != name}


def spoil(folder: Path, how: str) -> None:
    weights, about = folder / "network.safetensors", folder / "network.json"
    {
        "no weights": weights.unlink,
        "no json": about.unlink,
        "cut weights": lambda: weights.write_bytes(weights.read_bytes()[:-50]),
        "not weights": lambda: weights.write_bytes(b"hello"),
        "not json": lambda: about.write_text("{"),
        "a list": lambda: about.write_text("[]"),
        "no model": lambda: about.write_text("{}"),
        "other width": lambda: about.write_text(json.dumps({**ABOUT, "model": {**ABOUT["model"], "width": 32}})),
        "odd model": lambda: about.write_text(json.dumps({**ABOUT, "model": 3})),
        "text for a number": lambda: about.write_text(json.dumps({**ABOUT, "coefficients": "24"})),
        "a weight too few": lambda: save_file(without(load_file(weights), "output.bias"), weights),
    }[how]()


@pytest.mark.parametrize(
    "how, named",
    [
        ("no weights", "network.safetensors"), ("no json", "network.json"), ("cut weights", "network.safetensors"),
        ("not weights", "network.safetensors"), ("not json", "network.json"), ("a list", "network.json"),
        ("no model", "network.json"), ("other width", "network.safetensors"), ("odd model", "network.json"),
        ("text for a number", "network.json"), ("a weight too few", "network.safetensors"),
    ],
)  # fmt: skip
def test_broken_folders(tmp_path, how, named):
    models.save(network(width=16, heads=2, coefficients=24), tmp_path, ABOUT)
    spoil(tmp_path, how)
    with pytest.raises(UserError) as error:
        models.load(tmp_path)
    assert str(tmp_path / named) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(name="cnn_atention"), "did you mean cnn_attention"),
        (dict(name="zzz"), "use cnn_attention"),
        (dict(widht=3), "widht.*did you mean width"),
        (dict(width=30, heads=4), "30 is not a multiple"),
        (dict(dropout=1.0), "dropout"),
        (dict(normalise="none"), "normalise: cnn_attention has no such option"),
        (dict(coefficients=61), "61 coefficients"),
        (dict(coefficients=9), "at least 4"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(UserError, match=said):
        models.build(**{"name": "cnn_attention", "coefficients": 60, "channels": 3, **options})


def test_too_short_or_other_features():
    with pytest.raises(UserError, match="at least 8 frames, not 60 and 7"):
        network()(features(frames=7))
    with pytest.raises(UserError, match="takes 60 coefficients.*not 20"):
        network()(features(coefficients=20))


@pytest.mark.parametrize("rate", [100.0, 16000, 86.1328125])
def test_windows(rate):
    for seconds in np.arange(0.25, 30, 0.37):
        length = int(seconds * rate)
        spans = models.windows(length, rate)
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))
        if len(spans) > 1:
            assert all(3.99 * rate <= end - start <= 12.01 * rate for start, end in spans)
