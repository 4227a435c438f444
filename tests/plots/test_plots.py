import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.colors import to_rgba
from seeing import some_evidence, some_unseen

from rosetta import plots
from rosetta.laws import theory
from rosetta.plots import style
from rosetta.plots.properties import CATEGORIES
from rosetta.sources import scene
from rosetta.viewer.page import Context, Member, RosettaNeuron

# Drawn in full, so that a layout that does not fit is a warning too, and each warning an error.
pytestmark = pytest.mark.filterwarnings("error")

SIZES = np.array([100.0, 200.0, 400.0])
POINTS = pd.DataFrame({
    "curve": ["pythia-opt"] * 3 + ["gpt2-mine"] * 2, "k": 1, "neurons": [*SIZES, 150.0, 300.0],
    "raw": [*2 * SIZES**0.5, 0, 9], "calibrated": [*3 * SIZES, 0, 2],
    "permuted_mean": [4.0, 5.0, 6.0, 0.0, 2.0], "permuted_low": [3.0, 4.5, -1.0, np.nan, np.nan],
    "permuted_high": [5.0, 5.5, 13.0, np.nan, np.nan], "positions": 9_000, "permuted_positions": [800, 900, 800, 900, 900],
    "aligned_same": [25, 30, 45, 1, 8],
})  # fmt: skip
SHARES = pd.DataFrame({
    "curve": ["pythia-opt"] * 3 + ["gpt2-mine"] * 2, "neurons": [*SIZES, 150.0, 300.0], "count": "raw",
    "share": [*2 * SIZES**-0.5, 0, 0.03], "low": [*SIZES**-0.5, 0, 0.01], "high": [*3 * SIZES**-0.5, 0.02, 0.05],
})  # fmt: skip
SHARES = pd.concat([SHARES, SHARES.assign(count="strict", share=0.5 * SHARES["share"])])
PACKINGS = pd.DataFrame({
    "packing": ["isotropic"] * 2 + ["sets"] * 2, "tail": [100, 400] * 2, "spread": [0.05, 0.02, 0.04, 0.03],
    "low": [0.04, 0.01, 0.0, 0.02], "high": [0.06, 0.03, 0.05, 0.04], "expected": [0.05, 0.025] * 2,
})  # fmt: skip
K_POINTS = pd.concat([POINTS[:3], POINTS[:3].assign(k=5, raw=4 * SIZES)])
SWEEP = pd.DataFrame({
    "tokens": [100, 1_000, 10_000], "count": [5, 8, 9], "overlap": [np.nan, 0.5, 0.9], "jaccard": [np.nan, 0.3, 0.8]
})  # fmt: skip
BY_BUDGET = pd.DataFrame({
    "what": ["aligned", "untrained", "untrained", "permuted"] * 2, "positions": [100] * 4 + [400] * 4,
    "pairs": [9, 5, 7, 8, 8, 2, 4, 9], "mean": 0.5, "high": [0.9, 0.3, 0.4, 0.5, 0.9, 0.2, 0.4, 0.1],
})  # fmt: skip
BY_THINNING = pd.DataFrame({
    "t": [np.nan, 1e-2], "pairs": [9, 8], "strict": [4, 8], "untrained": [3.0, 6.5], "untrained_high": [0.4, 0.2],
    "permuted_high": [0.1, 0.15],
})  # fmt: skip
BY_OUTLIERS = pd.DataFrame(
    {
        "aligned": [9, 3],
        "permuted": [20, 0],
        "directions_a": [50.0, 2.0],
        "directions_b": [40.0, 1.5],
        "left_aligned": [9, 8],
        "left_permuted": [20, 19],
        "left_directions_a": [50.0, 49.0],
        "left_directions_b": [40.0, 41.0],
    }
)
EXPONENTS = pd.DataFrame({
    "curve": ["pythia-opt", "opt-qwen"], "alpha": [0.6, 0.8], "alpha_low": [0.4, np.nan], "alpha_high": [0.9, np.nan],
})  # fmt: skip
PREDICTIONS = pd.DataFrame(
    {
        "curve": ["pythia-opt", "opt-qwen"],
        "predicted": [90, 50],
        "low": [70, 20],
        "high": [120, 80],
        "measured": [95, 30],
    }
)
POLARIZATION = pd.DataFrame(
    [
        (family, size, population, shift + np.log10(size), shift, np.nan if size == 400 else shift + 4)
        for family in ("gpt2", "mine")
        for size in SIZES
        for population, shift in (("Rosetta", 3.0), ("other", 1.0))
    ],
    columns=["family", "neurons", "population", "mean", "low", "high"],
)
RATES = pd.DataFrame(
    [
        ("openclip", "m", 100, "Rosetta", 0.5, 0.3, 0.7), ("openclip", "m", 100, "other", 0.0, 0.0, 0.2),
        ("openclip", "n", 400, "Rosetta", 0.6, 0.5, 0.7), ("openclip", "n", 400, "other", 0.1, 0.05, 0.2),
        ("mine", "o", 200, "Rosetta", np.nan, np.nan, np.nan), ("mine", "o", 200, "other", 0.9, 0.7, 1.0),
    ],
    columns=["family", "model", "neurons", "population", "rate", "low", "high"],
)  # fmt: skip
AGAINST = pd.DataFrame(
    [
        ("onestep-dinov2", "m_t", 200, 8), ("onestep-dinov2", "m_t", 500, 14), ("onestep-dinov3", "m_t", 200, 9),
        ("onestep-dinov3", "m_t", 500, 11), ("onestep-dinov3", "as released", 200, 3), ("onestep-dinov3", "as released", 500, 2),
    ],
    columns=["curve", "capture", "neurons", "count"],
)  # fmt: skip
VALUES = {"Rosetta": [5.0, -1.0, 2.0, 2.0, np.nan], "other": [0.5, 90.0, 1.0]}
KURTOSES = pd.DataFrame(
    [("gpt2", "large", 40, p, value) for p, some in VALUES.items() for value in some]
    + [("gpt2", "small", 20, "Rosetta", 7.0), ("mine", "only", 9, "Rosetta", 1.0), ("mine", "only", 9, "other", 0.0)],
    columns=["family", "model", "neurons", "population", "kurtosis"],
)
FIRING = pd.DataFrame(
    [
        (f"m{size}", int(size), population, category, i + size / 100, i + shift, i + 9 + size / 100 + shift)
        for size in SIZES
        for population, shift in (("Rosetta", np.nan), ("other", 0))
        for i, category in enumerate(["my own", "math", "code"])
    ],
    columns=["model", "neurons", "population", "category", "mean", "low", "high"],
)
DEPTHS = pd.DataFrame([[0.5, 0.2, 0.3], [0.0, 1.0, 0.0]], index=["small", "large"])
RUNS = pd.DataFrame({
    "filter": ["base", "random", "random", "Rosetta", "Rosetta"], "perplexity": [40.0, 30.0, 34.0, 21.0, 22.0]
})  # fmt: skip
TABLE1 = pd.DataFrame({
    "filter": ["base", "random", "Rosetta"], "mean": [40.0, 32.0, 21.5], "low": [np.nan, 29.0, 20.0],
    "high": [np.nan, 35.0, 23.0],
})  # fmt: skip
CURVES = {
    name: pd.DataFrame({"recall": [0.2, 0.6, 1.0], "precision": [1.0, p, 0.1]})
    for name, p in (("Rosetta", 0.8), ("probe", 0.9))
}
MIX = pd.DataFrame({"C": [0.25, 1.0], "Python": [0.75, 0.0]}, index=["random", "oracle"])
REFERENCES = pd.DataFrame({
    "kind": ["neuron", "neuron", "neuron", "average", "average", "probe", "tokens"],
    "filter": ["L0/U1", "L1/U2", "L0/U9", "mean of 2", "mean of 10", "linear probe", "bag of tokens"],
    "f1": [0.7, 0.8, 0.3, 0.75, 0.6, 0.9, 0.95],
})  # fmt: skip
EXAMPLES = pd.DataFrame({
    "example": [0, 0, 0, 1], "text": ["a b", "\n", "漢", "</b>"], "x L0/U1": [1.0, 0.0, 4.0, 2.0],
    "y L1/U2": [0.0, -1.0, 0.0, 0.0],
})  # fmt: skip
MATCHED, PERMUTED, UNTRAINED = (
    [pd.DataFrame({"correlation": values}) for values in some]
    for some in ([[0.9, 0.91, 0.5]], [[0.11, 0.115], [0.13, 0.31]], [[0.2]])
)
for matched in (*MATCHED, *PERMUTED, *UNTRAINED):
    matched.attrs = {"positions": 9_000}
ISOLATION = {n: theory.optimal_isolation(n, 1.5) for n in (64, 128)}
GRID = pd.DataFrame(
    [
        (beta, size, 2.0 * size, size / 10, 0.0 if beta == 2 else 1 / size)
        for beta in (1.5, 2.0)
        for size in (64, 128, 256)
        for _ in range(2)
    ],
    columns=["beta", "neurons", "rosetta_count", "rosetta_isolation", "non_rosetta_coordinates"],
)
SLOPES = pd.DataFrame(
    {"panel": ["a", "b", "c", "a", "b"], "beta": [1.5, 1.5, 1.5, 2.0, 2.0], "alpha": [1.0, 1.0, -1.0, 1.0, 1.0]}
)
READINGS = pd.DataFrame(
    [
        (background, reading, beta, -beta / 3, -beta / 3 - 0.1, np.nan)
        for background in ("all", "unassigned")
        for reading in ("coordinates", "features")
        for beta in (1.5, 2.0)
    ],
    columns=["background", "reading", "beta", "alpha", "alpha_low", "alpha_high"],
)
ERRORS = pd.DataFrame(
    [
        (choice, value, panel, beta, 0.01 * i)
        for choice, values in (("kappa", ["10", "4"]), ("background", ["all", "none", "some"]))
        for i, value in enumerate(values)
        for panel in "abc"
        for beta in (1.5, 2.0)
    ],
    columns=["choice", "value", "panel", "beta", "error"],
)
SPANS = np.array([[0, 1], [1, 3], [3, 6]]), np.array([[0, 3], [3, 4], [4, 6]])
SHARED = np.array([[0, 3], [3, 6]])
COUNTS = pd.DataFrame({"x": [1, 1, 1, 2], "y": [1, 3, 12, 9]})
NEURON = RosettaNeuron(
    (Member("m", 0, 1, 0.0, 1.0, (), None),), "label", "code",
    (Context("0123456789", "s", "code", (8, 9), {"m": [(0, 5, 1.0), (8, 9, 4.0)]}), Context("a\né漢", "s", "code", (0, 1), {})),
)  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
MAPS = np.random.default_rng(1).normal(size=(6, 4, 4))
TWO_MAPS = {"maker L0/U1": (MAPS[0], MAPS[1]), "seer L1/U2": (MAPS[2, :3, :3], MAPS[3])}
SEEN = [
    plots.SeenPair(
        "maker L0/U1", "seer L1/U2", 0.5, [plots.Seen(PIXELS[i], MAPS[i], 2 * MAPS[i + 1]) for i in (0, 1, 2)]
    ),
    plots.SeenPair("maker L0/U9", "seer L1/U8", -0.25, [plots.Seen(PIXELS[3], -(MAPS[3] ** 2), MAPS[4])]),
]
GALLERIES = {
    "Rosetta Neurons": {"L0/U1": [(PIXELS[0], MAPS[0]), (PIXELS[1], None)], "L0/U2": [(PIXELS[2], None)]},
    "other neurons": {"L0/U3": [(PIXELS[4], None)]},
}  # fmt: skip
IMAGE_SWEEP = pd.DataFrame({"images": [1, 10], "real": [3, 9], "generated": [2, 8], "jaccard": [0.1, 0.8]})
SIZE = "neurons (mean of the matched models)"

#: What each function draws on, the labels of its axes, and the texts of its legends.
CASES = {
    "fig02": (lambda: plots.fig02(EXAMPLES, "r = 0.9"), {"activation"}, []),
    "correlation_histogram": (
        lambda: plots.correlation_histogram(
            MATCHED[0], {"permuted": PERMUTED, "untrained": UNTRAINED}, 0.4, MATCHED[0]
        ),
        {"Pearson correlation of a matched pair", "pairs"},
        ["trained: 3 pairs", "untrained networks: 1 pairs", "permuted, all positions: 2 pairs", "null threshold, r = 0.400"],
    ),
    "fig03a": (
        lambda: plots.fig03a(POINTS),
        {SIZE, "Rosetta Neurons"},
        [r"Pythia–OPT, $\alpha$ = 0.50, $R^2$ = 1.000", "GPT-2–mine"],
    ),
    "fig03a calibrated": (
        lambda: plots.fig03a(POINTS, "calibrated"),
        {SIZE, "Rosetta Neurons, calibrated"},
        [r"Pythia–OPT, $\alpha$ = 1.00, $R^2$ = 1.000", "GPT-2–mine"],
    ),
    "fig03a share": (
        lambda: plots.fig03a(SHARES, "strict", share=True),
        {SIZE, "share of all neurons, strict"},
        [r"Pythia–OPT, $\alpha - 1$ = -0.50 [-0.50, -0.50]", "GPT-2–mine"],
    ),
    "null_counts": (
        lambda: plots.null_counts(POINTS, "permuted"),
        {SIZE, "matched pairs"},
        [
            "dashed: permuted, mean and 95% interval; faint: trained\nboth over the first 800 to 900 positions",
            "Pythia–OPT",
            "GPT-2–mine",
        ],
    ),
    "fig25": (
        lambda: plots.fig25(K_POINTS),
        {SIZE, "matched pairs"},
        [r"k = 1, $\alpha$ = 0.50", r"k = 5, $\alpha$ = 1.00"],
    ),
    "fig33": (
        lambda: plots.fig33(SWEEP),
        {"tokens", "Rosetta Neurons", "overlap with the set before"},
        ["of this set, in the set before", "Jaccard index"],
    ),
    "fig33 images": (
        lambda: plots.fig33(SWEEP.rename(columns={"tokens": "images"}), "images"),
        {"images", "Rosetta Neurons", "overlap with the set before"},
        ["of this set, in the set before", "Jaccard index"],
    ),
    "scenes": (lambda: plots.scenes([scene(0), scene(1)]), set(), []),
    "fig24": (lambda: plots.fig24(PIXELS[0], TWO_MAPS), {"activation"}, []),
    "fig14": (lambda: plots.fig14(SEEN), set(), []),
    "fig21": (lambda: plots.fig21(GALLERIES), {"L0/U1", "L0/U2", "L0/U3"}, []),
    "fig35": (
        lambda: plots.fig35(IMAGE_SWEEP),
        {"images", "Rosetta Neurons", "Jaccard index of the two sets"},
        ["real images", "generated images"],
    ),
    "positions": (
        lambda: plots.positions(BY_BUDGET, BY_THINNING, BY_OUTLIERS),
        {"positions", "matched pairs", "correlation of a pair", "directions (participation ratio)"},
        ["trained", "untrained", "permuted", "trained, mean", "untrained, null quantile", "permuted, null quantile",
         r"as $1\,/\sqrt{\mathrm{positions}}$",
         "trained", "trained, above both nulls", "untrained", "trained", "permuted", "trained, left out",
         "permuted, left out"],
    ),
    "exponents": (
        lambda: plots.exponents(EXPONENTS, (0.5, 0.7)),
        {r"exponent $\alpha$ of the raw count"}, ["reported there", "the share stays", "measured here, 95%"],
    ),
    "predictions": (
        lambda: plots.predictions(PREDICTIONS),
        {"Rosetta Neurons at the largest size"},
        ["measured", "predicted from the smaller sizes, 95%"],
    ),
    "fig06a": (
        lambda: plots.fig06a(POLARIZATION),
        {"neurons of the model", "mean excess kurtosis"},
        ["Rosetta Neurons", "other neurons"],
    ),
    "fig06a, one family": (
        lambda: plots.fig06a(POLARIZATION[POLARIZATION.family == "gpt2"]),
        {"neurons of the model", "mean excess kurtosis"},
        ["Rosetta Neurons", "other neurons"],
    ),
    "fig06b": (
        lambda: plots.fig06b(RATES),
        {"neurons of the model", "judged monosemantic"},
        ["Rosetta Neurons", "other neurons"],
    ),
    "fig36": (
        lambda: plots.fig36(RATES[RATES.family == "openclip"].assign(images=[2, 2, 20, 20])),
        {"strongest images shown", "judged monosemantic"},
        ["Rosetta Neurons", "other neurons"],
    ),
    "fig38": (
        lambda: plots.fig38(AGAINST),
        {"neurons (mean of the matched models)", "Rosetta Neurons"},
        ["One-step–DINOv2", "One-step–DINOv3", "One-step–DINOv3, block inputs in place of $m_t$"],
    ),
    "composite": (lambda: plots.composite(some_evidence(1, 3)[0]), set(), []),
    "lettered": (lambda: plots.lettered(some_unseen(1)[0]), set(), []),
    "judged": (lambda: plots.judged([("m L0/U1 (other): no", some_evidence(1, 3)[0])] * 2), set(), []),
    "kurtosis_tails": (
        lambda: plots.kurtosis_tails(KURTOSES),
        {"excess kurtosis", "share of neurons above"},
        ["Rosetta Neurons", "other neurons"],
    ),
    "fig07": (
        lambda: plots.fig07(FIRING, ("Rosetta", "other")),
        {"normalized firing"},
        ["neurons of the model", "100", "200", "400"],
    ),
    "fig31": (lambda: plots.fig31(DEPTHS), {"normalized depth, layer / (layers − 1)", "share of Rosetta Neurons"}, []),
    "fig08": (
        lambda: plots.fig08([NEURON] * 2, "title"),
        {"activation, as a share of that neuron's strongest here"},
        [],
    ),
    "examples": (lambda: plots.examples({"low": [("L0/U1", NEURON, "m")] * 2, "high": [("t", NEURON, "m")]}), set(), []),
    "perplexity": (
        lambda: plots.perplexity(RUNS, TABLE1),
        {"perplexity on test functions of the target language"},
        [],
    ),
    "precision_recall": (lambda: plots.precision_recall(CURVES), {"recall", "precision"}, ["Rosetta", "probe"]),
    "language_mix": (lambda: plots.language_mix(MIX), {"share of the selected tokens"}, ["C", "Python"]),
    "what_a_neuron_is_worth": (
        lambda: plots.what_a_neuron_is_worth(REFERENCES),
        {"rank of the neuron (k of the mean)", "F1 over functions"},
        ["a Rosetta Neuron that qualifies", "the one that is chosen", "mean of the first k",
         "linear probe on all of them", "bag of tokens"],
    ),
    "fig05": (
        lambda: plots.fig05(ISOLATION, 1.5, 2.0),
        {"rank r of the feature (importance $r^{-1.5}$)", "optimal isolation $s_r$"},
        [rf"N = {n}: $R_\tau$ = {(s >= 2).sum()}, $s_r > 0$ for {(s > 0).sum()}" for n, s in ISOLATION.items()],
    ),
    "fig27": (
        lambda: plots.fig27(GRID, SLOPES),
        {"neurons N", "(a) Rosetta Neurons", "(b) mean isolation\nof Rosetta Neurons", "(c) isolation of\nnon-Rosetta neurons"},
        [text for panel, fitted in (("a", "1.000 1.000"), ("b", "1.000 1.000"), ("c", "-1.000 no fit")) for text in (
            "slope (theory)",
            *(rf"$\beta$ = {beta:g}: {alpha} ({theory.exponents(beta)[panel]:.3f})"
              for beta, alpha in zip((1.5, 2), fitted.split(" ", 1), strict=True)),
        )],
    ),
    "packing": (
        lambda: plots.packing(PACKINGS),
        {"features L in the tail", "covariance of the rest,\nroot mean square"},
        ["packing of the tail (dashed: expected)", "isotropic", "sets"],
    ),
    "panel_c": (
        lambda: plots.panel_c(READINGS),
        {r"$\beta$", "fitted slope, 95% interval"},
        [r"theory, $(1-\beta)/\beta$", "coordinates", "features"],
    ),
    "slope_errors": (
        lambda: plots.slope_errors(ERRORS),
        {"kappa", "background", "slope: measured − theory"},
        [rf"({panel}) $\beta$ = {beta}" for panel in "ab" for beta in ("1.5", "2")],
    ),
    "fig23": (lambda: plots.fig23("a 漢\n", ("X", "Y"), SPANS, SHARED), {"byte of the text (UTF-8)"}, []),
    "tokens_per_span": (
        lambda: plots.tokens_per_span(COUNTS),
        {"tokens in one aligned span", "share of spans"},
        ["x", "y"],
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def draw(name: str) -> plt.Figure:
    return drawn(CASES[name][0]())


def drawn(figure: plt.Figure) -> plt.Figure:
    figure.canvas.draw()
    return figure


def texts(legend) -> list[str]:
    return [text for text in (legend.get_title().get_text(), *(t.get_text() for t in legend.get_texts())) if text]


def labelled(axes, text: str):
    """The line or the points that a legend names so."""
    handles, names = axes.get_legend_handles_labels()
    return handles[names.index(text)]


def points_and_bars(container) -> tuple[np.ndarray, np.ndarray]:
    """The points of an errorbar, [n, 2], and the ends of its bars, [n, 2, 2]."""
    line, _, (bars,) = container
    return line.get_xydata(), np.array(bars.get_segments())


def test_every_figure_is_tried():
    assert {name.split(",")[0].split(" ")[0] for name in CASES} == set(plots.__all__) - {
        "Seen",
        "SeenPair",
        "save",
        "label",
        "table",
    }


@pytest.mark.parametrize("name", CASES)
def test_a_figure_draws_without_a_warning_and_says_what_it_shows(name):
    figure, (_, labels, legends) = draw(name), CASES[name]
    assert {text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())} - {""} == labels
    found = [legend for part in (figure, *figure.axes) for legend in part.findobj(plt.matplotlib.legend.Legend)]
    found = list(dict.fromkeys(found))
    assert sorted(text for legend in found for text in texts(legend)) == sorted(legends)
    for axes in figure.axes:
        if axes.axison:  # one that shares its axis may leave the label to the other
            near = axes.get_shared_x_axes().get_siblings(axes) + axes.get_shared_y_axes().get_siblings(axes)
            assert any(other.get_xlabel() or other.get_ylabel() for other in near)


def test_a_saved_figure_is_a_whole_png_under_figures_and_what_is_shown(tmp_path, monkeypatch):
    shown, figure = [], draw("fig33")
    monkeypatch.setattr(style, "display", shown.append)
    plots.save(figure, tmp_path, "fig33")
    (file,) = tmp_path.rglob("*.*")
    assert file == tmp_path / "figures" / "fig33.png"
    assert plt.imread(file).shape[:2] == pytest.approx(figure.get_size_inches()[::-1] * 160, abs=1)
    (picture,) = shown
    assert picture.data == file.read_bytes()
    assert picture.width == pytest.approx(figure.get_figwidth() * 110, abs=1)
    assert not plt.fignum_exists(figure.number)  # or the notebook would draw and show it once more


# ---------------------------------------------------------------------------------------------------------------------
# Data drawn = data given


def test_curves_and_their_fits_lie_where_the_counts_are():
    axes = draw("fig03a").axes[0]
    fit, curve, unfitted = axes.lines  # a count of zero has no logarithm: no fit
    np.testing.assert_allclose(curve.get_xydata(), np.c_[SIZES, 2 * SIZES**0.5])
    np.testing.assert_allclose(fit.get_xydata(), [[100, 20], [400, 40]])
    np.testing.assert_allclose(unfitted.get_xydata(), [[150, 0], [300, 9]])
    lines = draw("fig25").axes[0].lines
    np.testing.assert_allclose(lines[3].get_xydata(), np.c_[SIZES, 4 * SIZES])


def test_null_counts_stay_on_a_logarithmic_axis():
    containers = draw("null_counts").axes[0].containers
    points, bars = points_and_bars(containers[0])
    np.testing.assert_allclose(points, np.c_[SIZES, [4, 5, 6]])
    np.testing.assert_allclose(bars[:, :, 1], [[3, 5], [4.5, 5.5], [0.5, 13]])
    points, bars = points_and_bars(containers[1])  # of one seed: no interval
    np.testing.assert_allclose(points[:, 1], [0.5, 2])
    np.testing.assert_allclose(bars[:, :, 1], [[0.5, 0.5], [2, 2]])


def test_a_null_stands_beside_the_trained_count_over_its_own_positions():
    untrained = POINTS.rename(columns=lambda name: name.replace("permuted", "untrained"))
    for figure, column in ((draw("null_counts"), "aligned_same"), (plots.null_counts(untrained, "untrained"), "raw")):
        np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), POINTS[["neurons", column]][:3])
    everywhere = plots.null_counts(POINTS.assign(permuted_positions=9_000), "permuted")
    assert "both over all positions" in everywhere.legends[0].get_title().get_text()


def test_the_root_law_runs_through_the_permuted_null_over_the_most_positions():
    axes = draw("positions").axes[1]
    line = labelled(axes, r"as $1\,/\sqrt{\mathrm{positions}}$")
    np.testing.assert_allclose(line.get_xydata(), [[100, 0.2], [400, 0.1]])


def test_the_histogram_has_the_trained_pairs_over_the_same_positions_where_those_are_fewer():
    fewer = [table.copy() for table in (*PERMUTED, MATCHED[0][:2])]
    for table in fewer:
        table.attrs = {"positions": 800}
    *permuted, aligned_same = fewer
    axes = drawn(
        plots.correlation_histogram(MATCHED[0], {"permuted": permuted, "untrained": UNTRAINED}, 0.4, aligned_same)
    ).axes[0]
    _, names = axes.get_legend_handles_labels()
    over = "the first 800 positions"
    assert {"trained: 3 pairs", f"permuted, {over}: 2 pairs", f"trained, {over}: 2 pairs"} < set(names)
    assert sum(bar.get_height() for bar in axes.containers[3]) == 2


def test_the_sweep_and_the_predictions_are_drawn_as_given():
    left, right = draw("fig33").axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), SWEEP[["tokens", "count"]])
    for line, column in zip(right.lines, ("overlap", "jaccard"), strict=True):
        np.testing.assert_allclose(line.get_xydata(), SWEEP[["tokens", column]])
    axes = draw("predictions").axes[0]
    points, bars = points_and_bars(axes.containers[0])
    np.testing.assert_allclose(points, [[90, 1], [50, 0]])
    np.testing.assert_allclose(bars[:, :, 0], [[70, 120], [20, 80]])
    np.testing.assert_allclose(labelled(axes, "measured").get_xydata(), [[95, 1], [30, 0]])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Pythia–OPT", "OPT–Qwen"]


def test_rates_stand_where_they_are_with_wilsons_bars_and_an_unknown_one_is_left_out():
    figure = draw("fig06b")
    assert all(axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 1 for axes in figure.axes)
    assert [axes.get_title() for axes in figure.axes] == ["OpenCLIP", "mine"]
    for axes, family in zip(figure.axes, ("openclip", "mine"), strict=True):
        for container, population in zip(axes.containers, ("Rosetta", "other"), strict=True):
            of = RATES[(RATES.family == family) & (RATES.population == population)].dropna()
            points, bars = points_and_bars(container)
            np.testing.assert_allclose(points[:, 1], of["rate"])
            np.testing.assert_allclose(points[:, 0], of["neurons"], rtol=0.03)
            if of.empty:
                continue
            np.testing.assert_allclose(bars[:, :, 1], of[["low", "high"]])


def test_what_is_read_wrongly_is_hollow_and_in_its_curves_colour():
    axes = draw("fig38").axes[0]
    two, right, wrong = axes.get_lines()
    assert right.get_color() == wrong.get_color() != two.get_color()
    assert right.get_markerfacecolor() != "white" == wrong.get_markerfacecolor()
    np.testing.assert_allclose(wrong.get_xydata(), [[200, 3], [500, 2]])


def test_exponents_lie_beside_the_papers_range_without_a_bar_where_there_is_no_interval():
    axes = draw("exponents").axes[0]
    points, bars = points_and_bars(axes.containers[0])
    np.testing.assert_allclose(points, [[0.6, 1], [0.8, 0]])
    np.testing.assert_allclose(bars[:, :, 0], [[0.4, 0.9], [0.8, 0.8]])
    band = labelled(axes, "reported there")
    np.testing.assert_allclose([band.get_x(), band.get_x() + band.get_width()], [0.5, 0.7])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Pythia–OPT", "OPT–Qwen"]


def test_polarization_has_a_panel_a_family_and_bars_where_there_is_an_interval():
    figure = draw("fig06a")
    assert [axes.get_title() for axes in figure.axes] == ["GPT-2", "mine"]
    for axes in figure.axes:
        for container, shift in zip(axes.containers, (3, 1), strict=True):
            points, bars = points_and_bars(container)
            np.testing.assert_allclose(points, np.c_[SIZES, shift + np.log10(SIZES)])
            ends = [[shift, shift + 4], [shift, shift + 4], [shift, shift + np.log10(400)]]
            np.testing.assert_allclose(bars[:, :, 1], ends)


def test_the_tails_are_the_share_above_each_value():
    figure = draw("kurtosis_tails")
    assert [axes.get_title() for axes in figure.axes] == ["large", "only"]  # the largest model of each family
    for population, text in (("Rosetta", "Rosetta Neurons"), ("other", "other neurons")):
        line = labelled(figure.axes[0], text)
        x, y = STEP_LOOKUP_MAP[line.get_drawstyle()](*line.get_data())
        values = np.array(VALUES[population])
        values = values[~np.isnan(values)]
        assert (x.min(), x.max()) == (values.min(), values.max())
        between = (np.unique(values)[1:] + np.unique(values)[:-1]) / 2
        np.testing.assert_allclose(np.interp(between, x, y), [(values > b).mean() for b in between])


def test_firing_has_a_bar_a_size_at_each_category_and_no_category_is_left_out():
    panels = draw("fig07").axes
    assert [axes.get_title() for axes in panels] == ["Rosetta Neurons", "other neurons"]
    for axes, population in zip(panels, ("Rosetta", "other"), strict=True):
        names = [tick.get_text() for tick in axes.get_xticklabels()]
        assert names == ["code", "math", "my own"]  # the paper's in their order, then the corpus's own
        for place, name in enumerate(names):
            given = FIRING[(FIRING.population == population) & (FIRING.category == name)].set_index("neurons")["mean"]
            bars = [b for b in axes.patches if abs(b.get_x() + b.get_width() / 2 - place) < 0.5]
            assert [bar.get_height() for bar in bars] == list(given.sort_index())
            assert sorted(bar.get_x() for bar in bars) == [bar.get_x() for bar in bars]
    errors = [segment for bars in panels[1].collections for segment in bars.get_segments()]
    assert not panels[0].collections and len(errors) == 9  # no bars without an interval
    given = FIRING[FIRING.population == "other"]
    assert {(low, high) for (_, low), (_, high) in errors} == set(zip(given.low, given.high, strict=True))
    assert panels[0].get_ylim() == panels[1].get_ylim() and panels[0].get_ylim()[0] == 0


def test_a_category_that_one_model_never_saw_leaves_its_place_empty():
    table = FIRING[(FIRING.category != "math") | (FIRING.neurons != 100)]
    heights = [bar.get_height() for bar in drawn(plots.fig07(table)).axes[0].patches]
    np.testing.assert_equal(heights[:3], [3.0, np.nan, 1.0])  # code, math and "my own" of the smallest model


def test_depths_are_the_image():
    axes = draw("fig31").axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), DEPTHS)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["small", "large"]


def test_the_histogram_counts_pairs_as_means_over_the_seeds():
    axes = draw("correlation_histogram").axes[0]
    for number, (tables, low) in enumerate(((MATCHED, 0.9), (UNTRAINED, 0.2), (PERMUTED, 0.1))):
        bars = axes.containers[number]
        assert sum(bar.get_height() for bar in bars) == sum(map(len, tables)) / len(tables)
        values = np.concatenate([table.correlation for table in tables])
        (bar,) = (bar for bar in bars if bar.get_x() == pytest.approx(low))
        assert bar.get_height() == ((values >= low) & (values < low + 0.02)).sum() / len(tables)
    assert list(axes.lines[-1].get_xdata()) == [0.4, 0.4]


def test_perplexity_has_a_diamond_a_filter_and_a_point_a_run():
    axes = draw("perplexity").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["base", "random", "Rosetta"]
    for at, (container, row) in enumerate(zip(axes.containers, TABLE1.itertuples(), strict=True)):
        points, bars = points_and_bars(container)
        assert points.tolist() == [[row.mean, at]]
        ends = [row.mean, row.mean] if at == 0 else [row.low, row.high]
        np.testing.assert_allclose(bars[0, :, 0], ends)
    runs = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in runs] == [[30, 34], [21, 22]]  # one run is its own mean
    assert {text.get_text() for text in axes.texts} == {"40.0", "32.0", "21.5"}
    assert axes.yaxis_inverted()


def test_filters_are_drawn_as_given():
    lines = draw("precision_recall").axes[0].lines
    for line, curve in zip(lines, CURVES.values(), strict=True):
        np.testing.assert_allclose(line.get_xydata(), curve)
    axes = draw("language_mix").axes[0]
    for container, (left, widths) in zip(axes.containers, (([0, 0], MIX.C), ([0.25, 1], MIX.Python)), strict=True):
        assert [bar.get_x() for bar in container] == left and [bar.get_width() for bar in container] == list(widths)
    axes = draw("what_a_neuron_is_worth").axes[0]
    points = labelled(axes, "a Rosetta Neuron that qualifies").get_xydata()
    np.testing.assert_allclose(points, [[1, 0.7], [2, 0.8], [3, 0.3]])
    assert labelled(axes, "the one that is chosen").get_xydata().tolist() == [[1, 0.7]]
    np.testing.assert_allclose(labelled(axes, "mean of the first k").get_xydata(), [[2, 0.75], [10, 0.6]])
    assert list(labelled(axes, "bag of tokens").get_ydata()) == [0.95, 0.95]


def test_spans_are_bars_of_bytes():
    axes = draw("fig23").axes[0]
    bars = sorted((bar.get_y(), bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert [bar[1:] for bar in bars] == [tuple(span) for row in (SHARED, SPANS[1], SPANS[0]) for span in row.tolist()]
    # A piece that ends inside 漢 (e6 bc a2) is in hexadecimal.
    pieces = ["a", "20e6", "bca20a", "6120e6", "bc", "a20a", "6120e6", "bca20a"]
    assert [text.get_text() for text in axes.texts] == pieces
    assert {line.get_xdata()[0] for line in axes.lines} == {0, 3, 6}


def test_tokens_of_a_span_are_shares_and_many_are_put_together():
    axes = draw("tokens_per_span").axes[0]
    x, y = ([bar.get_height() for bar in container] for container in axes.containers)
    assert x == [0.75, 0.25, 0, 0, 0, 0, 0, 0] and y == [0.25, 0, 0.25, 0, 0, 0, 0, 0.5]
    assert [tick.get_text() for tick in axes.get_xticklabels()][-1] == "8 or more"


def test_a_matched_pair_is_its_texts_on_the_heat_of_each_neuron():
    panels = draw("fig02").axes[:4]
    assert [axes.get_title() for axes in panels] == ["x L0/U1", "y L1/U2", "", ""]
    assert ["".join(text.get_text() for text in axes.texts) for axes in panels] == ["ab□"] * 2 + ["</b>"] * 2
    assert [len(axes.patches) for axes in panels] == [4, 0, 4, 0]  # the second never fires
    heat = plt.get_cmap("YlOrRd")
    assert [patch.get_facecolor() for patch in panels[0].patches] == [to_rgba(heat(v)) for v in (0.25,) * 3 + (1.0,)]


def test_examples_are_lines_around_the_peak():
    figure = drawn(plots.examples({"column": [("title", NEURON, "m")]}, contexts=9, characters=4))
    (axes,) = figure.axes
    assert "".join(text.get_text() for text in axes.texts) == "6789" + "a⏎é□"
    (patch,) = axes.patches
    assert patch.get_xy() == (2, -1) and axes.get_title(loc="left") == "title"


def test_a_page_shows_the_same_lines_as_each_model_colours_them():
    """The first model fires on two tokens of the first line, the second on one of the second: each has its own scale."""
    heats = [{"m": [(0, 2, 1.0), (4, 5, 4.0)], "n": []}, {"m": [], "n": [(2, 4, 0.5)]}]
    members = Member("m", 0, 1, 0.0, 1.0, (), None), Member("n", 2, 30, 1.0, 1.0, (), 0.816)
    contexts = tuple(
        Context(text, "s", "code", (4, 5), heat) for text, heat in zip(("abcdefghi", "rstuvwxyz"), heats, strict=True)
    )
    figure = drawn(plots.fig08([RosettaNeuron(members, "a label", "code", contexts)], "all", contexts=3, characters=7))
    first, second, bar = figure.axes
    assert ["".join(text.get_text() for text in axes.texts) for axes in (first, second)] == ["bcdefgh" + "stuvwxy"] * 2
    heat = plt.get_cmap("YlOrRd")
    coloured = [[(patch.get_xy(), patch.get_facecolor()) for patch in axes.patches] for axes in (first, second)]
    strong, weak = to_rgba(heat(1.0)), to_rgba(heat(0.25))
    assert coloured == [[((0, -1), weak), ((3, -1), strong)], [((1, -2), strong), ((2, -2), strong)]]
    said = [text.get_text() for text in figure.texts]
    assert said == ["all", "a label", "m\nL0/U1", "n\nL2/U30\nr = 0.82", "r: with the first\nmodel's neuron"]
    assert bar.get_xlim() == (0, 1)


def test_nothing_on_a_page_lies_on_something_else_whatever_the_names_and_texts():
    hostile = r"$\frac$ <b> 漢\n " * 20
    heat = {"x" * 64: [(0, 9, 1.0)], "n": [(3, 5, 2.0)]}
    members = Member("x" * 64, 40, 20_000, 0.0, 1.0, (), None), Member("n", 9, 28_671, 1.0, 1.0, (), -0.5)
    neuron = RosettaNeuron(members, hostile, "code", (Context(hostile, "s", "code", (3, 5), heat),) * 3)
    for neurons in ([], [NEURON], [neuron] * 4):
        figure = drawn(plots.fig08(neurons, "4 of 1,000 neurons that these 2 models share", 3))
        *lines, bar = figure.axes
        whole, said = figure.bbox, [text.get_window_extent() for text in figure.texts]
        boxes = [*said, *(axes.get_window_extent() for axes in lines), bar.get_tightbbox()]
        assert len(lines) == sum(len(one.members) for one in neurons)
        for i, box in enumerate(boxes):
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
            assert not [other for other in boxes[:i] if box.overlaps(other)]
    assert figure.texts[1].get_text().startswith(r"$\frac$ <b> □")


def test_no_text_of_a_corpus_is_formula_or_beyond_the_font():
    """Between two dollar signs matplotlib sees a formula; of characters that its font lacks it warns."""
    hostile = r"'$\frac' '$_{' 漢 👩‍👩‍👧‍👦"
    spans = np.array([[0, len(hostile.encode())]])
    neuron = NEURON._replace(contexts=(Context(hostile, "s", "code", (0, 1), {"m": [(0, len(hostile), 1.0)]}),))
    (axes,) = drawn(plots.examples({"column": [(hostile, neuron, "m")]})).axes
    assert axes.get_title(loc="left").startswith(r"'$\frac' '$_{' □ □ □")
    assert "".join(text.get_text() for text in axes.texts).startswith(r"'$\frac''$_{'□□□")
    (axes,) = drawn(plots.fig23(hostile, ("X", "Y"), (spans, spans), spans)).axes
    assert all(text.get_text().startswith(r"'$\frac'␣'$_{'␣□␣□ □ □") for text in axes.texts)


def test_the_optimal_isolation_is_drawn_where_it_is_positive():
    axes = draw("fig05").axes[0]
    for line, s in zip(axes.lines[::2], ISOLATION.values(), strict=False):
        np.testing.assert_allclose(line.get_ydata(), s[s > 0])
        np.testing.assert_array_equal(line.get_xdata(), np.flatnonzero(s > 0) + 1)


def test_the_simulations_means_and_the_theorys_line_through_the_first():
    for axes, (panel, column) in zip(draw("fig27").axes, zip("abc", GRID.columns[2:], strict=True), strict=True):
        points, line = axes.lines[:2]
        means = GRID[GRID.beta == 1.5].groupby("neurons")[column].mean()
        np.testing.assert_allclose(points.get_xydata(), np.c_[means.index, means])
        (x, y), (x_end, y_end) = line.get_xydata()
        assert (x, y) == (64, pytest.approx(means[64])) and x_end == 256
        assert np.log(y_end / y) / np.log(4) == pytest.approx(theory.exponents(1.5)[panel])
    assert len(axes.lines) == 3  # panel c of beta = 2: means of 0 have no logarithm, and no line


def test_slopes_lie_beside_the_theorys():
    for axes, background in zip(draw("panel_c").axes, ("all", "unassigned"), strict=True):
        assert background in axes.get_title()
        betas = axes.lines[0].get_xdata()
        np.testing.assert_allclose(axes.lines[0].get_ydata(), 1 / betas - 1)
        for container in axes.containers:
            points, bars = points_and_bars(container)
            np.testing.assert_allclose(points, [[1.5, -0.5], [2, -2 / 3]], atol=0.06)
            np.testing.assert_allclose(bars[:, :, 1], [[-0.6, -0.5], [-2 / 3 - 0.1, -2 / 3]])
    kappa, background = draw("slope_errors").axes
    assert [tick.get_text() for tick in kappa.get_xticklabels()] == ["4", "10"]  # numbers in their order
    for line in kappa.lines:
        np.testing.assert_allclose(dict(zip(np.rint(line.get_xdata()), line.get_ydata(), strict=True))[1], 0.0)
    assert len(background.lines) == 4 and all(len(line.get_xdata()) == 3 for line in background.lines)


def test_each_category_keeps_its_colour():
    assert len(set(CATEGORIES.values())) == len(CATEGORIES) == 5


# ---------------------------------------------------------------------------------------------------------------------
# Images


def negative(pixels: np.ndarray) -> np.ndarray:
    return 255 - pixels


def pictures(axes) -> list[np.ndarray]:
    """What is drawn there, from the back."""
    return [image.get_array() for image in axes.images]


def test_one_image_is_drawn_under_both_grids_with_each_map_on_its_own_and_the_canonical_one():
    figure = drawn(plots.fig24(PIXELS[0], TWO_MAPS, negative))
    panels = [axes for axes in figure.axes if axes.get_title()]
    titles = [
        "maker: 4 × 4",
        "L0/U1, own grid",
        "canonical: 4 × 4",
        "seer: 3 × 3",
        "L1/U2, own grid",
        "canonical: 4 × 4",
    ]
    assert [axes.get_title() for axes in panels] == titles
    for row, cells, (own, canonical) in zip((panels[:3], panels[3:]), (4, 3), TWO_MAPS.values(), strict=True):
        np.testing.assert_array_equal(pictures(row[0])[0], 255 - PIXELS[0])
        lines, _ = [c.get_segments() for c in row[0].collections][:2]
        np.testing.assert_allclose([line[0][1] for line in lines], np.linspace(0, 1, cells + 1))
        top = max(own.max(), canonical.max())
        for axes, values in zip(row[1:], (own, canonical), strict=True):
            grey, colours = pictures(axes)
            np.testing.assert_allclose(grey, (255 - PIXELS[0].astype(float)).mean(-1) / 255)
            strength = np.clip(values / top, 0, 1)
            np.testing.assert_allclose(colours[..., 3], 0.75 * np.sqrt(strength))
            np.testing.assert_allclose(colours[..., :3], plt.get_cmap(style.HEAT)(strength)[..., :3])


def test_pairs_are_drawn_on_their_images_with_both_maps_alone_and_over_the_image():
    figure = drawn(plots.fig14(SEEN, negative))
    parts = [list(part.axes) for part in figure.subfigs]
    assert [len(axes) for axes in parts] == [3 * 5, 5]
    for axes, pair in zip(parts, SEEN, strict=True):
        assert axes[0].get_title() == f"r = {pair.r:.2f}"
        names = [text.replace(" ", "\n") for text in (pair.a, pair.b)]
        assert [axes[i].get_title(loc="left") for i in (1, 3)] == names
        for row, seen in zip(np.array(axes).reshape(-1, 5), pair.images, strict=True):
            np.testing.assert_array_equal(pictures(row[0])[0], 255 - seen.pixels)
            for (alone, over), side in zip((row[1:3], row[3:5]), "ab", strict=True):
                np.testing.assert_array_equal(pictures(alone)[0], getattr(seen, side))
                top = max(getattr(other, side).max() for other in pair.images)  # one scale for a neuron
                assert (alone.images[0].norm.vmin, alone.images[0].norm.vmax) == (0, top if top > 0 else 1)
                assert len(pictures(over)) == 2


def test_galleries_stand_side_by_side_and_cells_outside_a_map_are_pale():
    figure = drawn(plots.fig21(GALLERIES, negative))
    left, right = figure.subfigs
    assert [part.get_suptitle() for part in (left, right)] == list(GALLERIES)
    shown = [[pictures(axes) for axes in part.axes] for part in (left, right)]
    assert [[len(images) for images in part] for part in shown] == [[1, 1, 1, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(shown[0][1][0], 255 - PIXELS[1])
    inside = (MAPS[0] >= (MAPS[0].min() + MAPS[0].max()) / 2).repeat(3, 0).repeat(3, 1)
    assert 0 < inside.sum() < inside.size
    dimmed = shown[0][0][0]
    np.testing.assert_array_equal(dimmed[inside], 255 - PIXELS[0][inside])
    assert (dimmed[~inside] >= 255 - PIXELS[0][~inside]).all() and dimmed[~inside].min() >= 0.65 * 255 - 1


def test_real_and_generated_images_are_drawn_as_they_were_counted():
    left, right = draw("fig35").axes
    for text in ("real", "generated"):
        expected = IMAGE_SWEEP[["images", text]]
        np.testing.assert_allclose(labelled(left, f"{text} images").get_xydata(), expected)
    np.testing.assert_allclose(right.lines[0].get_xydata(), IMAGE_SWEEP[["images", "jaccard"]])


def test_shares_are_drawn_with_their_intervals_and_a_share_of_none_without():
    axes = drawn(plots.fig03a(SHARES, "raw", share=True)).axes[0]
    raw = SHARES[SHARES["count"] == "raw"]
    np.testing.assert_allclose(
        labelled(axes, axes.get_legend_handles_labels()[1][0]).get_xydata(), raw[["neurons", "share"]][:3]
    )
    segments = [segment for bars in axes.collections for segment in bars.get_segments()]
    positive = raw[raw["share"] > 0]
    np.testing.assert_allclose([segment[:, 1] for segment in segments], positive[["low", "high"]])
    two = plots.fig03a(SHARES[:2], share=True).axes[0].get_legend_handles_labels()[1]
    assert two == [r"Pythia–OPT, $\alpha - 1$ = -0.50"]  # two points have no interval


def test_packings_are_drawn_beside_what_is_expected():
    axes = draw("packing").axes[0]
    for container, (_, group) in zip(axes.containers, PACKINGS.groupby("packing", sort=False), strict=True):
        points, bars = points_and_bars(container)
        np.testing.assert_allclose(points, group[["tail", "spread"]])
        np.testing.assert_allclose(bars[:, :, 1], group[["low", "high"]])
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    for line, (_, group) in zip(dashed, PACKINGS.groupby("packing", sort=False), strict=True):
        np.testing.assert_allclose(line.get_xydata(), group[["tail", "expected"]])
