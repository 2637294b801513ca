"""Tests that the documentation agrees with the code: signatures, keys, defaults, commands, links."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import harness.errors
import harness.testing
import harness.types
from harness import hookspecs, stats
from harness.cli import cli
from harness.machine.energy import durations, integrate
from harness.machine.energy import reading as energy
from harness.measure import flags, signals
from harness.plan import planner
from harness.plugins import load_plugins
from harness.render import disturbances, ranking, terminal, view
from harness.results.claims.claims import Number, Ordering, Placed, Ratio, Statement
from harness.results.claims.load import ClaimsFile, load_claims
from harness.results.claims.verdicts import STATUSES
from harness.results.leaderboard import energy_columns
from harness.suite.loading import load_suite
from harness.suite.shipped import shipped_suites
from harness.suite.suite import Defaults, DeviceChoice, Method, Prepare, RunItem, Suite
from harness.train.counting.footprint import STATIC
from harness.types import Reading
from harness.types.columns import COLUMNS
from harness.types.data import DataChoice
from harness.types.figures import EnergyReading
from harness.types.measure import Measure
from harness.types.plan import PrepareHost
from harness.types.recipe import TrainRecipe
from harness.types.record import Record
from harness.worker.loadgen import loop

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")]
}
HOOKS = [*hookspecs.COLLECTING, *hookspecs.OBSERVERS]


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", plain(PAGES[page]), re.MULTILINE)


def fences(page: str, language: str | None = None) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
    return [body for kind, body in blocks if language is None or kind == language]


def plain(text: str) -> str:
    """Return ``text`` without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def inline(text: str) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", plain(text))]


def section(page: str, heading: str) -> str:
    """Return the text from ``heading`` to the next heading of any level."""
    return re.split(r"^#+ ", PAGES[page].split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, list[str]]:
    """Return the tables of a text: each name in backticks in a first cell -> the other cells of the row."""
    cells_of = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            cells_of.update(dict.fromkeys(inline(first), others))
    return cells_of


# --- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_heading_with_its_signature(hook):
    signature = str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")
    assert f"{hook}{signature}" in headings("docs/hooks.md")


def test_no_heading_names_a_hook_that_does_not_exist():
    named = [h.partition("(")[0] for h in headings("docs/hooks.md") if h.startswith("harness_")]
    assert sorted(named) == sorted(HOOKS)


@pytest.mark.parametrize(("hook", "entry"), hookspecs.COLLECTING.items())
def test_every_field_of_an_entry_is_documented(hook, entry):
    signature = str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")
    documented = {
        *rows(section("docs/hooks.md", hook + signature)),
        *inline(section("docs/hooks.md", "Hooks")),
    }
    assert {field.name for field in dataclasses.fields(entry)} <= documented


def imports_of_every_plugin() -> str:
    return PAGES["docs/hooks.md"].partition("## What every plugin imports\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    "door", [harness.types, harness.errors, harness.testing], ids=lambda door: door.__name__
)
def test_every_name_that_a_plugin_imports_is_documented(door):
    documented = rows(imports_of_every_plugin())
    for name in door.__all__:
        value = getattr(door, name)
        assert documented.pop(name, None), f"{door.__name__}.{name} has no row"
        if inspect.isclass(value) or inspect.isroutine(value):
            doc = inspect.getdoc(value) or ""
            assert doc, f"{name} has no docstring"
            assert not doc.startswith(f"{name}("), f"{name} has only the docstring that a dataclass makes"


def test_no_row_names_a_type_that_does_not_exist():
    documented = rows(imports_of_every_plugin())
    names = {*harness.types.__all__, *harness.errors.__all__, *harness.testing.__all__}
    assert documented.keys() - names == set()


# --- keys, columns, flags -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("Top level", Suite),
        ("data", DataChoice),
        ("defaults", Defaults),
        ("train", TrainRecipe),
        ("prepare", Prepare),
        ("measure", Measure),
        ("methods", Method),
        ("devices", DeviceChoice),
        ("run", RunItem),
    ],
)
def test_every_key_of_a_suite_is_documented_with_its_default(heading, model):
    documented = rows(section("docs/suite.md", heading))
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    assert set(documented) == set(fields)
    for name, field in fields.items():
        default = documented[name][0]
        if field.is_required():
            assert default == "required", name
        elif isinstance(field.default, str | int | float) or name == "schedule":
            assert default == f"`{field.default}`", name
        else:
            assert default != "required", name


def test_every_key_and_quantity_of_a_claim_is_documented_with_its_default():
    documented = rows(section("docs/claims.md", "The keys of a claim"))
    kinds = (Number, Ratio, Ordering, Placed, Statement)
    for kind in kinds:
        for name, field in kind.model_fields.items():
            if field.is_required():
                assert documented[name][0] == "required" or (kind, name) == (Statement, "says"), name
            elif field.default:
                assert documented[name][0] == f"`{field.default}`", name
    keys = {name for kind in kinds for name in kind.model_fields}
    assert keys | set(STATIC) == set(documented)
    assert set(ClaimsFile.model_fields) == set(rows(section("docs/claims.md", "The keys of the file")))
    assert set(STATUSES) == set(rows(section("docs/claims.md", "Claims of papers")))


def test_the_claims_of_the_docs_can_be_read(tmp_path):
    own, body = fences("docs/claims.md", "yaml")
    (tmp_path / "mine.yaml").write_text(fences("README.md", "yaml")[0])
    (tmp_path / "mine.claims.yaml").write_text(own)
    mine = load_claims(tmp_path / "mine.yaml", load_suite(tmp_path / "mine.yaml")).claims
    assert list(map(type, mine.values())) == [Number, Ordering]
    suite = tmp_path / "edvit.yaml"
    suite.write_text(shipped_suites()["papers/edvit"].read_text())
    (tmp_path / "edvit.claims.yaml").write_text(body)
    kinds = [type(claim) for claim in load_claims(suite, load_suite(suite)).claims.values()]
    assert kinds == [Number, Ratio, Ordering, Placed, Statement]


def test_every_column_and_flag_is_documented():
    assert set(COLUMNS) <= set(inline(PAGES["docs/measuring.md"]))
    assert list(rows(section("docs/measuring.md", "Flags"))) == list(flags.FLAGS)


def test_the_minima_of_the_percentiles_are_documented():
    table = [line for line in PAGES["docs/measuring.md"].splitlines() if line.startswith("| queries")]
    documented = [int(cell.replace(",", "")) for cell in table[0].split("|")[2:-1]]
    assert documented == list(stats.EARLY_STOPPING_MIN.values())


def test_the_tolerances_are_documented():
    runtimes = load_plugins().runtimes
    lines = re.findall(r"^\| (`.+?) \| ?(.*?) \| ([\d.]+) \|$", PAGES["docs/measuring.md"], re.MULTILINE)
    assert {name for names, _, _ in lines for name in inline(names)} == {r.entry.name for r in runtimes}
    for names, params, tolerance in lines:
        given = dict(code.split(": ") for code in inline(params))
        for name in inline(names):
            entry = runtimes.get(name).entry
            assert entry.tolerance(entry.params(**given)) == float(tolerance), name


def test_the_limits_of_steadiness_are_documented():
    text = " ".join(PAGES["docs/measuring.md"].split())
    assert f"at least {loop.WINDOW_QUERIES} queries and {loop.WINDOW_NS // 10**6} ms each" in text
    assert f"at most {loop.STEADY:.0%}" in text
    assert f"over {signals.FOREIGN_SHARE:.0%} of the cores" in text
    assert f"over {signals.WAITING:.0%} of the time" in text
    assert f"for p50: over {signals.WAITING_P50:.0%}" in text
    assert f"over {signals.STALLED:.0%} of the window" in text
    assert f"differ by over {signals.DRIFT:.0%}" in text


def test_the_signals_and_their_limits_are_documented():
    documented = section("docs/measuring.md", "Signals and their limits")
    table = [line for line in documented.splitlines() if line.startswith("| `")]
    names = {name for line in table for name in inline(line.split("|")[1].split(":")[0])}
    assert names == set(disturbances.SIGNALS)
    (foreign,) = [line for line in table if line.startswith("| `foreign_cores`")]
    assert f" {signals.FOREIGN_CORES}; {signals.ENERGY_CORES} for energy " in foreign


def test_the_limits_of_energy_are_documented():
    text = " ".join(PAGES["docs/measuring.md"].split())
    assert signals.FOREIGN_CORES == 0.5
    assert "kept half a core of the whole machine busy" in text
    assert (
        f"at most {1 / durations.FASTEST_S:g} and at least {1 / durations.SLOWEST_S:g} times a second" in text
    )
    assert f"cost at most {durations.EDGE_ERROR:.0%} of it" in text
    assert f"at least {2 / durations.EDGE_ERROR:g} periods of the slowest" in text
    assert f"up to {durations.LONGEST_IDLE_S:g} s), up to {durations.ROUNDS} times in all" in text
    assert f"give fewer than {durations.IDLE_READINGS} readings" in text
    assert f"fewer than {integrate.MIN_READINGS} in the window" in text
    assert f"a gap of over {integrate.GAP_PERIODS} intervals" in text
    assert f"above {energy.DISAGREEMENT:.0%} a note says so" in text
    assert f"drifts by over {energy.DRIFT:.0%}" in text
    assert f"within {energy.MLPERF_METER:.0%} is noted" in text
    assert f"from {energy_columns.REPEATS} processes on" in text


def test_every_key_of_a_meters_energy_is_documented():
    fields = {field.name for field in dataclasses.fields(Reading)}
    assert fields == set(EnergyReading.model_fields)
    assert fields == set(rows(section("docs/results.md", "Energy of one meter")))


def test_every_meter_is_documented_with_its_extra_and_parameters():
    documented = rows(section("docs/meters.md", "The kinds of meter"))
    assert set(documented) == {meter.entry.name for meter in load_plugins().meters}
    for meter in load_plugins().meters:
        assert not meter.entry.extra or f"`[{meter.entry.extra}]`" in documented[meter.entry.name][2]
        assert set(meter.entry.params.model_fields) <= set(inline(PAGES["docs/meters.md"]))


def test_every_key_of_a_record_is_documented():
    documented = set(rows(section("docs/results.md", "A record's keys")))
    fields = {field.alias or name for name, field in Record.model_fields.items()}
    assert fields <= documented


@pytest.mark.parametrize("page", ["README.md", "docs/suite.md", "CHANGELOG.md"])
def test_every_shipped_suite_is_documented(page):
    assert set(shipped_suites()) <= set(inline(PAGES[page]))


# --- commands -------------------------------------------------------------------------------------


def commands() -> list[tuple[str, str, bool]]:
    """Return (page, command line, complete) of unlabelled fences, and of inline code that begins with harness."""
    found = []
    for page, whole in PAGES.items():
        for body in fences(page, ""):
            lines = body.replace("\\\n", " ").splitlines()
            found += [(page, line.partition(" #")[0], True) for line in lines if line.startswith("harness ")]
        text = re.sub(r"^#+ Not built yet\n.*", "", plain(whole), flags=re.MULTILINE | re.DOTALL)
        found += [(page, code, False) for code in inline(text) if code.startswith("harness ")]
    return found


def parse(line: str) -> None:
    """Parse a line as the command line does. Run nothing."""
    words = shlex.split(line)[1:]
    words = words[: words.index(">")] if ">" in words else words
    command: click.Command = cli
    context = click.Context(cli, info_name="harness")
    while isinstance(command, click.Group):
        word = words.pop(0)
        found = command.get_command(context, word)
        assert found is not None, f"no command {word}"
        command = found
        if not words:
            break
    if not isinstance(command, click.Group):
        command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize(("page", "line", "complete"), commands())
def test_every_command_line_parses(page, line, complete):
    try:
        parse(line)
    except click.MissingParameter:
        assert not complete
    except click.UsageError as error:
        pytest.fail(f"{page}: {line}: {error.format_message()}")


def options(group: click.Group) -> set[str]:
    """Return every option of every command of a group."""
    context, found = click.Context(group), set()
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found |= options(command)
        else:
            found |= {option for param in command.params for option in param.opts}
    return found


def test_every_option_in_the_text_exists():
    known = options(cli) | {"--help", "--strict"}  # every command's, mypy's
    for page, text in PAGES.items():
        for code in inline(text):
            used = re.findall(r"(?<!\S)--[a-z-]+", code)
            if "pip" not in code and "no-build-isolation" not in code:
                assert set(used) <= known, f"{page}: {code}"


def test_no_command_exists_that_is_listed_as_not_built_yet():
    named = [
        code for code in inline(section("docs/results.md", "Not built yet")) if code.startswith("harness ")
    ]
    assert named
    for code in named:
        with pytest.raises(AssertionError, match="no command"):
            parse(code)


def test_every_make_target_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, text in PAGES.items():
        named = re.findall(r"^make ([\w-]+)", text, re.MULTILINE)
        named += [code.split()[1] for code in inline(text) if code.startswith("make ")]
        assert set(named) <= targets, page


# --- links, examples ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_the_target_of_every_relative_link_exists(page):
    for target in re.findall(r"\]\(([^)]+)\)", plain(PAGES[page])):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            there = headings(path.resolve().relative_to(ROOT).as_posix())
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in there}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_command_names_exists(page):
    named = re.findall(r"(?:pytest|python)\s+((?:tests|benchmarks|docs)/[\w/]+\.py)", PAGES[page])
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_short_list_has_every_package():
    """CONTRIBUTING's list against the folders; docs/architecture.md has the whole map."""
    core, plugins = fences("CONTRIBUTING.md", "")[0].split("\nplugins/", 1)
    packages = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/", core, re.MULTILINE)) == packages
    folders = {path.name for path in (ROOT / "plugins").iterdir() if path.name.startswith("harness_")}
    assert set(re.findall(r"^  (harness_\w+)/", plugins, re.MULTILINE)) == folders


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_machine(page):
    assert not re.search(r"(?<![\w.])/(?:work|tmp|home|root)/", PAGES[page])


@pytest.mark.parametrize("page", ["README.md", "docs/suite.md"])
def test_whole_suites_in_the_docs_can_be_planned(page, tmp_path):
    whole = [body for body in fences(page, "yaml") if body.startswith("suite:")]
    assert whole
    for body in whole:
        path = tmp_path / "suite.yaml"
        path.write_text(body)
        assert planner.make_plan(load_suite(path), load_plugins(), PrepareHost()).plan.cells


def test_fragments_of_suites_in_the_docs_can_be_planned(tmp_path):
    whole, *fragments = fences("docs/suite.md", "yaml")
    assert len(fragments) == 5
    for fragment in fragments:
        own, fragment = re.match(r"((?:x-.*\n)*)((?s:.*))", fragment).groups()
        key = fragment.split(":", 1)[0]
        if fragment.startswith("  "):  # one more method
            text = whole.replace("devices:\n", f"{fragment}devices:\n", 1)
        else:
            text = re.sub(rf"^{key}:\n(?:  .*\n)+", fragment, whole, flags=re.MULTILINE)
        assert text != whole
        path = tmp_path / "suite.yaml"
        path.write_text(own + text)
        assert planner.make_plan(load_suite(path), load_plugins(), PrepareHost()).plan.cells


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_notes_below_a_printed_table_are_those_of_the_code(page):
    """The figures and names of a note come from the printed run. Its fixed words must be in the code."""
    code = "".join(map(inspect.getsource, (view, ranking, terminal)))
    (printed,) = [body for body in fences(page, "") if body.startswith("digits test")]
    table, notes = printed.rsplit("\n\n", 1)
    begun = [line for line in notes.splitlines() if re.match(r"[*±]|Tier:|Not shown", line)]
    assert len(begun) >= 3
    for note in begun:
        words = re.split(r" \(|: (?=[A-Z])", note.lstrip("* "))[0]
        assert words in code, note
    for heading in re.findall(r"[A-Z][\w-]+", table.splitlines()[3]):
        assert heading in code or heading in {column.heading for column in COLUMNS.values()}, heading


# --- the plugin of CONTRIBUTING -------------------------------------------------------------------


@pytest.fixture
def example(printed_plugin):
    """Return the folder of the example's files, with the metadata that an installation writes."""
    project = (printed_plugin / "pyproject.toml").read_text()
    point = re.search(r'^\[project\.entry-points\.harness\]\n(\w+) = "([\w.]+)"$', project, re.MULTILINE)
    info = printed_plugin / "harness_example-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-example\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[harness]\n{point[1]} = {point[2]}\n")
    files = sorted(path.relative_to(printed_plugin) for path in printed_plugin.glob("harness_example*/*"))
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    return printed_plugin


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HARNESS_CACHE": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


def test_the_example_plans_and_its_error_is_as_printed(example):
    planned = run(example, "harness", "plan", "example.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "mixer-r8" in planned.stdout
    suite = example / "example.yaml"
    suite.write_text(suite.read_text().replace("rank: [4, 8]", "rank: [0, 8]"))
    wrong = run(example, "harness", "plan", "example.yaml")
    assert wrong.returncode == 2
    assert wrong.stderr.strip() in PAGES["CONTRIBUTING.md"]


@pytest.mark.e2e
def test_the_examples_own_tests_pass(example):
    answer = run(example, "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_distillation_example_trains(tmp_path):
    from harness.testing import make_context, make_model

    (body,) = [body for body in fences("CONTRIBUTING.md", "python") if body.startswith("def distil")]
    names: dict = {}
    exec(body, names)
    ctx = make_context(tmp_path)
    teacher, student = make_model(ctx), make_model(make_context(tmp_path / "other", seed=1))
    assert names["distil"](ctx, teacher.module, student.module).image_passes > 0


def test_the_error_messages_are_as_printed(tmp_path):
    """The table of error messages quotes the messages of the plugin manager."""
    (tmp_path / "trouble_plugin.py").write_text(
        "from harness.hookspecs import hookimpl\n"
        "from harness.types import ModelEntry, Params\n"
        "@hookimpl\ndef harness_models():\n    yield {}\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("trouble_plugin")
        (problem,) = load_plugins(extra={"trouble": module}).problems
        assert f"{problem.hook}: {problem.reason}" in PAGES["CONTRIBUTING.md"]

        module.harness_models = lambda: [
            module.ModelEntry(name="mixer", summary="", build=None, params=module.Params())
        ]
        hookspecs.hookimpl(module.harness_models)
        (problem,) = load_plugins(extra={"trouble": module}).problems
        assert f"{problem.hook}: {problem.reason}" in PAGES["CONTRIBUTING.md"]

        module.harness_model = hookspecs.hookimpl(lambda: iter(()))
        (problem,) = load_plugins(extra={"trouble": module}).problems
        assert f"{problem.hook}: {problem.reason.partition('? ')[0]}?" in PAGES["CONTRIBUTING.md"]
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["trouble_plugin"]
