"""Compare rate-distortion curves: BD-rates as a table, and a plot.

    python benchmarks/plot.py effort3.json effort5.json --anchors anchors.json -o rd.png

A file of anchors holds {"name": [[bpp, psnr], ...], ...}, means over the same images.
"""

from __future__ import annotations

from pathlib import Path

import click
from common import table
from curves import Curve, anchor_curves, bd_rate, results_curves


def bd_table(curves: list[Curve], references: list[Curve]) -> str:
    """A row a reference, a column a curve."""
    rows = [[reference.name, *(_cell(curve, reference) for curve in curves)] for reference in references]
    return table([["BD-rate against", *(curve.name for curve in curves)], *rows])


def _cell(curve: Curve, reference: Curve) -> str:
    if curve is reference:
        return ""
    change = bd_rate(curve, reference)
    return "no overlap" if change is None else f"{change:+.2f} %"


def plot(curves: list[Curve], anchors: list[Curve], out: Path) -> None:
    """Results as solid lines, anchors as dashed ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, ScalarFormatter

    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for curve in curves:
        axes.plot(curve.bpp, curve.psnr, "o-", markersize=4, label=curve.name)
    for anchor in anchors:
        axes.plot(anchor.bpp, anchor.psnr, "x--", markersize=4, linewidth=1, label=anchor.name)
    axes.set(xscale="log", xlabel="bits per pixel", ylabel="PSNR, dB")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="RESULTS...", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--anchors", "anchor_files", metavar="FILE", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="Other curves; may be given several times.",
)  # fmt: skip
@click.option("-o", "--output", metavar="PNG", type=click.Path(path_type=Path), help="Write a plot.")
def main(results: tuple[Path, ...], anchor_files: tuple[Path, ...], output: Path | None) -> None:
    """Compare files of results with each other and with anchors."""
    try:
        curves, images = results_curves(list(results))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    anchors = [curve for path in anchor_files for curve in anchor_curves(path)]
    click.echo(f"means over {len(images)} images: {', '.join(images)}\n")
    click.echo(bd_table(curves, [*curves, *anchors]))
    if output:
        plot(curves, anchors, output)


if __name__ == "__main__":
    main()
