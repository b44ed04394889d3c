"""Run by QGIS's own Python: maps rasters with Deepness' own classes and with what the file says of itself.

    in_deepness.py MODEL RASTER OUT.npy [RASTER OUT.npy ...]

OUT.npy gets the channel of each pixel.
"""

import os
import sys
from unittest.mock import MagicMock

import numpy as np
from deepness.common.channels_mapping import ChannelsMapping, ImageChannelStandaloneBand
from deepness.common.processing_overlap import ProcessingOverlap, ProcessingOverlapOptions
from deepness.common.processing_parameters.map_processing_parameters import ProcessedAreaType
from deepness.common.processing_parameters.segmentation_parameters import SegmentationParameters
from deepness.processing.map_processor.map_processor_segmentation import MapProcessorSegmentation
from deepness.processing.models.segmentor import Segmentor
from qgis.core import QgsApplication, QgsRasterLayer


def channels(model: Segmentor, raster: str) -> np.ndarray:
    """Map a whole raster, its bands one to one, with the defaults that the plugin reads from the file."""
    layer = QgsRasterLayer(raster, "scene", "gdal")
    assert layer.isValid(), raster
    bands = ChannelsMapping()
    bands.set_image_channels(
        [ImageChannelStandaloneBand(number, layer.bandName(number)) for number in range(1, layer.bandCount() + 1)]
    )
    bands.set_number_of_model_inputs(model.get_number_of_channels())
    for number in range(model.get_number_of_channels()):
        bands.set_image_channel_for_model_input(number, number)
    share = model.get_metadata_tiles_overlap()
    settings = SegmentationParameters(
        resolution_cm_per_px=model.get_metadata_resolution(),
        tile_size_px=model.get_metadata_tile_size(),
        batch_size=1,
        local_cache=False,
        processed_area_type=ProcessedAreaType.ENTIRE_LAYER,
        mask_layer_id=None,
        input_layer_id=layer.id(),
        input_channels_mapping=bands,
        postprocessing_dilate_erode_size=model.get_metadata_segmentation_small_segment(),
        processing_overlap=ProcessingOverlap(ProcessingOverlapOptions.OVERLAP_IN_PERCENT, percentage=share),
        pixel_classification__probability_threshold=model.get_metadata_segmentation_threshold(),
        model=model,
    )
    job = MapProcessorSegmentation(rlayer=layer, vlayer_mask=None, map_canvas=MagicMock(), params=settings)
    job.run()
    return job.get_result_img()[0].astype(int) - 1  # the plugin counts channels from 1


application = QgsApplication([], False)
application.initQgis()
path, *pairs = sys.argv[1:]
assert Segmentor.get_model_type_from_metadata(path) == "Segmentor"
loaded = Segmentor(path)
loaded.check_loaded_model_outputs()
for scene, out in zip(pairs[::2], pairs[1::2], strict=True):
    np.save(out, channels(loaded, scene))
os._exit(0)  # QGIS may crash while it ends, after all was written
