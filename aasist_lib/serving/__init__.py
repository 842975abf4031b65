"""The HTTP service and handlers for cloud functions: thin adapters around `aasist_lib.Detector`.

    bounds.py     what one request may ask for
    problems.py   refusals, as RFC 9457 has them
    guard.py      around every request: token, size, headers, log, metrics
    scoring.py    recordings to scores, in threads
    app.py        the routes
    run.py        `aasist serve`
    functions.py  AWS Lambda and Google Cloud Functions
    page/         what a browser gets at /

Nothing here scores: that is `Detector.examine` alone. Needs the extra `serve`.
"""
