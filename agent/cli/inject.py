"""`agent inject` and `agent uninject`: the sidecar in manifests of Kubernetes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.injection_options import parsed, with_options
from agent.core.errors import AgentError, BadInput, MachineError

if TYPE_CHECKING:
    from agent.injection.documents import Rewritten

_FAILED = 1
_SUFFIXES = (".yaml", ".yml", ".json")
_EPILOG = """\
Examples:

\b
  agent inject -f app.yaml | kubectl apply -f -      the mesh's sidecar
  agent inject -i -f manifests                       in place, each file of a directory
  agent inject --profile tls --cert-source secret:app-tls -f app.yaml
  agent uninject -f app.yaml

Exit codes: 0 done; 1 a file cannot be read or an object is refused, and nothing is written; 2 usage.
"""

_Rewrite = Callable[[str, str], "Rewritten"]


def _files(command: Any) -> Any:  # noqa: ANN401  # a function, as click decorates it
    for decorate in reversed([
        click.option(
            "-f", "--filename", "names", multiple=True, required=True, metavar="FILE|DIR|-",
            help="YAML or JSON; of a directory, the files *.yaml, *.yml and *.json; - is standard input.",
        ),
        click.option("-i", "--in-place", is_flag=True, help="Write the files, and nothing to standard output."),
        click.option("-v", "--verbose", is_flag=True, help="Name the objects that are copied as well."),
    ]):  # fmt: skip
        command = decorate(command)
    return command


@click.command(epilog=_EPILOG)
@_files
@click.option("-n", "--namespace", help="The namespace of objects that name none.")
@with_options
def inject(names: tuple[str, ...], *, in_place: bool, verbose: bool, namespace: str | None, **given: Any) -> int:  # noqa: ANN401  # click's values
    """Add the sidecar to the pod templates of manifests.

    Everything else in the files stays as it is, comments included. Annotations of a pod change what is added.
    Injecting again replaces the sidecar by the one that this version and these options make.
    """
    from agent.injection import documents

    options = parsed(given)
    return _run(names, lambda text, name: documents.inject(text, name, options, namespace), in_place, verbose)


@click.command()
@_files
def uninject(names: tuple[str, ...], *, in_place: bool, verbose: bool) -> int:
    """Remove what `agent inject` has added: the files are as they were before, byte for byte."""
    from agent.injection import documents

    return _run(names, documents.uninject, in_place, verbose)


def _run(names: Sequence[str], rewrite: _Rewrite, in_place: bool, verbose: bool) -> int:
    """Rewrite all files, or none if one cannot be; return the exit code."""
    if in_place and "-" in names:
        message = "cannot write in place: - is standard input; leave out -i"
        raise click.UsageError(message)
    done: list[tuple[str, bytes, str]] = []
    failed = False
    for name in _expanded(names):
        try:
            data = _read(name)
            shown = "standard input" if name == "-" else name
            rewritten = rewrite(_decoded(data, shown), shown)
        except AgentError as error:
            click.echo(f"agent: {error}", err=True)
            failed = True
            continue
        for note in (*rewritten.notes, *(rewritten.copied if verbose else ())):
            click.echo(note, err=True)
        done.append((name, data, rewritten.text))
    if failed:
        click.echo("agent: nothing is written", err=True)
        return _FAILED
    if in_place:
        _write(done)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(_joined([text for _, _, text in done]).encode())
    return 0


def _expanded(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        path = Path(name)
        if name == "-" or not path.is_dir():
            yield name
            continue
        yield from sorted(str(each) for each in path.iterdir() if each.suffix in _SUFFIXES and each.is_file())


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        message = f"cannot read {name}: {error.strerror}; correct the name"
        raise BadInput(message) from error


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        message = f"cannot read {name}: it is not UTF-8; convert it"
        raise BadInput(message) from None


def _joined(texts: Sequence[str]) -> str:
    """Return one stream of documents, with a separator between files."""
    joined = ""
    for text in texts:
        if joined and text:
            joined += "" if joined.endswith("\n") else "\n"
            joined += "" if text.startswith("---") else "---\n"
        joined += text
    return joined


def _write(done: Sequence[tuple[str, bytes, str]]) -> None:
    """Replace changed files: write all, then rename all. Raises `MachineError`."""
    fresh: dict[Path, Path] = {}
    try:
        for name, before, text in done:
            path = Path(name).resolve()
            if text.encode() != before:
                fresh[path] = path.with_name(f".{path.name}.injected")
                fresh[path].write_bytes(text.encode())
                fresh[path].chmod(path.stat().st_mode & 0o7777)
        for path, written in fresh.items():
            written.rename(path)
    except OSError as error:
        for written in fresh.values():
            with suppress(OSError):
                written.unlink()
        message = f"cannot write {error.filename}: {error.strerror}; make its directory writable"
        raise MachineError(message) from error
