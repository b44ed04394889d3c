"""Formats and their creation options: what is taken and what is refused."""

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.geotiff.encode import check_format
from spectraldiff_runtime.geotiff.spec import Format, class_spec
from tests.runtime.geotiff.rasters import CLASSES, PLACE, encoded


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Format(options={"COMPRESSION": "LZW"}), "--co COMPRESSION=LZW .*does not support creation option COMPRESSION"),
        (Format(options={"COMPRESS": "LZV"}), "'LZV' is an unexpected value for COMPRESS"),
        (Format("GTiff", options={"LEVEL": "9"}), "GTiff .*does not support creation option LEVEL"),
        (Format("GTiff", options={"ZLEVEL": "77"}), "ZLEVEL=77"),
        (Format(options={"COMPRESS": "JPEG"}), "JPEG"),
        (Format(options={"COMPRESS": "LERC", "MAX_Z_ERROR": "2"}), "differs .*from what was written"),
        (Format(options={"TILING_SCHEME": "GoogleMapsCompatible"}), "read back, it has size"),
        (Format("GTiff", options={"PROFILE": "BASELINE"}), "no place for the names of its classes"),
        (Format("GTiff", options={"TFW": "YES"}), "another file next to the raster, .tfw"),
        (Format(options={"blocksize": "256"}), "--co blocksize is not taken: .*--blocksize"),
        (Format("GTiff", options={"TILED": "NO"}), "--co TILED is not taken"),
        (Format(blocksize=100), "100 is no tile of a COG: choose a power of 2"),
        (Format(blocksize=32), "no tile of a COG"),
        (Format(blocksize=8192), "no tile of a COG"),
        (Format("GTiff", 100), "100 is no tile of a GeoTIFF: choose a multiple of 16"),
        (Format("GTiff", 0), "no tile"),
        (Format("GTiff", -16), "no tile"),
    ],
)
def test_formats_that_are_refused(form, words, capfd):
    with pytest.raises(UsageError, match=words) as caught:
        check_format(form)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "form",
    [
        Format(options={"compress": "zstd", "LEVEL": "1", "RESAMPLING": "NEAREST"}),
        Format(options={"COMPRESS": "NONE", "OVERVIEWS": "NONE"}),
        Format("GTiff", 48, {"COMPRESS": "LZW", "PREDICTOR": "2", "BIGTIFF": "YES"}),
        Format("GTiff", options={"COMPRESS": "PACKBITS"}),
    ],
)
def test_formats_that_are_taken(form):
    check_format(form, ("uint8", "uint16", "float32"))


def test_options_of_one_type_only():
    form = Format("GTiff", options={"COMPRESS": "LERC", "MAX_Z_ERROR": "0.4"})
    check_format(form, ["uint8", "uint16"])
    with pytest.raises(UsageError, match="float32 values"):
        check_format(form, ["uint8", "float32"])


def test_options_win_over_ours(tmp_path):
    options = {"compress": "ZSTD", "overview_resampling": "nearest", "bigtiff": "yes"}
    values = np.tile(np.array([[4, 1], [1, 1]], np.uint8), (300, 300))
    path = encoded(tmp_path, values, class_spec(600, 600, CLASSES, PLACE, {}), Format(options=options))
    assert path.read_bytes()[:4] == b"II\x2b\x00"
    with rasterio.open(path) as dataset:
        assert dataset.profile["compress"] == "zstd"
    with rasterio.open(path, overview_level=0) as overview:
        assert (overview.read(1) == overview.read(1)[0, 0]).all()
    plain = encoded(tmp_path, values, class_spec(600, 600, CLASSES, PLACE, {}), name="plain.tif")
    with rasterio.open(plain, overview_level=0) as overview:
        assert (overview.read(1) == 1).all()
