"""What is accepted at most, so that no file can ask for all memory or for ever: docs/limits.md says it to users."""

# A scene: pixels along a side (GDAL's own), in all, and bands (as in a GeoTIFF).
SIDE, PIXELS, BANDS = 2**31 - 1, 10**12, 65_535

# A VRT: bytes, levels of VRTs in VRTs, files that are read for one band.
VRT_BYTES, VRT_LEVELS, VRT_READS = 64 * 2**20, 6, 1_000_000

# An HDF5 or netCDF file: entries, values of a list such as wavelengths, pixels of a lookup table, files in files.
HDF5_ENTRIES, HDF5_LIST, LOOKUP_PIXELS, HDF5_LEVELS = 10_000, 1_000_000, 100_000_000, 6

# A model file: bytes (protobuf's own limit), its card, the halo, a name in it, any other text in it.
MODEL_BYTES, CARD_BYTES, HALO, NAME, TEXT = 2**31 - 1, 16 * 2**20, 10_000, 500, 10_000

# Classes of a map and its labels that are compared: the confusion matrix has as many rows and columns.
COMPARED_CLASSES = 1000

# Threads and worker processes: with a million, starting them ends the program.
THREADS = 1024

# A server: seconds without a byte.
TIMEOUT_S = 60

# A vector file that is read as a whole, such as CSV, GeoJSON, KML or dBASE: bytes.
TABLE_BYTES = 2**30

# A polygon of a vector file: how often it may cross itself.
CROSSINGS = 10_000

# JSON that others wrote: levels of nesting, digits of a whole number (64 bits have 20).
JSON_DEPTH, JSON_DIGITS = 32, 25

# A list of scenes: bytes, scenes.
LIST_BYTES, LIST_SCENES = 16 * 2**20, 10_000

# A run folder: bytes of a file of JSON, of one of tensors, and of the list of tensors at its beginning.
RUN_JSON_BYTES, RUN_TENSORS_BYTES, TENSOR_LIST_BYTES = 64 * 2**20, 4 * 2**30, 100 * 10**6

# A folder that is a scene, as a Zarr is: files and folders in it.
FOLDER_ENTRIES = 1_000_000
