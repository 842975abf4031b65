"""What the same bytes on every processor cost: a training step with the kernels of aasist_lib/pins.env and without.

    python benchmarks/pins.py [--rounds 5]

Libraries choose kernels once in a process, so each side runs in processes of its own, which take turns. A step is
front-end, network, loss, gradients and optimiser on a batch of params.yaml. Times are processor seconds of one thread,
so that other work on the machine matters little; the ratio is the median over the rounds.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional

STEPS = 10  # of which the median counts


def main() -> None:
    """Prints milliseconds of both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=["with", "without"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(step(given.side == "with"))
        return
    sides = {"without": [], "with": []}
    for _ in range(given.rounds):
        for side, times in sides.items():
            command = [sys.executable, __file__, "--side", side]
            times.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    ratio = statistics.median(pinned / free for free, pinned in zip(sides["without"], sides["with"], strict=True))
    print(f"training step, ms    processor's own kernels {statistics.median(sides['without']):.0f}    ", end="")
    print(f"pinned {statistics.median(sides['with']):.0f}    ratio {ratio:.2f}")


def step(pinned: bool) -> float:
    """Milliseconds of a training step."""
    torch.set_num_threads(1)
    if not pinned:  # each library chooses now, before the package tells it what to choose
        kernel, x = torch.rand(4, 4, 3, 3, requires_grad=True), torch.rand(1, 4, 64, 64, requires_grad=True)
        y = functional.conv2d(x, kernel).flatten() @ torch.rand(4 * 62 * 62)
        (y + torch.fft.rfft(x).abs().exp().log().sum() + x.softmax(3).sum()).backward()
    from aasist_lib import features, models, params

    settings = params.load()
    front_end = features.build(settings["features"])
    options = {name: value for name, value in settings["model"].items() if name != "name"}
    network = models.build(
        settings["model"]["name"], **options, coefficients=front_end.coefficients, channels=front_end.channels
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings["train"]["lr"], fused=True)
    batch = settings["train"]["batch_size"]
    waveforms = torch.randn(batch, int(settings["train"]["crop_seconds"] * front_end.sample_rate))
    targets = torch.arange(batch) % 2.0
    times = []
    for _ in range(STEPS + 1):  # the first one warms up
        start = time.process_time()
        with torch.no_grad():
            maps = front_end(waveforms)
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(network(maps), targets).backward()
        optimizer.step()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
