"""What is said of two trees that should be the same."""

import io

import h5py
import numpy as np

from tests.support.granules import difference


def file_of(values, title):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["soil_moisture"] = values
        file.attrs["title"] = title
    return content.getvalue()


def test_files_of_a_month_are_compared_by_their_arrays():
    one = {"profile/c/0": b"a", "files/2015-04/x_1.nc": file_of(np.arange(4), "a")}
    assert difference(one, one) == ""
    other = {"profile/c/0": b"b", "files/2015-04/x_2.nc": file_of(np.array([0, 1, 2, 9]), "b")}
    said = difference(one, other).splitlines()
    assert said[:3] == ["files/2015-04/x_2.nc: not there", "files/2015-04/x_1.nc: not expected", "profile/c/0: other bytes"]
    assert "2015-04: 1 values of soil_moisture differ" in said
    assert "2015-04: the attribute title differs" in said
