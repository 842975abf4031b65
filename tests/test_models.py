"""Networks: what is tested.

Every network:

| test | what must hold |
|---|---|
| shapes | any length from `min_frames` on, one logit an utterance; the frame before that is refused |
| alone or in a batch | the same value, the same again, and with dropout in training only |
| embedding | the last layer of it is the logit |
| gradients | reach the input and every parameter; finite where all is alike |
| learning | the loss on two toy classes falls in a few steps |
| saved and loaded | same logits, same bytes, ordinary file rights |
| features | that do not fit are refused in one line |

And of one alone, or of the module:

| test | what must hold |
|---|---|
| size | 100,000 to 250,000 parameters of cnn_attention; parts add up; as many of AASIST and AASIST-L as published |
| cosine | the head gives the cosine with its direction |
| spectrum | undoes the DCT |
| attention | weights are shares, and are those behind the logit; order of distant moments hardly matters |
| attention in training | without dropout the same as torch's own, and so are the gradients |
| dropout | by its share, scaled up, drawn from torch's generator; none in evaluation |
| squeeze and excitation | weighs whole maps by shares |
| AASIST | published weights give the published logits; short utterances repeat, of long ones the start counts |
| published weights | a file that is something else is refused in one line |
| encoders | wav2vec 2.0, HuBERT and WavLM; frozen or trained; saved without when frozen; loudness does not matter |
| encoder's folder | works without internet; anything but safetensors of such an encoder is refused in one line |
| import | of aasist_lib.models does without transformers |
| broken folders | one line that names the file |
| windows | cover a recording without gaps, none too short |
"""

import copy
import json
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from aasist_lib import models
from aasist_lib.base.errors import UserError
from aasist_lib.models import aasist, layers, resnet, wav2vec2

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "aasist"
MAPS = {"coefficients": 60, "channels": 3}
SOUND = {"coefficients": 1, "channels": 1}
NETWORKS = {  # options they are tested with
    "cnn_attention": MAPS,
    "resnet": MAPS,
    "transformer": {**MAPS, "layers": 2},
    "aasist": {**SOUND, "size": "light"},
    "wav2vec2": {**SOUND, "width": 16},
}
ON_MAPS = [name for name in NETWORKS if NETWORKS[name]["channels"] == 3]
KINDS = ["Wav2Vec2", "Hubert", "WavLM"]
ABOUT = dict(model=dict(name="cnn_attention", width=16, heads=2, dropout=0.3), coefficients=24, channels=3)


def tiny_encoder(folder: Path, kind: str = "Wav2Vec2") -> Path:
    """An encoder of that kind as transformers saves it, small and with random weights."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8, 8),
        conv_kernel=(10, 3, 3), conv_stride=(5, 4, 4), num_feat_extract_layers=3, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    torch.manual_seed(5)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return {kind: str(tiny_encoder(tmp_path_factory.mktemp(kind), kind)) for kind in KINDS}


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


@pytest.fixture
def settings(request, name):
    """Options of the network under test, as the params section `model` and the features give them."""
    extra = {"encoder": request.getfixturevalue("encoders")["Wav2Vec2"]} if name == "wav2vec2" else {}
    return {"name": name, **NETWORKS[name], **extra}


@pytest.fixture
def any_network(settings, monkeypatch):
    monkeypatch.setattr(aasist, "SAMPLES", 4700)  # a fourteenth of the time; AASIST's own tests hear all of them
    torch.manual_seed(1)
    return models.build(**settings).eval()


def network(name="cnn_attention", **options):
    torch.manual_seed(1)
    return models.build(name, **{**NETWORKS[name], **options}).eval()


def features(batch=2, coefficients=60, frames=100):
    return torch.randn(batch, coefficients, frames, generator=torch.Generator().manual_seed(2)) * 20


def input_of(net, batch=2, more=100):
    """What `net` takes, `more` frames longer than the shortest."""
    return features(batch, net.options.coefficients, net.min_frames + more)


# Every network


@pytest.mark.parametrize("more", [0, 1, 3, 42, 393, 793])
def test_any_length(any_network, more):
    with torch.inference_mode():
        assert any_network(input_of(any_network, 3, more)).shape == (3,)


def test_too_short_or_other_features(any_network):
    x = input_of(any_network, more=0)
    said = rf"takes features of shape \(batch, {x.shape[1]}, {any_network.min_frames} or more\), not \("
    for wrong in (x[:, :, 1:], features(coefficients=20, frames=x.shape[2]), x[0], x[None]):
        with pytest.raises(UserError, match=said):
            any_network(wrong)


def test_alone_or_in_a_batch(any_network):
    batch = input_of(any_network, 3)
    with torch.inference_mode():
        alone = torch.cat([any_network(utterance[None]) for utterance in batch])
        together = any_network(batch)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        assert torch.equal(together, any_network(batch))


def test_dropout_in_training_only(any_network):
    x = input_of(any_network, 4)
    any_network.train()
    assert not torch.equal(any_network(x), any_network(x))


def test_last_layer_of_the_embedding_is_the_logit(any_network):
    x = input_of(any_network, 3)
    with torch.inference_mode():
        embedding = any_network.embed(x)
        assert embedding.shape == (3, any_network.output.in_features)
        assert isinstance(any_network.output, torch.nn.Linear)
        torch.testing.assert_close(any_network.output(embedding)[:, 0], any_network(x), atol=1e-6, rtol=1e-5)


def test_gradients_reach_the_input(any_network):
    x = input_of(any_network).requires_grad_()
    any_network(x).sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad.abs().sum(dim=(1, 2)) > 0).all()


def test_gradients_reach_every_parameter(any_network):
    any_network.train()
    any_network(input_of(any_network, 4)).square().sum().backward()
    for name, parameter in any_network.named_parameters():
        unused = ".unused." in name or name.startswith("encoder.")  # published AASIST's first norms; a frozen encoder
        if name == "pool.score.2.bias":  # softmax takes off what it adds to all: 0 but for rounding
            assert parameter.grad.abs().max() < 1e-5
        else:
            assert unused == (parameter.grad is None or not parameter.grad.abs().sum() > 0), name


def test_gradients_stay_finite_where_all_is_alike(any_network):
    any_network.train()
    any_network(torch.zeros_like(input_of(any_network, 4))).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in any_network.parameters() if p.grad is not None)


def test_learns_to_tell_two_classes_apart(settings, monkeypatch):
    monkeypatch.setattr(aasist, "SAMPLES", 4700)
    rate, steps = (3e-2, 30) if settings["name"] == "wav2vec2" else (3e-3, 9)  # its encoder is random and stays so
    torch.manual_seed(1)
    net = models.build(**settings).train()
    for dropout in (part for part in net.modules() if isinstance(part, torch.nn.Dropout)):
        dropout.p = 0.0
    labels = torch.tensor([0.0, 1.0] * 4)
    noise = features(8, net.options.coefficients, 4000 if net.options.channels == 1 else 100)
    wave = 20 * torch.sin(torch.arange(noise.shape[2]) * 0.4)  # the fakes hum
    x = noise + wave * (1 - labels)[:, None, None]
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = functional.binary_cross_entropy_with_logits(net(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:2]), losses


def test_every_network_saved_and_loaded(any_network, settings, tmp_path):
    about = {"model": {k: v for k, v in settings.items() if k not in SOUND}, **{k: settings[k] for k in SOUND}}
    with torch.no_grad():
        for parameter in (p for p in any_network.parameters() if p.requires_grad):  # other than a fresh network's
            parameter += 0.01
    models.save(any_network, tmp_path, about)
    x = input_of(any_network)
    torch.manual_seed(9)
    loaded, _ = models.load(tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded(x), any_network(x))


def test_copies_are_apart(any_network):
    """As training's running average is: a deep copy that takes the weights of another."""
    other = copy.deepcopy(any_network)
    with torch.no_grad():
        other.output.weight += 1
    x = input_of(any_network)
    with torch.inference_mode():
        assert not torch.equal(other(x), any_network(x))
        other.load_state_dict(any_network.state_dict())
        assert torch.equal(other(x), any_network(x))


@pytest.mark.parametrize("name", ON_MAPS)
def test_cosine_head(name):
    net, x = network(name, head="cosine"), features(3)
    with torch.inference_mode():
        cosines = functional.cosine_similarity(net.embed(x), net.output.weight)
        torch.testing.assert_close(net(x), cosines)
        assert net(x).abs().max() <= 1
    assert "output.bias" not in net.state_dict()


@pytest.mark.parametrize("name", ON_MAPS)
@pytest.mark.parametrize("coefficients, channels", [(20, 1), (40, 2), (39, 3), (80, 1), (12, 3), (15, 3)])
def test_any_front_end(name, coefficients, channels):
    net = network(name, coefficients=coefficients, channels=channels)
    assert torch.isfinite(net(features(coefficients=coefficients))).all()


# One alone


def test_size():
    counts = models.parameters(network(width=64, heads=4, dropout=0.3))
    assert 100_000 <= counts["total"] <= 250_000
    assert sum(counts.values()) == 2 * counts["total"]


def test_spectrum_undoes_the_dct():
    net, features = network(spectrum=True), torch.randn(2, 60, 30)
    with torch.no_grad():
        bands, scaled = net.cnn[0](features), net.cnn[0].scale(features).reshape(2, 3, 20, 30)
    np.testing.assert_allclose(bands, scipy.fft.idct(scaled.numpy(), axis=2, norm="ortho"), atol=1e-5)


@pytest.mark.parametrize(
    "name, layer, count", [("cnn_attention", (), 30), ("transformer", (0,), 20), ("transformer", (-1,), 20)]
)
def test_attention_is_what_the_logit_used(name, layer, count):
    net, x = network(name), features(frames=120)
    between, pooling = net.attention(x, *layer)
    assert between.shape == (2, 4, count, count) and pooling.shape == (2, count)
    torch.testing.assert_close(between.sum(-1), torch.ones(2, 4, count))
    torch.testing.assert_close(pooling.sum(-1), torch.ones(2))
    # the same logit from these weights by hand
    tokens = net.tokens(x)
    for block in net.layers if name == "transformer" else [net.transformer]:
        tokens, _ = block(tokens)
    tokens = net.norm(tokens) if name == "transformer" else tokens
    mean = torch.einsum("bn,bnw->bw", pooling, tokens)
    variance = torch.einsum("bn,bnw->bw", pooling, (tokens - mean[:, None]) ** 2)
    by_hand = net.output(torch.cat([mean, variance.clamp(min=1e-5).sqrt()], 1))[:, 0]
    torch.testing.assert_close(by_hand, net(x), atol=1e-5, rtol=1e-4)


def test_transformer_knows_the_order_of_neighbours():
    net, x = network("transformer"), features(1, frames=120)
    tokens = net.cnn(x).transpose(1, 2)
    there, moved = net.positions(tokens), net.positions(tokens.roll(5, dims=1))
    # the same neighbours give the same, wherever they are: nothing depends on the place in the utterance
    torch.testing.assert_close(there[:, 7:8], moved[:, 12:13], atol=1e-5, rtol=1e-4)
    assert (net.positions(tokens.flip(1)).flip(1) - there).abs().max() > 0.01


def test_attention_in_training_is_torchs_own():
    torch.manual_seed(3)
    layer, x = layers.Attention(24, 4, dropout=0.0).train(), torch.randn(3, 17, 24)
    found, expected = (layer(x, need_weights=need)[0] for need in (False, True))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    layer.dropout.p = 0.5
    assert not torch.allclose(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_dropout(share):
    dropout, x = layers.Dropout(share), torch.full((100, 7, 33), 2.0)
    torch.manual_seed(3)
    found = dropout(x)
    assert (found == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    assert (found.max().item() == pytest.approx(2 / (1 - share), rel=1e-4)) if share < 1 else not found.any()
    if 0 < share < 1:
        assert not torch.equal(found, dropout(x)) and dropout(x.bfloat16()).dtype is torch.bfloat16
        torch.manual_seed(3)
        assert torch.equal(found, dropout(x))
        alike = (found[1:] == found[:-1]).float().mean().item()  # of neighbours, as often as by chance
        assert alike == pytest.approx(share**2 + (1 - share) ** 2, abs=0.01)
    assert torch.equal(dropout.eval()(x), x)


def test_squeeze_and_excitation_weighs_whole_maps():
    torch.manual_seed(1)
    x = torch.rand(2, 16, 5, 7) + 1
    shares = resnet.SqueezeExcite(16)(x) / x
    torch.testing.assert_close(shares, shares[:, :, :1, :1].expand_as(x))
    assert 0 < shares.min() and shares.max() < 1 and shares[0, :, 0, 0].std() > 0


def test_attention_has_no_positions():
    net = network()
    tokens = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(net.transformer(tokens)[0][:, order], net.transformer(tokens[:, order])[0])


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
        "no such network": lambda: about.write_text(json.dumps({**ABOUT, "model": {"name": "cnn_atention"}})),
        "no such option": lambda: about.write_text(json.dumps({**ABOUT, "model": {**ABOUT["model"], "widht": 32}})),
        "text for a number": lambda: about.write_text(json.dumps({**ABOUT, "coefficients": "24"})),
        "a weight too few": lambda: save_file(without(load_file(weights), "output.bias"), weights),
    }[how]()


@pytest.mark.parametrize(
    "how, named",
    [
        ("no weights", "network.safetensors"), ("no json", "network.json"), ("cut weights", "network.safetensors"),
        ("not weights", "network.safetensors"), ("not json", "network.json"), ("a list", "network.json"),
        ("no model", "network.json"), ("other width", "network.safetensors"), ("odd model", "network.json"),
        ("no such network", "network.json"), ("no such option", "network.json"),
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
        (dict(name="cnn_attention", coefficients=9), "needs at least 4 coefficients a channel, not 3$"),
        (dict(name="resnet", coefficients=9), "needs at least 4 coefficients a channel, not 3$"),
        (dict(name="aasist"), "aasist takes waveforms: set features.kind: waveform$"),
        (dict(name="wav2vec2"), "an encoder's states: set features.kind: waveform or wav2vec2$"),
    ],
)
def test_features_that_do_not_fit(options, said):
    with pytest.raises(UserError, match=f"^model.name: .*{said}") as error:
        models.build(**MAPS | options)
    assert "\n" not in str(error.value)


# AASIST


def golden_inputs(kind: str) -> torch.Tensor:
    """What the reference's README.md describes, (4, 1, 64600)."""
    t = np.arange(64600) / 16000
    if kind == "noise_0_3":
        made = [np.random.RandomState(k).randn(64600) * 0.1 for k in range(4)]  # noqa: NPY002 -- as described there
    else:
        low = [100 + 40 * k for k in range(4)]
        made = [0.3 * np.sin(2 * np.pi * (f * t + 50 * t**2)) + 0.1 * np.sin(6 * np.pi * f * t) for f in low]
    return torch.tensor(np.stack(made), dtype=torch.float32)[:, None]


def published(name: str) -> Path:
    if not REFERENCE.is_dir():
        pytest.skip(f"the published weights are not there: {REFERENCE}")
    return REFERENCE / f"{name}.pth"


@pytest.mark.parametrize("kind", ["noise_0_3", "chirp_0_3"])
@pytest.mark.parametrize("name", ["AASIST", "AASIST-L"])
def test_published_weights_give_the_published_logits(name, kind):
    net = aasist.load_published(published(name))
    expected = torch.tensor(json.loads((REFERENCE / "golden_logits.json").read_text())[f"{name}/{kind}"])
    with torch.inference_mode():
        logits = net.logits(golden_inputs(kind))
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
        torch.testing.assert_close(net(golden_inputs(kind)[:1]), expected[:1, 1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("size, count", [("full", 297_866), ("light", 85_306)])
def test_as_many_parameters_as_published(size, count):
    parts = models.parameters(models.build("aasist", **SOUND, size=size))
    assert parts["total"] == count and sum(parts.values()) == 2 * count


def test_published_weights_are_saved_like_any(tmp_path):
    net = aasist.load_published(published("AASIST-L"))
    models.save(net, tmp_path, {"model": {"name": "aasist", "size": "light"}, **SOUND})
    x = golden_inputs("chirp_0_3")[:1]
    with torch.inference_mode():
        # equal to the bit in a process of their own; after other networks, with MKL_CBWR=COMPATIBLE, but for the last
        torch.testing.assert_close(models.load(tmp_path)[0].logits(x), net.logits(x), atol=1e-5, rtol=1e-5)


def test_aasist_repeats_short_and_cuts_long_utterances():
    net, x = network("aasist"), features(1, 1, 30_000)
    with torch.inference_mode():
        whole = torch.cat([x, x, x], dim=2)
        assert torch.equal(net(x), net(whole)) and torch.equal(net(x), net(whole[:, :, :64_600]))
        assert not torch.equal(net(x), net(whole[:, :, 1:]))


def test_filters_are_band_passes_on_the_mel_scale():
    edges = librosa.mel_frequencies(71, fmin=0, fmax=8000, htk=True)
    for taps, low, high in zip(aasist.filters()[1:-1, 0], edges[1:], edges[2:], strict=False):
        expected = scipy.signal.firwin(129, [low, high], pass_zero=False, window="hamming", scale=False, fs=16_000)
        np.testing.assert_allclose(taps, expected, atol=1e-6)


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "is missing"),
        (b"hello", "cannot be read"),
        (["a list"], "no weights by name"),
        ({"a": torch.zeros(3)}, "other weights"),
        ({"pos_S": torch.zeros(1, 23, 64)}, "not a published AASIST"),
        ({"pos_S": torch.zeros(1, 23, 65)}, "other weights"),
        ({"pos_S": 3}, "no weights by name"),
        (resnet.Options(), "cannot be read"),  # a pickle that would run code
    ],
)
def test_other_files_are_no_published_weights(tmp_path, content, said):
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=said) as error:
        aasist.load_published(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# Pre-trained encoders


@pytest.mark.parametrize("trained", ["head", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_encoder(encoders, kind, trained, tmp_path):
    options = {"name": "wav2vec2", "encoder": encoders[kind], "trained": trained, "width": 8}
    torch.manual_seed(1)
    net = models.build(**options, **SOUND).train()
    x = features(3, 1, 1000)
    before = {name: tensor.clone() for name, tensor in net.encoder.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net(x).square().sum().backward()
    optimiser.step()
    assert net.encoder.training == (trained == "all")
    same = all(torch.equal(tensor, before[name]) for name, tensor in net.encoder.state_dict().items())
    assert same == (trained == "head")
    assert any(name.startswith("encoder.") for name in net.state_dict()) == (trained == "all")

    net.eval()
    models.save(net, tmp_path, {"model": options, **SOUND})
    saved = load_file(tmp_path / "network.safetensors")
    assert saved.keys() == net.state_dict().keys()
    loaded, _ = models.load(tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded(x), net(x))
    save_file(without(saved, "project.bias"), tmp_path / "network.safetensors")  # names of the rest are strict
    with pytest.raises(UserError, match="does not fit.*project.bias"):
        models.load(tmp_path)


def test_within_another_module(encoders):
    """As in a checkpoint of training, where names have a prefix."""
    nets = [torch.nn.ModuleDict({"inner": network("wav2vec2", encoder=encoders["Hubert"])}) for _ in range(2)]
    assert all(name.startswith("inner.") and ".encoder." not in name for name in nets[0].state_dict())
    nets[1].load_state_dict(nets[0].state_dict())


def test_layers_take_part_by_learned_shares(encoders):
    net, x = network("wav2vec2", encoder=encoders["WavLM"]), features(2, 1, 800)
    sound = x[:, 0] - x[:, 0].mean(1, keepdim=True)
    sound = sound / (sound.var(1, correction=0, keepdim=True) + 1e-7).sqrt()
    with torch.inference_mode():
        net.shares.copy_(torch.tensor([0.0, 1.0, 2.0]))
        hidden = torch.stack(net.encoder(sound, output_hidden_states=True).hidden_states)
        mixed = torch.einsum("l,lbnh->bnh", torch.tensor([0.0, 1.0, 2.0]).softmax(0), hidden)
        torch.testing.assert_close(net.embed(x), net.pool(net.project(mixed))[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(net(x), net(5 * x + 3), atol=1e-4, rtol=1e-4)  # loudness and offset


def test_shortest_utterance_makes_one_moment(encoders):
    net = network("wav2vec2", encoder=encoders["Wav2Vec2"])
    for more, moments in ((0, 1), (79, 1), (80, 2)):
        hidden = net.encoder(torch.randn(1, net.min_frames + more)).last_hidden_state
        assert hidden.shape[1] == moments


def spoil_encoder(folder: Path, how: str) -> str:
    weights, config = folder / "model.safetensors", folder / "config.json"
    read = load_file(weights)
    a_part = min(name for name in read if name.startswith("encoder.layers.0"))
    {
        "no folder": lambda: shutil.rmtree(folder),
        "no config": config.unlink,
        "odd config": lambda: config.write_text("{"),
        "no weights": weights.unlink,
        "a pickle": lambda: (torch.save(read, folder / "pytorch_model.bin"), weights.unlink()),
        "not weights": lambda: weights.write_bytes(b"hello"),
        "a weight too few": lambda: save_file(without(read, a_part), weights, metadata={"format": "pt"}),
        "other shapes": lambda: save_file({**read, a_part: torch.zeros(3)}, weights, metadata={"format": "pt"}),
        "text": lambda: config.write_text(json.dumps({"model_type": "bert"})),
        "code": lambda: config.write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "run.Me"}})),
    }[how]()
    return str(folder)


@pytest.mark.parametrize(
    "how",
    ["no folder", "no config", "odd config", "no weights", "a pickle", "not weights", "a weight too few",
     "other shapes", "text", "code"],
)  # fmt: skip
def test_encoders_that_cannot_be(encoders, tmp_path, how):
    folder = spoil_encoder(Path(shutil.copytree(encoders["Wav2Vec2"], tmp_path / "encoder")), how)
    with pytest.raises(UserError, match="^model.encoder: ") as error:
        models.build("wav2vec2", **SOUND, encoder=folder)
    assert folder in str(error.value) and "\n" not in str(error.value)


def test_a_folder_needs_no_internet(encoders, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the internet was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    wav2vec2.read_encoder(encoders["Wav2Vec2"])


def test_import_does_without_transformers():
    code = "import sys, aasist_lib.models; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# The module


@pytest.mark.parametrize("rate", [100.0, 16000, 86.1328125])
def test_windows(rate):
    for seconds in np.arange(0.25, 30, 0.37):
        length = int(seconds * rate)
        spans = models.windows(length, rate)
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))
        if len(spans) > 1:
            assert all(3.99 * rate <= end - start <= 12.01 * rate for start, end in spans)
