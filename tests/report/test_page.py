# SPDX-License-Identifier: Apache-2.0
"""The page of `moeroute report` in a real browser: every chart with the right cells, nothing run, fetched or overflowing."""
import copy
import math
import pathlib
import re

import plotly
import pytest
from playwright.sync_api import sync_playwright

import make_results
from support import launch, open_report, report, written

LAYERS, EXPERTS, LABELS = 6, 16, sorted(make_results.TEXTS)


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        yield launch(playwright)


@pytest.fixture(scope="session")
def full():
    return make_results.make()


@pytest.fixture(scope="session")
def full_path(full, tmp_path_factory):
    return written(full, tmp_path_factory.mktemp("full") / "report.html")


class Visit:
    """One page, and everything that it should not have done."""

    def __init__(self, browser, path, width=1280, **options):
        self.complaints = []
        def watch(page):
            complain = self.complaints.append
            page.on("console", lambda line: line.type in ("error", "warning") and complain(f"console: {line.text}"))
            page.on("pageerror", lambda error: complain(f"exception: {error}"))
            page.on("dialog", lambda dialog: (complain("a dialog opened"), dialog.dismiss()))
            page.on("request", lambda ask: ask.url.startswith(("file:", "data:",
                "blob:")) or complain(f"request: {ask.url}"))
        self.page = open_report(browser, path, width, 800, prepare=watch, **options)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error == (None, None, None):
            assert self.complaints == []
            assert self.page.evaluate("window.hacked") is None
        self.page.close()

    def plots(self):
        return self.page.eval_on_selector_all(".plot.js-plotly-plot", "nodes => nodes.map(node => node.id)")

    def z(self, plot):
        return self.page.evaluate("id => document.getElementById(id).data[0].z", plot)

    def shape(self, plot):
        """Rows and columns as Plotly computed them, not as they were given to it."""
        z = self.page.evaluate("id => document.getElementById(id).calcdata[0][0].z.map(row => row.length)", plot)
        assert len(set(z)) == 1
        return [len(z), z[0]]

    def choose(self, name, value):
        self.page.select_option(f"#{name}", value)

    def toggle(self, name, value):
        self.page.check(f"#{name} input[value='{value}']")

    def hover(self, plot, column, row):
        """What the tooltip says over a cell of a heat map, line by line."""
        self.page.locator(f"#{plot}").scroll_into_view_if_needed()
        place = self.page.evaluate("""([id, column, row]) => {
          const gd = document.getElementById(id), {xaxis, yaxis} = gd._fullLayout, box = gd.getBoundingClientRect();
          gd.closest('.scroll').scrollTop = Math.max(0, yaxis._offset + yaxis.d2p(row) - 200);
          const now = gd.getBoundingClientRect();
          return [now.left + xaxis._offset + xaxis.d2p(column), now.top + yaxis._offset + yaxis.d2p(row)];
        }""", [plot, column, row])
        self.page.mouse.move(5, 5)
        self.page.mouse.move(*place)
        text = self.page.locator(f"#{plot} .hoverlayer .hovertext")
        text.first.wait_for(timeout=5000)
        return self.page.eval_on_selector(f"#{plot} .hoverlayer .hovertext", """node =>
          [...node.querySelectorAll('tspan.line')].map(line => line.textContent).join('\\n') || node.textContent""")


@pytest.fixture(scope="session")
def shared(browser, full_path):
    with Visit(browser, full_path) as visit:
        yield visit


@pytest.fixture
def visit(shared):
    """The full report at desktop width, for tests that leave its selectors alone: opening it costs a second each time."""
    yield shared
    assert shared.complaints == []


EVERY_PLOT = ["plot-activation", "plot-max-violation", "plot-effective-experts", "plot-document", "plot-share",
    "plot-lift", "plot-label",
              "plot-effective", "plot-effective-layers", "plot-information", "plot-lag", "plot-lag-mean"]


def test_every_plot_is_drawn_with_the_right_number_of_cells(visit, full):
    assert visit.plots() == EVERY_PLOT
    tokens = len(full["documents"][0]["tokens"])
    for plot, shape in {"plot-activation": [LAYERS, EXPERTS], "plot-document": [tokens, EXPERTS],
        "plot-share": [len(LABELS), EXPERTS],
                        "plot-lift": [len(LABELS), EXPERTS], "plot-lag": [LAYERS, LAYERS - 1]}.items():
        assert visit.shape(plot) == shape, plot
        # The picture of the cells is really there, and fills the plot.
        box = visit.page.locator(f"#{plot} .heatmaplayer image").bounding_box()
        assert box["width"] > 500 and box["height"] > 80, (plot, box)
        assert visit.page.locator(f"#{plot} .heatmaplayer image").get_attribute("href").startswith("data:image/png")
    marks = {"plot-max-violation": LAYERS, "plot-effective-experts": LAYERS, "plot-effective": len(LABELS),
        "plot-effective-layers": LAYERS * len(LABELS),
             "plot-information": LAYERS, "plot-lag-mean": 15 + 5}
    for plot, points in marks.items():
        assert visit.page.locator(f"#{plot} .scatterlayer .points path.point").count() == points, plot
        assert visit.page.locator(f"#{plot} .scatterlayer").bounding_box()["width"] > 300, plot
    assert visit.page.locator("#plot-label .barlayer .point").count() == EXPERTS
    assert visit.page.locator("#plot-label .errorbar").count() == EXPERTS
    assert visit.page.locator("#plot-effective .errorbar").count() == len(LABELS)
    assert visit.page.locator("#plot-document .scatterlayer path.point").count() == 4 * tokens
    held = sum(p is not None and p < 0.05 for label in full["layers"][0]["labels"] for p in label["p_adjusted"])
    assert visit.page.locator("#plot-lift .scatterlayer path.point").count() == held > 0
    assert visit.page.locator(".absent:visible").count() == 0


def test_numbers_in_the_charts_are_those_of_the_file(visit, full):
    def close(shown, expected):
        assert len(shown) == len(expected)
        for row, wanted in zip(shown, expected):
            assert row == pytest.approx(wanted, rel=6e-5, abs=1e-4)  # 5 digits; log2 of them

    close(visit.z("plot-activation"), [layer["probability"] for layer in full["layers"]])
    close(visit.z("plot-share"), [label["share"] for label in full["layers"][0]["labels"]])
    close(visit.z("plot-lift"), [[math.log2(x) for x in label["lift"]] for label in full["layers"][0]["labels"]])
    close(visit.z("plot-document"), full["documents"][0]["layers"][0]["probability"])
    lag = visit.z("plot-lag")
    for row, wanted in zip(lag, full["lag_correlation"]["load"]["matrix"]):
        assert [x is None for x in row] == [x is None for x in wanted]
        assert [x for x in row if x is not None] == pytest.approx([x for x in wanted if x is not None], rel=6e-5)


def test_balance_stands_beside_its_reference(visit, full):
    heads = visit.page.locator("#table-balance thead th").all_text_contents()
    cells = visit.page.locator("#table-balance tbody tr").nth(1).locator("th, td").all_inner_texts()
    row = dict(zip(heads, cells))
    value = full["layers"][1]["balance"]["max_violation"]["value"]
    assert row["max violation"].split("\n") == [f"{value:.4g}", "random 0.024, bound 0.04", "documents, bound 0.112"]
    assert row["load-balancing loss (Switch)"].split("\n") == ["1.07", "random 1"]
    assert row["design effect"] == "7.5" and row["unseen experts"].split("\n") == ["15", "rate under 0.0078"]


def test_hover_says_what_a_cell_is(visit, full):
    layer = full["layers"][2]
    text = visit.hover("plot-activation", 5, 2)
    assert "layer 2, expert 5" in text
    assert f"mean soft probability {layer['probability'][5]:.3g}" in text
    assert f"{layer['counts'][5]:,} slots" in text
    assert "1/16 = 0.0625" in text
    text = visit.hover("plot-lift", 3, 4)
    cell = full["layers"][0]["labels"][4]
    for part in ["ko, layer 0, expert 3", f"share of slots {cell['share'][3]:.3g}", "95 % interval",
        f"lift {cell['lift'][3]:.3g}", "family-wise p", "q = "]:
        assert part in text, (part, text)
    text = visit.hover("plot-document", full["documents"][0]["layers"][0]["ids"][0][0], 0)
    assert "token 0: def" in text and "probability" in text and "chosen, weight" in text
    # The whole of a long piece is in the tooltip, wrapped; on the axis it is cut.
    long = next(i for i, piece in enumerate(full["documents"][0]["tokens"]) if piece.startswith("long-"))
    text = visit.hover("plot-document", 1, long)
    assert text.replace("\n", "").count("x") > 300
    ticks = visit.page.locator("#plot-document .ytick text").all_text_contents()
    assert max(len(tick) for tick in ticks) <= 15 and any(tick.endswith("…") for tick in ticks)


def test_selectors_change_what_is_drawn(browser, full, full_path):
    with Visit(browser, full_path) as visit:
        visit.toggle("activation-measure", 1)
        assert visit.z("plot-activation")[1] == pytest.approx(full["layers"][1]["load_share"], rel=6e-5)
        ko = LABELS.index("ko")
        visit.choose("document-label", str(ko))
        visit.choose("document-layer", "3")
        document = full["documents"][ko]
        assert visit.shape("plot-document") == [len(document["tokens"]), EXPERTS]
        assert visit.z("plot-document")[2] == pytest.approx(document["layers"][3]["probability"][2], abs=6e-5)
        rows = visit.page.locator("#table-document tbody tr")
        assert rows.count() == len(document["tokens"])
        assert rows.nth(0).locator("td").nth(0).text_content() == "옆"
        expert, weight = document["layers"][3]["ids"][0][0], document["layers"][3]["weights"][0][0]
        assert rows.nth(0).locator("td").nth(1).text_content() == f"{expert}{weight:.3g}"
        visit.choose("document-label", "0")
        assert visit.page.locator("#document-layer").input_value() == "3", "a new document keeps the layer"
        visit.choose("label-layer", "4")
        assert visit.z("plot-share")[ko] == pytest.approx(full["layers"][4]["labels"][ko]["share"], rel=6e-5)
        visit.choose("label-label", str(ko))
        bars = visit.page.evaluate("document.getElementById('plot-label').data[0].y")
        assert bars == pytest.approx(full["layers"][4]["labels"][ko]["share"], rel=6e-5)
        visit.toggle("lag-measure", 1)
        assert visit.z("plot-lag")[0] == pytest.approx(full["lag_correlation"]["probability"]["matrix"][0], rel=6e-5)


def test_text_of_the_trace_is_only_text(browser, full, tmp_path):
    hostile = copy.deepcopy(full)
    attack = "</script><img src=x onerror=\"window.hacked=1\"><b>&lt;%{z}"
    hostile["trace"]["model"]["name"] = attack
    hostile["trace"]["labels"][0]["name"] = attack
    hostile["effective_experts"]["labels"][0]["name"] = attack
    hostile["effective_experts"]["differences"][0]["a"] = attack
    hostile["documents"][0].update(label=attack, id=attack)
    hostile["answers"][0] = hostile["warnings"][0] = attack
    hostile["not_computed"][0].update(what=attack, why=attack)
    with Visit(browser, written(hostile, tmp_path / "report.html")) as visit:
        assert visit.page.locator("h1").text_content() == f"Routing report: {attack}"
        assert visit.page.locator("img, main b, main a[href^=javascript]").count() == 0
        assert visit.page.locator("#answers li").first.text_content() == attack
        assert visit.page.locator("main a[href], svg a").evaluate_all("links => links.filter(a => a.closest('svg')).length") == 0
        pieces = visit.page.locator("#table-document td.piece").all_text_contents()
        for piece in ["</script>", "<script>window.hacked=1</script>", "&lt;", "%{z}", "⟨U+2028⟩", "⟨U+202E⟩", "␀", "␛",
            "⇥", "␍⏎", "∅", "{{results}}",
                      "<a␣href=\"javascript:window.hacked=1\">link</a>", "\ufffd", "␣total"]:
            assert piece in pieces, piece
        ticks = visit.page.locator("#plot-document .ytick text").all_text_contents()
        assert visit.page.locator("#plot-share .ytick text").first.text_content() == "</script><im…"
        assert "</script>" in ticks and "&lt;" in ticks and "<b>bold</b>" in ticks and "%{z}" in ticks
        row = full["documents"][0]["tokens"].index("<b>bold</b>")
        assert "<b>bold</b>" in visit.hover("plot-document", 2, row)
        assert attack[:30] in visit.hover("plot-share", 2, 0)


def tick_labels_apart(page):
    """Pairs of tick labels of one axis that touch each other."""
    return page.evaluate("""() => [...document.querySelectorAll('.plot')].flatMap(plot => ['x', 'y'].flatMap(letter => {
      const ticks = [...plot.querySelectorAll(`.${letter}tick text`)];
      const boxes = ticks.map(tick => ({text: tick.textContent, at: tick.getBoundingClientRect()}));
      const touch = (a, b) => a.left < b.right - 0.5 && b.left < a.right - 0.5 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
      return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => touch(a.at, b.at)).map(b => `${plot.id}: ${a.text} / ${b.text}`));
    }))""")


def overlapping_blocks(page):
    """Parts of the page that stick out of the part they are in (unless that scrolls), or reach into the next one."""
    return page.evaluate("""() => [...document.querySelectorAll('header, section, section figure')].flatMap(parent => {
      const name = node => node.id || node.className || node.tagName;
      const seen = [...parent.children].filter(child => child.offsetHeight), end = parent.getBoundingClientRect().bottom;
      const limit = i => Math.min(end, seen[i + 1]?.getBoundingClientRect().top ?? end) + 1;
      return seen.filter((child, i) => child.getBoundingClientRect().bottom > limit(i)).map(child => `${name(parent)}: ${name(child)}`);
    })""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_fits_the_screen_in_both_schemes(browser, full_path, width, scheme):
    with Visit(browser, full_path, width, scheme=scheme, has_touch=width < 400, is_mobile=width < 400) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.plots() == EVERY_PLOT
        assert tick_labels_apart(visit.page) == []
        assert overlapping_blocks(visit.page) == []

        def luminance(colour):
            channels = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
            return sum(weight * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for weight,
                c in zip((0.2126, 0.7152, 0.0722), channels))

        def contrast(a, b):
            return (max(luminance(a), luminance(b)) + 0.05) / (min(luminance(a), luminance(b)) + 0.05)

        colours = visit.page.evaluate("""() => {
          const style = (query, name) => getComputedStyle(document.querySelector(query))[name];
          return {back: style('body', 'backgroundColor'), text: style('body', 'color'), soft: style('figcaption', 'color'),
                  chart: style('#plot-activation .main-svg', 'backgroundColor'), tick: style('#plot-activation .xtick text', 'fill')};
        }""")
        assert (luminance(colours["back"]) < 0.1) == (scheme == "dark")
        assert colours["chart"] == colours["back"]
        assert contrast(colours["text"], colours["back"]) > 7 and contrast(colours["soft"], colours["back"]) > 4.5
        assert contrast(colours["tick"], colours["chart"]) > 7


def test_the_scheme_may_change_while_the_page_is_open(browser, full_path):
    with Visit(browser, full_path) as visit:
        before = visit.page.evaluate("document.getElementById('plot-lift')._fullLayout.paper_bgcolor")
        visit.page.emulate_media(color_scheme="dark")
        visit.page.wait_for_function("old => document.getElementById('plot-lift')._fullLayout.paper_bgcolor !== old",
            arg=before)


def test_48_layers_of_128_experts(browser, tmp_path):
    results = make_results.make(layers=48, experts=128, top_k=8)
    page = written(results, tmp_path / "report.html")
    assert page.stat().st_size < 25e6
    for width in [375, 1280]:
        with Visit(browser, page, width) as visit:
            assert visit.shape("plot-activation") == [48, 128]
            assert visit.shape("plot-lag") == [48, 47]
            assert visit.shape("plot-share") == [6, 128]
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
            assert tick_labels_apart(visit.page) == []
            assert "layer 40, expert 20" in visit.hover("plot-activation", 20, 40)


# What a trace may lack: (how the results change, charts that are then absent, a sentence that stands there instead)
def without_logits(r):
    for layer in r["layers"]:
        del layer["probability"], layer["gate"]
        for label in layer["labels"]:
            del label["probability"]
    for document in r["documents"]:
        for layer in document["layers"]:
            del layer["probability"]
    del r["lag_correlation"]["probability"]
    r["not_computed"].append({"what": "probability", "why": "this trace holds no logits <i>at all</i>"})


def without_weights(r):
    without_logits(r)
    for document in r["documents"]:
        for layer in document["layers"]:
            del layer["weights"]


def without_documents(r):
    del r["documents"]


def without_lag(r):
    del r["lag_correlation"]


def undefined_lag(r):
    for part in ["load", "probability"]:
        r["lag_correlation"][part]["matrix"] = [[None] * len(row) for row in r["lag_correlation"][part]["matrix"]]


def undefined_tests(r):
    for layer in r["layers"]:
        for label in layer["labels"]:
            for field in ["lower", "upper", "lift_lower", "lift_upper", "p_value", "p_adjusted", "q_by"]:
                label[field] = [None] * EXPERTS
            label["effective_experts"] = {"value": None, "lower": None, "upper": None}
        layer["mutual_information"] = {field: None for field in layer["mutual_information"]}


def no_layers(r):
    r["layers"] = []
    del r["documents"], r["lag_correlation"], r["effective_experts"]


LABEL_PLOTS = {"plot-share", "plot-lift", "plot-label"}
LACKING = [
    (without_logits, set(), "this trace holds no logits <i>at all</i>"),
    (without_weights, set(), "this trace holds no logits"),
    (without_documents, {"plot-document"}, "no example document"),
    (without_lag, {"plot-lag", "plot-lag-mean"}, "at least two MoE layers"),
    (undefined_lag, {"plot-lag", "plot-lag-mean"}, "at least two MoE layers"),
    (undefined_tests, {"plot-information", "plot-effective-layers"}, "No value is defined here"),
    (no_layers, set(EVERY_PLOT), "no MoE layer"),
]


@pytest.mark.parametrize("change, gone, sentence", LACKING, ids=[change.__name__ for change, _, _ in LACKING])
def test_what_is_missing_is_said_and_leaves_no_empty_axes(browser, full, tmp_path, change, gone, sentence):
    results = copy.deepcopy(full)
    change(results)
    with Visit(browser, written(results, tmp_path / "report.html")) as visit:
        assert set(visit.plots()) == set(EVERY_PLOT) - gone
        assert any(sentence in text for text in visit.page.locator(".absent:visible").all_text_contents())
        drawn = "plots => plots.every(plot => plot.calcdata.flat().length > 0)"
        assert visit.page.locator(".js-plotly-plot").evaluate_all(drawn)
        if change is without_weights:
            assert visit.z("plot-document")[0].count(1) == 4
            assert not visit.page.locator("#document-weights").is_visible()


@pytest.mark.parametrize("labels, sentence", [(["ko"], "There is only one label (ko)"),
    ([], "The documents have no labels")])
def test_fewer_than_two_labels(browser, tmp_path, labels, sentence):
    results = make_results.make(labels=labels)
    if not labels:
        del results["effective_experts"]
    with Visit(browser, written(results, tmp_path / "report.html")) as visit:
        assert not (LABEL_PLOTS | {"plot-information"}) & set(visit.plots())
        assert sentence in visit.page.locator("#labels").text_content()
        assert ("plot-effective" in visit.plots()) == bool(labels)


def test_one_layer_and_other_layer_numbers(browser, full, tmp_path):
    results = make_results.make(layers=1)
    with Visit(browser, written(results, tmp_path / "one.html")) as visit:
        assert visit.shape("plot-activation") == [1, EXPERTS]
        assert visit.page.locator("#plot-max-violation .scatterlayer path.point").count() == 3, "one layer is points"
    results = copy.deepcopy(full)
    for i, layer in enumerate(results["layers"]):
        layer["layer"] = 2 * i + 1  # every other layer of the model is MoE
    results["lag_correlation"]["layers"] = [2 * i + 1 for i in range(LAYERS)]
    with Visit(browser, written(results, tmp_path / "other.html")) as visit:
        assert visit.page.locator("#plot-activation .ytick text").all_text_contents() == ["1", "3", "5", "7", "9", "11"]
        assert "layer 5, expert 0" in visit.hover("plot-activation", 0, 2)
        assert "layer 3 with layer 7 (Δ = 2)" in visit.hover("plot-lag", 2, 1)


def test_page_is_one_file_with_a_policy_and_a_structure(visit, full_path):
    html = full_path.read_text(encoding="utf-8")
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:" in html
    assert html.lower().count("</script") == 3 and "{{" not in html.split("<script", 1)[0]
    page = visit.page
    assert page.locator("h1").count() == 1 and page.locator("section h2").count() == 8
    assert page.locator("table").count() == page.locator("table caption").count() >= 8
    named = "all => all.every(plot => document.getElementById(plot.getAttribute('aria-labelledby')).textContent.length > 40)"
    assert page.locator(".plot").evaluate_all(named)
    assert page.locator("select").evaluate_all("all => all.length > 3 && all.every(select => select.labels.length)")
    assert page.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))")
    assert page.locator(".modebar-btn").count() > 0, "the next line needs the bar of buttons"
    assert page.locator("[data-title*=hare i], [data-title*=cloud i]").count() == 0, "no button that would upload the data"


def test_plotly_from_a_file(browser, full, full_path, tmp_path):
    source = pathlib.Path(plotly.__file__).parent / "package_data/plotly.min.js"
    output = tmp_path / "report.html"
    assert report(full, output, "--plotly", source).returncode == 0
    assert output.stat().st_size > 6e6, "what was given uncompressed is not compressed"
    with Visit(browser, output) as visit:
        assert visit.plots() == EVERY_PLOT
    (tmp_path / "other.js").write_text("alert(1)", encoding="utf-8")
    for file, code, part in [(tmp_path / "none.js", 3, "No such file"),
        (tmp_path / "other.js", 1, "not plotly.min.js")]:
        done = report(full, output, "--plotly", file)
        assert done.returncode == code and part in done.stderr and file.name in done.stderr, done.stderr
