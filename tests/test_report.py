from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from layermerge.errors import InputError
from layermerge.report import print_result, render_html, write_html
from layermerge.report.axis import Axis
from layermerge.report.comparison import compare
from layermerge.report.frontier import describe_key
from layermerge.report.heat_map import Scale
from layermerge.report.html import PNG
from layermerge.report.labels import text_box
from layermerge.report.markup import element, shorten
from layermerge.report.parts import Role, outcome, parts_of, step_role
from layermerge.search_results import SegmentFinding
from sample_results import SAMPLES, make_barrier, make_result, make_step

VOID = {"img", "input", "meta"}
HOSTILE = "<script>alert('x')</script>\"&[bold]"


class Page(HTMLParser):
    """Elements, attributes and text; fails on tags that do not balance."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self):
        """What a reader sees, in the plain spelling."""
        seen = " ".join(self.texts)
        return seen.replace("\xa0", " ").replace("−", "-").replace("→", "->")

    def all(self, tag, class_=None):
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (class_ is None or class_ in attributes.get("class", "").split())
        ]


def printed(result, **options):
    file = io.StringIO()
    print_result(result, Console(file=file, **{"width": 80, **options}))
    return file.getvalue()


every_sample = pytest.mark.parametrize("result", [make() for make in SAMPLES.values()], ids=SAMPLES)


@every_sample
def test_every_figure_is_on_the_page_and_on_the_terminal(result):
    page, terminal = Page(render_html(result)).text, printed(result)
    for row in compare(result):
        for cell in (row.quantity, row.base, row.compressed, row.change):
            assert cell in page
            assert cell in terminal


@every_sample
def test_every_layer_is_on_the_page_and_on_the_terminal(result):
    page, terminal = Page(render_html(result)).text, printed(result)
    for step in result.steps:
        assert step.description in page
        for name in step.names:
            assert name in page
            assert re.search(rf"[-+| ] {re.escape(name)}\s", terminal)


@every_sample
def test_no_figure_is_undefined(result):
    shown = Page(render_html(result)).text + printed(result)
    assert not re.search(r"\b(nan|inf|None)\b", shown, re.IGNORECASE)
    coordinates = re.findall(r'(?:x|y|width|height|d)="([^"]*)"', render_html(result))
    assert coordinates
    assert not any("nan" in value or "inf" in value for value in coordinates)


@every_sample
def test_the_page_needs_nothing_from_outside(result):
    html = render_html(result)
    page = Page(html)
    assert not re.search(r"https?:|//|@import|url\(", html)
    for tag in ("script", "link", "img", "iframe", "object", "base", "a", "form"):
        assert page.all(tag) == []
    for _, attributes in page.elements:
        assert not {"src", "href", "srcset", "data", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)


def test_the_policy_of_the_page_forbids_everything_but_its_own_style_and_pictures():
    (policy,) = (
        attributes["content"]
        for attributes in Page(render_html(make_result())).all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def test_a_picture_is_in_the_page_under_its_caption():
    page = Page(render_html(make_result(), {"samples <base>": PNG + b"content"}))
    (attributes,) = page.all("img")
    assert attributes["alt"] == "samples <base>"
    kind, _, content = attributes["src"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == PNG + b"content"


def test_what_is_no_picture_is_refused():
    with pytest.raises(InputError, match="picture 'samples' is not a PNG file"):
        render_html(make_result(), {"samples": b"GIF89a"})


@every_sample
def test_pictures_have_a_description_and_tables_have_headings(result):
    page = Page(render_html(result))
    pictures = [each for each in page.all("svg") if each.get("role") == "img"]
    classes = {"plot", "bars", "diagram"} | ({"plot wide"} if result.search else set())
    assert {each["class"] for each in pictures} == classes
    assert all(each["aria-label"] for each in pictures)
    assert all(each.get("scope") in ("row", "col") for each in page.all("th"))
    assert len(page.all("h1")) == 1


def test_hostile_text_stays_text():
    steps = (
        replace(make_step(0, (10, 20), (1,), 5), names=(HOSTILE, "b"), kept=(HOSTILE,)),
        make_barrier(2, HOSTILE, 10),
    )
    result = make_result(
        tuple(replace(step, description=HOSTILE) for step in steps),
        name=HOSTILE,
        score_name=HOSTILE,
        environment=HOSTILE,
        seconds={HOSTILE: 1.0},
        provenance={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
    )
    html = render_html(result)
    page = Page(html)
    assert "<script" not in html
    assert page.all("script") == []
    assert page.text.count(HOSTILE) >= 8


@given(st.text(), st.text())
def test_what_goes_into_an_element_comes_out_of_the_parser(content, value):
    page = Page(element("p", content, element("b", "x"), title=value))
    assert page.elements[0] == ("p", {"title": value})
    assert "".join(page.texts) == content + "x"


def test_brackets_in_names_are_no_markup_on_the_terminal():
    result = make_result(name="net[red]")
    result = replace(result, steps=(replace(result.steps[0], description="[bold]x[/bold]"),))
    assert "net[red]" in printed(result)
    assert "[bold]x[/bold]" in printed(result)


@every_sample
def test_a_file_gets_80_columns_without_colour(result):
    text = printed(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "…" not in text


def test_numbers_of_large_networks_are_not_cut_at_80_columns():
    result = make_result(tuple(make_step(i, (9_876_543_210,), (0,), 8_765_432_100) for i in (0, 1)))
    big = replace(result.base, flops=9_876_543_210_987, parameters=1_234_567_890_123)
    text = printed(replace(result, base=big))
    assert "9,876,543,210,987" in text
    assert "9,876.543" in text
    assert "…" not in text


def test_colour_says_whether_the_budget_was_kept_where_there_is_colour():
    colours = {"force_terminal": True, "color_system": "standard"}
    assert "\x1b[1;32m" in printed(make_result(), **colours)
    assert "\x1b[1;31m" in printed(SAMPLES["slower"](), **colours)


def test_an_ascii_terminal_is_served():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    print_result(make_result(name="réseau"), Console(file=file, width=80))
    file.flush()
    assert b"2.849 ms +/-0.8 %" in raw.getvalue()


def test_accuracy_is_in_percent_and_its_change_in_points():
    page = Page(render_html(make_result())).text
    assert "94.20 %" in page
    assert "-0.42 points" in page


def test_other_scores_are_plain_numbers():
    result = SAMPLES["not by accuracy"]()
    score = compare(result)[0]
    assert (score.base, score.compressed, score.change) == ("-1", "-1.2", "-0.2")
    assert "points" not in Page(render_html(result)).text


def test_a_slower_network_is_called_slower():
    shown = Page(render_html(SAMPLES["slower"]())).text
    assert "runs 0.92x as fast" in shown
    assert "slower" in shown
    assert "faster" not in shown.replace("no faster than what they replace", "")
    assert "EXCEEDED by 63.2 %" in shown


def test_a_difference_within_the_spread_is_not_called_a_speedup():
    base_ns = make_result().base.latency_ns
    rows = {row.quantity: row for row in compare(make_result(measured_ns=base_ns - 1000))}
    assert rows["speed-up"].change == "no clear difference"


def test_a_budget_within_the_spread_is_pointed_out():
    remark = "lies within its spread of the budget"
    near = make_result(measured_ns=make_result().budget_ns - 1000)
    assert remark in Page(render_html(near)).text
    assert remark not in Page(render_html(make_result())).text


def test_the_diagram_is_to_scale():
    result = make_result()
    page = Page(render_html(result))
    widths = [float(each["width"]) for each in page.all("rect", "time")]
    drawn = [width for width in widths if width != 12]  # those of the legends are 12 wide
    expected = [
        latency
        for step in result.steps
        for latency in (*(part.latency_ns for part in parts_of(step)), step.after_ns)
    ]
    assert len(drawn) == len(expected)
    ratios = [width / latency for width, latency in zip(drawn, expected, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-2)


def test_the_stacked_bars_are_as_long_as_the_predictions():
    result = make_result()
    svg = re.search(r'<svg[^>]*class="bars">.*?</svg>.*?</svg>', render_html(result), re.DOTALL)
    bars = [
        float(each["width"].rstrip("%"))
        for each in Page(svg.group()).all("rect")
        if "class" not in each
    ]
    number = len(result.steps)
    before, after = sum(bars[:number]), sum(bars[number:])
    assert len(bars) == 2 * number
    predicted = result.base.predicted_ns / result.compressed.predicted_ns
    assert before / after == pytest.approx(predicted, rel=1e-4)


def test_roles_tell_removed_from_merged_and_unchanged():
    merged, unchanged = make_step(0, (3, 2, 1), (0, 2), 4), make_step(3, (5,), (0,), 5)
    roles = [part.role for part in parts_of(merged)]
    assert roles == [Role.MERGED, Role.REMOVED, Role.MERGED]
    assert [part.role for part in parts_of(unchanged)] == [Role.UNCHANGED]
    assert [part.role for part in parts_of(make_barrier(4, "fc", 1))] == [Role.FIXED]


def test_layers_without_latencies_share_that_of_their_step_and_the_page_says_so():
    step = replace(make_step(0, (300, 100), (0, 1), 200), name_ns=(), name_descriptions=())
    assert [part.latency_ns for part in parts_of(step)] == [200, 200]
    remark = "share its latency equally"
    assert remark in Page(render_html(make_result((step,)))).text
    assert remark not in Page(render_html(make_result())).text


def test_a_dropped_segment_is_removed_and_not_merged():
    step = make_step(0, (3, 2), (), 0)
    assert step_role(step) is Role.REMOVED
    assert [part.role for part in parts_of(step)] == [Role.REMOVED, Role.REMOVED]
    assert outcome(step) == "2 layers removed"
    result = SAMPLES["dropped and gated"]()
    assert "1 layer removed" in Page(render_html(result)).text
    assert "in one convolution, 2 removed" not in Page(render_html(result)).text
    assert "- layers.1.gate" in printed(result)


def test_the_diagram_of_a_long_network_folds_what_stays_as_it_is():
    page = Page(render_html(SAMPLES["mostly unchanged"]()))
    assert page.text.count("28 unchanged: layers.2.conv to layers.29.conv") == 2
    (diagram,) = page.all("svg", "diagram")
    assert float(diagram["viewbox"].split()[-1]) < 500
    (tall,) = Page(render_html(SAMPLES["200 layers"]())).all("svg", "diagram")
    assert float(tall["viewbox"].split()[-1]) < 200 * 25


@every_sample
def test_every_plan_of_the_frontier_can_be_picked_and_the_chosen_one_is(result):
    page = Page(render_html(result))
    picks = [each for each in page.all("input") if each["name"] == "frontier"]
    points = result.search.frontier if result.search else ()
    assert len(picks) == len(points) == len(page.all("circle", "dot"))
    assert ["checked" in pick for pick in picks] == [point.is_chosen for point in points]
    for point in points:
        assert f"{point.latency_ns / 1e6:.3f} ms predicted" in page.text
    # Their slices cover the plot and do not overlap.
    slices = [re.fullmatch(r"margin-left:(.*)%;width:(.*)%", pick["style"]) for pick in picks]
    edges = [(float(found[1]), float(found[1]) + float(found[2])) for found in slices]
    for (_, right), (left, _) in pairwise(edges):
        assert left == pytest.approx(right, abs=0.01)
    if points:
        assert page.text.count("The plan: ") == 1


@every_sample
def test_the_map_has_a_cell_for_every_segment_that_says_what_is_known(result):
    page = Page(render_html(result))
    cells = [each for each in page.all("input") if each["name"] == "segment"]
    segments = result.search.segments if result.search else ()
    assert len(cells) == len(segments)
    for segment in segments:
        assert f"Positions {segment.start}..{segment.end}, " in page.text
    for kind, number in (
        ("unevaluated", sum(bool(s.num_unevaluated and not s.num_scored) for s in segments)),
        ("failed", sum(bool(s.num_failed and not s.num_scored) for s in segments)),
        ("chosen", sum(s.is_chosen for s in segments)),
    ):
        assert sum(kind in cell["class"].split() for cell in cells) == number
        assert len(page.all("i", kind)) == bool(number), "the legend has what occurs"


def test_the_map_says_in_words_what_it_shows():
    text = Page(render_html(SAMPLES["searched"]())).text
    assert "45 segments can be replaced, in 45 ways: 26 scored, 11 not evaluated" in text
    assert "Best for accuracy is to replace positions 4..5 (-0.60 points)" in text
    assert "Positions 0..1, 1 layer: not evaluated." in text


@given(st.lists(st.floats(-1, 1), min_size=1))
def test_every_change_has_a_class_of_the_scale(deltas):
    segments = [
        SegmentFinding(n, n + 1, 1, num_scored=1, delta=delta, importance=1.0)
        for n, delta in enumerate(deltas)
    ]
    scale = Scale.of(segments)
    classes = {name: (low, high) for name, low, high in scale.classes()}
    for delta in deltas:
        low, high = classes[scale.class_of(delta)]
        assert low - abs(low) * 1e-9 - 1e-300 <= delta <= high + abs(high) * 1e-9
    ends = [end for pair in classes.values() for end in pair]
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("key", "described"),
    [
        ("2-5:3x3:4,5", "2..5 -> 3x3"),
        ("2-5:3x3:4,5+relu+norm_1", "2..5 -> 3x3"),
        ("5-7:0x0:", "5..7 removed"),
        ("something else", "something else"),
    ],
)
def test_candidates_are_described_by_their_keys(key, described):
    assert describe_key(key) == described


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.6, 0.66, 0.7, 0.9, 1.0, 1.2])
@pytest.mark.parametrize("name", ["sample", "slower", "not by accuracy"])
def test_labels_of_the_plot_keep_clear_of_the_budget_and_of_each_other(name, budget):
    result = SAMPLES[name]()
    result = replace(result, budget_ns=round(budget * result.base.latency_ns))
    svg = re.search(r'<svg[^>]*class="plot">.*?</svg>', render_html(result), re.DOTALL)
    (line,) = re.findall(r'<line x1="([\d.]+)"[^>]*class="budget"', svg.group())
    found = re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)"[^>]*class="point-label">([^<]*)<', svg.group()
    )
    boxes = [text_box(float(x), float(y), label) for x, y, label in found]
    assert len(boxes) == 2
    assert boxes[0].overlap(boxes[1]) == 0
    for box in boxes:
        assert not box.left <= float(line) <= box.right
        assert box.left >= 60
        assert box.right <= 400


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_evenly_spaced_and_inside(low, length):
    axis = Axis(low, low + length, 0.0, 100.0)
    ticks = axis.ticks()
    slack = 1e-6 * max(abs(low), length)
    assert 2 <= len(ticks) <= 6
    assert all(low - slack <= tick <= low + length + slack for tick in ticks)


@given(st.text(max_size=60), st.integers(3, 40))
def test_shortened_names_keep_their_ends(text, length):
    short = shorten(text, length)
    assert len(short) == min(len(text), length)
    assert text.startswith(short[0]) if text else short == ""
    assert text.endswith(short[-1:])


def test_the_page_is_written_as_it_is_rendered(tmp_path):
    result = make_result(name="réseau")
    write_html(result, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_html(result)
