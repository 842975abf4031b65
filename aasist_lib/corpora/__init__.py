"""Any corpus as one table of utterances."""

from aasist_lib.corpora.public import preview
from aasist_lib.corpora.table import (
    COLUMNS,
    FORMATS,
    check_paths,
    digests,
    example,
    from_settings,
    measured,
    read,
    summary,
    test_name,
    test_set,
)

__all__ = [
    "COLUMNS",
    "FORMATS",
    "check_paths",
    "digests",
    "example",
    "preview",
    "from_settings",
    "measured",
    "read",
    "summary",
    "test_name",
    "test_set",
]
