"""The project as a whole: its imports, its names, its documents, its tests."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import chatkit
import chatkit.testing
import chatkit.tls
from chatkit import AsyncClient, Client, Event, Handler, History, Limits, Member, Server
from chatkit.server.connection import ConnectionState
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Started
from tests.mutants.mutants import MUTANTS

ROOT = Path(__file__).parent.parent
SOURCE = Path(chatkit.__file__).parent

# Each folder, and each module at the top, imports only from those before it.
LAYERS = (
    *("events", "errors", "limits", "protocol", "tls", "net", "history", "room", "handler", "server", "client"),
    *("__init__", "testing", "cli", "__main__"),
)


# docs/api.md has every public attribute of these, and every field of a dataclass.
WHOLE_CLASSES = (AsyncClient, Client, Handler, History, Member, Server)


def place(name: str) -> int:
    """Return the layer of a module: its folder's."""
    return LAYERS.index(name.partition(".")[0])


def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_imports_run_one_way() -> None:
    """Each module imports only from its folder and those before it, and only the standard library and click beside."""
    assert {name.partition(".")[0] for name in modules()} == set(LAYERS)
    for name, path in modules().items():
        for imported in imports(path):
            if imported.partition(".")[0] == "chatkit":
                inner = imported.partition(".")[2]
                if inner.partition(".")[0] in LAYERS:
                    assert place(inner) <= place(name), f"{name} imports {inner}"
            elif imported.partition(".")[0] == "click":
                assert name.startswith(("cli.", "__main__")), f"{name} imports click"
            elif imported.partition(".")[0] == "cryptography":
                assert name == "tls", f"{name} imports cryptography"
            elif imported.partition(".")[0] == "prompt_toolkit":
                assert name in ("cli.client.editor", "cli.client.toolkit"), f"{name} imports prompt_toolkit"
            elif imported == "pytest":
                assert name == "testing", f"{name} imports pytest"
            else:
                assert imported.partition(".")[0] in sys.stdlib_module_names, f"{name} imports {imported}"


def modules_of_tests() -> dict[str, ast.Module]:
    """Return each module of the tests, parsed, by its path."""
    folder = ROOT / "tests"
    return {str(path.relative_to(folder)): ast.parse(path.read_text()) for path in folder.rglob("*.py")}


def test_tests_share_through_helpers() -> None:
    """No test module imports another one, nor a conftest."""
    for name in modules_of_tests():
        shared = [each for each in imports(ROOT / "tests" / name) if each.startswith("tests.")]
        assert all(each.startswith(("tests.helpers", "tests.mutants")) for each in shared), f"{name} imports {shared}"


def is_private(name: str) -> bool:
    """Say whether a part of a dotted name begins with an underscore; `__init__` is public."""
    return any(re.match(r"_(?!_.*__$)", part) for part in name.split("."))


def is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each private name that is used of something but `self`, also as a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("getattr", "setattr"):
            names = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            yield from ((node.lineno, name) for name in names if is_private(name) and not is_own(node.args[0]))


def test_one_module_knows_private_attributes() -> None:
    """Beside tests/helpers/inside.py no test uses a private attribute of the library."""
    for name, tree in modules_of_tests().items():
        if name != "helpers/inside.py":
            assert not list(private_names(tree)), f"{name}: tests/helpers/inside.py is the place for these"


def test_importing_the_library_loads_nothing_but_the_standard_library() -> None:
    """Neither click nor any extra."""
    for module, beside in (("chatkit", ""), ("chatkit.testing", "pytest")):
        code = (
            f"import sys, {beside or 'sys'}; before = set(sys.modules); "
            f"import {module}; print(*set(sys.modules) - before)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = done.stdout.split()
        assert module in loaded
        assert ("chatkit.server.server" in loaded) == (module == "chatkit.testing")
        assert not {name.partition(".")[0] for name in loaded} & {"click", "asyncio", "sqlite3", "ssl"}
        assert "importlib.metadata" not in loaded or beside


def test_names_that_are_not_loaded_yet_are_listed() -> None:
    """`dir(chatkit)` has every public name, and loads nothing."""
    code = "import chatkit, sys; print(set(chatkit.__all__) <= set(dir(chatkit)), 'chatkit.client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def test_all_is_complete() -> None:
    """`__all__` names what there is, in order, and every public class says what it is."""
    assert sorted(chatkit.__all__) == chatkit.__all__
    public = {name for name in chatkit.__all__ if isinstance(getattr(chatkit, name), type)}
    assert {name for name, value in vars(chatkit).items() if isinstance(value, type)} == public
    assert all(getattr(chatkit, name).__doc__ for name in public)
    for kind in (Server, Client, AsyncClient):
        assert "Resource handling: " in (kind.__doc__ or "")
        assert "Error handling: " in (kind.__doc__ or "")


def members_of(node: ast.ClassDef) -> set[str]:
    """Return the methods and attributes of a class."""
    names = {each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return names | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute) and is_own(each.value)}


def classes() -> dict[str, set[str]]:
    """Return the names in each class of the library."""
    found = dict[str, set[str]]()
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(members_of(node))
    return found


def claimed(module: ModuleType, folder: Path) -> dict[str, Any]:
    """Run the block of docs/api.md about a module: classes and functions without bodies. Returns these by name."""
    head = f"# from {module.__name__} import ...\n"
    (block,) = [block for block in code_blocks("docs/api.md", "python") if block.startswith(head)]
    path = folder / "api.py"
    path.write_text(f"from __future__ import annotations\n{block}")
    before = {**{name: getattr(chatkit, name) for name in chatkit.__all__}, "ssl": ssl, "annotations": annotations}
    names = runpy.run_path(str(path), before)
    return {name: value for name, value in names.items() if not name.startswith("_") and value is not before.get(name)}


def public_names(kind: type) -> set[str]:
    """Return the public methods, properties and annotated attributes of a class."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("chatkit")]
    return {name for base in own for name in (*vars(base), *inspect.get_annotations(base)) if not name.startswith("_")}


def signature(function: Any) -> list[tuple[object, ...]]:
    parameters = inspect.signature(function).parameters.values()
    asynchronous = inspect.iscoroutinefunction(function)
    return [(asynchronous,), *[(each.name, each.kind, each.default) for each in parameters]]


def assert_agrees(claim: type, kind: type) -> None:
    """Assert that a class of docs/api.md claims only bases, arguments and attributes that the real one has."""
    assert {base.__name__ for base in claim.__bases__} <= {base.__name__ for base in kind.__mro__}
    claims = {name: vars(claim).get(name) for name in (*vars(claim), *inspect.get_annotations(claim))}
    for name, value in claims.items():
        if inspect.isfunction(value):
            assert signature(value) == signature(getattr(kind, name)), f"{kind.__name__}.{name}"
    names = {name for name in claims if not name.startswith("_")}
    if issubclass(kind, Exception):
        assert names == set(inspect.signature(kind.__init__).parameters) - {"self", "args", "kwargs"}, kind.__name__
    elif is_dataclass(kind):
        inherited = {name for base in claim.__bases__ for name in inspect.get_annotations(base)}
        assert names | inherited == {each.name for each in fields(kind)}, kind.__name__
    elif kind in WHOLE_CLASSES:
        assert names == public_names(kind), kind.__name__
    else:
        assert names <= public_names(kind) | classes()[kind.__name__], kind.__name__


def test_the_page_of_public_names_is_complete(tmp_path: Path) -> None:
    """docs/api.md has every name of `chatkit` and every attribute of its classes, with arguments and defaults."""
    claims = claimed(chatkit, tmp_path)
    assert sorted([*claims, "__version__"]) == chatkit.__all__
    for name, claim in claims.items():
        if isinstance(claim, type):
            assert_agrees(claim, getattr(chatkit, name))
    assert [each.__name__ for each in get_args(claims["Event"])] == [each.__name__ for each in get_args(Event)]
    assert signature(AsyncClient) == signature(Client)  # said there once for both


@pytest.mark.parametrize("module", [chatkit.tls, chatkit.testing], ids=lambda module: module.__name__)
def test_the_page_of_public_names_is_true(module: ModuleType, tmp_path: Path) -> None:
    """The names of other modules are there, too, with arguments and defaults."""
    for name, claim in claimed(module, tmp_path).items():
        real = getattr(module, name)
        if isinstance(claim, type):
            assert_agrees(claim, real)
        elif real.__class__.__name__ != "FixtureFunctionDefinition":  # pytest's, which no signature tells
            assert signature(claim) == signature(real), name


def code_blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_example_in_the_readme_runs() -> None:
    """As it stands there."""
    (code,) = code_blocks("README.md", "python")
    assert len(code.strip().splitlines()) <= 10
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=DEADLINE)
    assert re.fullmatch(r"a room on .*\n[0-9]+ said Hi!\n\[\]\n", done.stdout), done


def test_the_client_in_the_protocol_document_chats(serve: Callable[..., Started]) -> None:
    """Fifteen lines of the standard library are a full member."""
    (code,) = code_blocks("docs/protocol.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 18
    started = serve()
    peer = started.peer()
    command = [sys.executable, "-c", code, str(started.port)]
    done = subprocess.run(command, input="hi\n", capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert peer.line().endswith(b": hi")


def test_documents_name_every_limit_as_it_is() -> None:
    """The defaults in docs/protocol.md are those of `Limits`."""
    text = (ROOT / "docs/protocol.md").read_text()
    limits = Limits()
    assert f"At most {limits.max_line_bytes} bytes" in text
    assert f"more than {limits.max_pending_bytes >> 20} MiB wait" in text
    assert f"no byte for {limits.stall_seconds:g} s" in text
    assert f"within {limits.drain_seconds:g} s" in text


def functions_of(tree: ast.Module) -> set[str]:
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_guarantees_name_tests_that_exist() -> None:
    """Every test that docs/guarantees.md names is there, in the file that it names; so is every limit."""
    text = (ROOT / "docs/guarantees.md").read_text()
    found = {name: functions_of(tree) for name, tree in modules_of_tests().items()}
    everywhere = set().union(*found.values())
    named = re.findall(r"`(?:((?:\w+/)*test_\w+\.py)(?:::)?)?(test_\w+)?`", text)
    assert len([test for _, test in named if test]) > 30
    for file, test in named:
        assert not file or file in found, file
        assert not test or test in (found[file] if file else everywhere), f"{file}::{test}"
    for limit in fields(Limits):
        assert f"`{limit.name}`" in text, limit.name


def promises() -> list[str]:
    """Return the numbered promises of docs/guarantees.md, and the first cell of each row."""
    text = (ROOT / "docs/guarantees.md").read_text()
    rows = [cell for cell in re.findall(r"^\| (.*?) \|", text, re.MULTILINE) if cell != "case"]
    return re.findall(r"^\d+\. \*\*(.*?)\*\*", text, re.MULTILINE) + rows


def test_each_promise_has_its_mutants() -> None:
    """Each row of docs/guarantees.md has a change of the source that tests must notice, and each change has one row."""
    assert len(promises()) > 70
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for promise in promises():
        assert any(promise.startswith(mutant.promise) for mutant in MUTANTS), f"no mutant: {promise}"
    for mutant in MUTANTS:
        assert sum(promise.startswith(mutant.promise) for promise in promises()) == 1, mutant


def test_mutants_are_of_today() -> None:
    """The text that each replaces is found once, and the change is still Python; the tests that it names are there."""
    found = {name: functions_of(tree) for name, tree in modules_of_tests().items()}
    for mutant in MUTANTS:
        ast.parse(mutant.applied_to((SOURCE / mutant.file).read_text()))
        assert mutant.tests
        for file, _, test in (test.partition("::") for test in mutant.tests):
            assert file in found, f"{mutant.name}: {file}"
            assert not test or test.partition("[")[0] in found[file], f"{mutant.name}: {file}::{test}"


def test_the_page_on_the_architecture_is_short_and_true() -> None:
    """At most 600 words beside its two diagrams; every place, class and method that it names is there."""
    text = (ROOT / "docs/architecture.md").read_text()
    diagrams, prose = re.findall(r"```\n(.*?)```", text, re.DOTALL), re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert len(diagrams) == 2
    assert len(prose.split()) <= 600
    named, known = re.findall(r"`([^`]+)`", prose), classes()
    places = [name for name in named if re.fullmatch(r"[\w/]+(\.py|/)", name)]
    assert len(places) > 20
    for place_named in places:
        assert any((folder / place_named).exists() for folder in (SOURCE, ROOT)), place_named
    symbols = [name for part in (*named, *diagrams) for name in re.findall(r"\b(?:[A-Z][a-z]+)+(?:\.\w+)?\b", part)]
    assert len(symbols) > 30
    for symbol in symbols:
        name, _, member = symbol.partition(".")
        assert name in known, symbol
        assert not member or member in known[name], symbol
    assert all(state.name in diagrams[1] for state in ConnectionState)


def test_the_page_on_the_architecture_has_the_layers() -> None:
    """Its table is the one-way order of the imports."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    places = [name.removesuffix(".py").removesuffix("/") for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert [name for name in LAYERS if not name.startswith("__")] == places


def test_documents_name_files_that_exist() -> None:
    """Every path that begins at the root of the project is there."""
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for path in re.findall(r"\b(?:src|tests|docs|benchmarks|fuzz|examples)/[\w./]*\w", document.read_text()):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of a document."""
    headings = re.findall(r"^#+ (.*)", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_in_documents_lead_somewhere() -> None:
    """Every relative link names a file, and a heading of it if it names one."""
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", document.read_text()):
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{document.name}: {target}#{anchor}"
