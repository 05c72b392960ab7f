"""scikit-learn's datasets, each checked by the content of its files before it is loaded."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from functools import wraps
from importlib import resources
from typing import Any

from sklearn import datasets

from msnlib.data.readers import DataError

# SHA-256 of what is in the files, unpacked: packing the same again may give other bytes.
SHA256 = {
    "digits.csv.gz": "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
    "wine_data.csv": "10e8a802908b34f86e5da8ce962f3c806694bc98450a18f61851af59f324bede",
    "diabetes_data_raw.csv.gz": "86badf50b4f9436ddd1e497dc0ae1b93166f8120221ee7dca4634fe849f3be7c",
    "diabetes_target.csv.gz": "244713a551f62a291a354212d8a048adec6cb1244b2bc44e66a0698f5006d26d",
    "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
}


def _checked(load: Callable[..., Any], *names: str) -> Callable[..., Any]:
    @wraps(load)
    def loaded(**options: Any) -> Any:
        for name in names:
            folder = resources.files("sklearn.datasets") / ("images" if name.endswith(".jpg") else "data")
            try:
                content = (folder / name).read_bytes()
                content = gzip.decompress(content) if name.endswith(".gz") else content
            except (OSError, EOFError, ValueError) as error:
                raise DataError(f"{folder / name}: cannot be read: {error}; install scikit-learn again") from None
            found = hashlib.sha256(content).hexdigest()
            if found != SHA256[name]:
                raise DataError(
                    f"{folder / name}: damaged, or another version of the data: found SHA-256 {found}, expected "
                    f"{SHA256[name]}; install the scikit-learn of requirements.lock"
                )
        return load(**options)

    return loaded


load_digits = _checked(datasets.load_digits, "digits.csv.gz")
load_wine = _checked(datasets.load_wine, "wine_data.csv")
load_diabetes = _checked(datasets.load_diabetes, "diabetes_data_raw.csv.gz", "diabetes_target.csv.gz")
load_sample_images = _checked(datasets.load_sample_images, "china.jpg", "flower.jpg")
