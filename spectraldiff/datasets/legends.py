"""Class names and colours of the benchmark scenes."""

from spectraldiff_runtime.classes import LandCoverClass


def _classes(table: str) -> tuple[LandCoverClass, ...]:
    """Read one class per line, ``#rrggbb Name``, numbered from 1."""
    lines = [line.split(maxsplit=1) for line in table.strip().splitlines()]
    return tuple(LandCoverClass(value, name, _rgb(code)) for value, (code, name) in enumerate(lines, start=1))


def _rgb(code: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(code.lstrip("#"))
    return red, green, blue


INDIAN_PINES_CLASSES = _classes("""
    #8e44ad Alfalfa
    #f4c430 Corn-notill
    #e67e22 Corn-mintill
    #fff59d Corn
    #66bb6a Grass-pasture
    #1b9e77 Grass-trees
    #c5e384 Grass-pasture-mowed
    #c49a6c Hay-windrowed
    #f48fb1 Oats
    #64c8f5 Soybean-notill
    #1f78b4 Soybean-mintill
    #27348b Soybean-clean
    #b5452c Wheat
    #0b4f1c Woods
    #8a8a8a Buildings-Grass-Trees-Drives
    #e6194b Stone-Steel-Towers
""")
PAVIA_CLASSES = _classes("""
    #9e9e9e Asphalt
    #7cc35b Meadows
    #f2c14e Gravel
    #14602b Trees
    #26c6da Painted metal sheets
    #a1662f Bare Soil
    #7b3fa0 Bitumen
    #d1495b Self-Blocking Bricks
    #1d2a62 Shadows
""")
SALINAS_CLASSES = _classes("""
    #1b9e77 Broccoli green weeds 1
    #0b4f1c Broccoli green weeds 2
    #c49a6c Fallow
    #8d5524 Fallow rough plow
    #e6c79c Fallow smooth
    #f4c430 Stubble
    #8bc34a Celery
    #7b3fa0 Grapes untrained
    #b5452c Soil vineyard develop
    #e67e22 Corn senesced green weeds
    #d9f0a3 Lettuce romaine 4wk
    #64c8f5 Lettuce romaine 5wk
    #1f78b4 Lettuce romaine 6wk
    #27348b Lettuce romaine 7wk
    #f48fb1 Vineyard untrained
    #e6194b Vineyard vertical trellis
""")
KSC_CLASSES = _classes("""
    #c49a6c Scrub
    #8bc34a Willow swamp
    #1b9e77 Cabbage palm hammock
    #f4c430 Cabbage palm/oak hammock
    #0b4f1c Slash pine
    #e67e22 Oak/broadleaf hammock
    #7b3fa0 Hardwood swamp
    #d9f0a3 Graminoid marsh
    #f48fb1 Spartina marsh
    #b5452c Cattail marsh
    #64c8f5 Salt marsh
    #8a8a8a Mud flats
    #1f4fb4 Water
""")
BOTSWANA_CLASSES = _classes("""
    #1f4fb4 Water
    #f4c430 Hippo grass
    #8bc34a Floodplain grasses 1
    #1b9e77 Floodplain grasses 2
    #64c8f5 Reeds
    #0b4f1c Riparian
    #3d3d3d Firescar
    #f48fb1 Island interior
    #e67e22 Acacia woodlands
    #b5452c Acacia shrublands
    #d9f0a3 Acacia grasslands
    #7b3fa0 Short mopane
    #c77dff Mixed mopane
    #c49a6c Exposed soils
""")
HOUSTON_CLASSES = _classes("""
    #7cc35b Healthy grass
    #c5d86d Stressed grass
    #00c2a8 Synthetic grass
    #14602b Trees
    #a1662f Soil
    #1f4fb4 Water
    #f48fb1 Residential
    #d1495b Commercial
    #8a8a8a Road
    #e67e22 Highway
    #7b3fa0 Railway
    #f2c14e Parking Lot 1
    #fff59d Parking Lot 2
    #64c8f5 Tennis Court
    #7a1f1f Running Track
""")
