"""Run by QGIS's own Python: prints as JSON how QGIS shows rasters, and draws them into the folder given first."""

import hashlib
import json
import re
import sys
from pathlib import Path

from qgis.core import (
    Qgis,
    QgsApplication,
    QgsCommandLineUtils,
    QgsLayerTree,
    QgsLayerTreeLayer,
    QgsLayerTreeModel,
    QgsLegendRenderer,
    QgsLegendSettings,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsRenderContext,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QImage, QPainter

# Whether it takes names and colours from an attribute table inside a TIFF: GDAL reads it, and QGIS draws by it.
GDAL = re.findall(r"GDAL/OGR\D*(\d+)\.(\d+)", QgsCommandLineUtils.allVersions())[-1]  # built with, running with
TABLES = tuple(map(int, GDAL)) >= (3, 12) and Qgis.versionInt() >= 3_30_00


def described(path: str, folder: str) -> dict[str, object]:
    """Open a layer as a user does, with whatever lies next to it; return its renderer and the names in its legend."""
    layer = QgsVectorLayer(path, "map", "ogr") if path.endswith(".gpkg") else QgsRasterLayer(path, "map", "gdal")
    assert layer.isValid(), path
    nodes = layer.legend().createLayerTreeModelLegendNodes(QgsLayerTreeLayer(layer))
    renderer = layer.renderer()
    if renderer.type() == "categorizedSymbol":
        colours = [c.symbol().color().name() for c in renderer.categories()]
    else:
        colours = [c.color.name() for c in renderer.classes()] if renderer.type() == "paletted" else []
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setBackgroundColor(QColor("white"))
    settings.setOutputSize(QSize(600, 500))
    settings.setExtent(layer.extent())
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    picture = job.renderedImage()
    picture.save(str(Path(folder, Path(path).stem + ".png")))
    legend_picture(layer).save(str(Path(folder, Path(path).stem + "_legend.png")))
    pixels = [picture.pixelColor(x, y) for x in range(0, 600, 5) for y in range(0, 500, 5)]
    drawn = sorted({pixel.name() for pixel in pixels})
    texts = [str(node.data(0)) for node in nodes]
    names = [text for text in texts if not text.startswith("Band 1")]  # the title
    facts = {"renderer": renderer.type(), "names": names, "colours": colours, "drawn": drawn}
    picture = picture.convertToFormat(QImage.Format_RGB888)
    return facts | {
        "picture": hashlib.sha256(picture.constBits().asstring(picture.sizeInBytes())).hexdigest(),
        "tables": TABLES,
    }


def legend_picture(layer: object) -> QImage:
    """Draw a layer's legend, as the panel of layers shows it, as far as fits 500 x 900 pixels."""
    tree = QgsLayerTree()
    tree.addLayer(layer)
    model, settings = QgsLayerTreeModel(tree), QgsLegendSettings()
    legend = QgsLegendRenderer(model, settings)  # which keeps neither
    picture = QImage(500, 900, QImage.Format_RGB32)
    picture.fill(QColor("white"))
    painter = QPainter(picture)
    context = QgsRenderContext.fromQPainter(painter)
    painter.scale(context.scaleFactor(), context.scaleFactor())
    legend.drawLegend(context)
    painter.end()
    return picture


application = QgsApplication([], False)
application.initQgis()
sys.stdout.write(json.dumps([described(path, sys.argv[1]) for path in sys.argv[2:]]))
application.exitQgis()
