"""Where a result comes from."""

import json

import torch

from robust_student.runtime.provenance import provenance


def test_provenance_is_json_and_says_where_the_result_comes_from() -> None:
    record = provenance({"epochs": 3}, "digits", 7)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["settings"], record["data"], record["seed"], record["torch"]) == (
        {"epochs": 3},
        "digits",
        7,
        torch.__version__,
    )
