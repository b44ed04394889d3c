"""Tables of the roofline."""

from typing import Any

from rich.console import Console
from rich.table import Table

# Meaning of the times of nodes, on a GPU and on the CPU.
_MOST = ("Nodes by time of launching", "Nodes by time")


def show(result: dict[str, Any]) -> None:
    """Print the tables on stderr."""
    console = Console(stderr=True)
    table = Table("Ceiling", "Best", "Median of five", title=f"{result['device']}, {result['threads']} threads")
    for name, speed in result["ceilings"].items():
        unit = "GB/s" if "," in name else "Gop/s"
        cells = [f"{speed[key] / 1e9:,.1f} {unit}" for key in ("best", "median")]
        table.add_row(name, *(["none", speed["reason"]] if speed["reason"] else cells))
    console.print(table)
    table = Table("For each pixel of the map", "", title=_title(result))
    for precision, operations in result["operations_per_pixel"].items():
        table.add_row(f"operations in {precision}", f"{operations / 1e6:,.2f} M")
    table.add_row("values of other nodes", f"{result['other_values_per_pixel'] / 1e3:,.1f} k")
    table.add_row("bytes, all nodes", f"{result['bytes_per_pixel_by_node'] / 1e3:,.1f} kB")
    table.add_row("bytes, input, weights and map only", f"{result['least_bytes_per_pixel'] / 1e3:,.1f} kB")
    table.add_row("padded pixels", f"{result['padded_pixels_per_pixel']:.2f}")
    table.add_row("operations over those without a halo", f"{result['halo_overhead']:.2f}")
    table.add_row("floor", f"{result['floor_us_per_pixel']:,.1f} us")
    table.add_row("floor of the bytes that nodes move", f"{result['bytes_floor_us_per_pixel']:,.1f} us")
    for name in ("inference", "map"):
        ratio = result[f"{name}_over_floor"]
        table.add_row(name, f"{result[f'{name}_us_per_pixel']:,.1f} us = {ratio:.2f} floors")
    table.add_row("inference over the larger floor", f"{result['inference_over_larger_floor']:.2f}")
    if result["equal_classes"] is not None:
        table.add_row("same class as on the CPU", f"{result['equal_classes']:.2%}")
    console.print(table)
    _show_made(console, result)
    table = Table("Node", "Operator", "Share", "us a pixel", "Gop/s", title=_MOST[result["device"] == "cpu"])
    for node in result["nodes"]:
        cells = [f"{node['share']:.1%}", f"{node['us_per_pixel']:,.1f}", f"{node['gigaflops']:,.1f}"]
        table.add_row(node["name"], node["operator"], *cells)
    console.print(table)


def _title(result: dict[str, Any]) -> str:
    model = f"{result['preset']}, {result['precision']}"
    return f"{model}, tiles of {result['tile']}, batches of {result['batch']}"


def _show_made(console: Console, result: dict[str, Any]) -> None:
    """Print the times of whole maps of synthetic scenes."""
    table = Table("Synthetic scene", "file to file", "us a pixel", "inference had tiles", title="Whole maps, warm")
    for name in ("mapped", "watched"):
        found = result.get(name)
        if found is not None:
            size = f"{found['height']:,} x {found['width']:,} x {found['bands']}"
            cells = [f"{found['seconds']:,.2f} s", f"{found['us_per_pixel']:,.2f}", f"{found['fed_share']:.0%} of it"]
            table.add_row(size, *cells)
    if table.rows:
        console.print(table)
    if result.get("inference_alone") is not None:
        share, whole = result["inference_alone"]["gpu_share"], result["gpu_busy_share"]
        told = "not told here" if share is None else f"{share:.0%} of inference alone, {whole:.0%} of it within the map"
        console.print(f"GPU busy: {told}")
