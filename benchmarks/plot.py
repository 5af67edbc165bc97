"""Compare rate-distortion curves: BD-rates as a table, and a plot.

    python benchmarks/plot.py clric.json jpeg.json avif.json --anchors anchors.json --most 1 -o rd.png

A file of anchors holds {"name": [[bpp, psnr], ...], ...}, means over the same images.
"""

from __future__ import annotations

import math
from pathlib import Path

import click
from common import table
from curves import METRICS, anchor_curves, results_curves

from codec.training.bd_rate import Curve, bd_rate

AXES = {
    "psnr": "PSNR, dB", "msssim": "MS-SSIM, dB", "ssimulacra2": "SSIMULACRA2", "lpips": "LPIPS (lower is better)",
}  # fmt: skip


def bd_table(metric: str, curves: list[Curve], references: list[Curve]) -> str:
    """A row a reference, a column a curve."""
    rows = [[reference.name, *(_cell(curve, reference) for curve in curves)] for reference in references]
    return table([[f"BD-rate at equal {METRICS[metric]} against", *(curve.name for curve in curves)], *rows])


def _up_to(most: float, curve: Curve) -> Curve:
    """The points of a curve that have at most so many bits per pixel."""
    return Curve(curve.name, curve.bpp[curve.bpp <= most], curve.values[curve.bpp <= most])


def _cell(curve: Curve, reference: Curve) -> str:
    if curve is reference:
        return ""
    change = bd_rate(curve, reference)
    return "no overlap" if change is None else f"{change:+.2f} %"


def plot(curves: dict[str, list[Curve]], anchors: list[Curve], out: Path) -> None:
    """A panel a metric: results as solid lines, anchors as dashed ones in that of PSNR."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, ScalarFormatter

    columns = min(2, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(7 * columns, 5 * rows), layout="constrained", squeeze=False)
    for axes, (metric, measured) in zip(grid.flat, curves.items(), strict=False):
        for curve in measured:
            axes.plot(curve.bpp, curve.values, "o-", markersize=4, label=curve.name)
        for anchor in anchors if metric == "psnr" else []:
            axes.plot(anchor.bpp, anchor.values, "x--", markersize=4, linewidth=1, label=anchor.name)
        axes.set(xscale="log", xlabel="bits per pixel", ylabel=AXES[metric])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right upper")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="RESULTS...", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--anchors", "anchor_files", metavar="FILE", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="Other curves of PSNR; may be given several times.",
)  # fmt: skip
@click.option("--most", type=float, default=math.inf, help="Bits per pixel up to which curves are compared.")
@click.option("-o", "--output", metavar="PNG", type=click.Path(path_type=Path), help="Write a plot.")
def main(results: tuple[Path, ...], anchor_files: tuple[Path, ...], most: float, output: Path | None) -> None:
    """Compare files of results with each other and with anchors."""
    try:
        curves, images = results_curves(list(results))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    anchors = [curve for path in anchor_files for curve in anchor_curves(path)]
    click.echo(f"means over {len(images)} images: {', '.join(images)}")
    for metric, measured in curves.items():
        compared = [_up_to(most, curve) for curve in measured]
        references = [*compared, *(_up_to(most, curve) for curve in anchors)] if metric == "psnr" else compared
        click.echo(f"\n{bd_table(metric, compared, references)}")
    if output:
        plot(curves, anchors, output)


if __name__ == "__main__":
    main()
