"""Generates the message modules (`*_pb2.py`, `*_pb2.pyi`) from the .proto files beside this module.

`python -m control_plane.proto.generate` writes them; `--check` writes nothing and fails when what is
committed differs. protoc comes from grpcio-tools. Its output is changed in two ways: imports are moved
below this package, and descriptors are registered in `control_plane.proto.pool.POOL`. No service code is
generated: `runtime.transport` reads the service descriptors.
"""

import argparse
import importlib.resources
import re
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).parent
PACKAGE = "control_plane.proto"
INIT = '"""Generated messages; see control_plane/proto/generate.py."""\n'
WELL_KNOWN = ("any", "empty", "struct", "wrappers")

_DEFAULT_POOL = "_descriptor_pool.Default()"
_POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
_IMPORT = re.compile(r"^from ((?:google|spire|grpc|gatehouse)[\w.]*) import (\w+_pb2)\b", re.M)


def sources() -> list[str]:
    """Paths of our .proto files relative to this package, sorted."""
    return sorted(path.relative_to(HOME).as_posix() for path in HOME.rglob("*.proto"))


def relocate(text: str) -> str:
    """Moves the imports of one generated module below this package and its descriptors into our pool."""
    text = _IMPORT.sub(lambda match: f"from {PACKAGE}.{match[1]} import {match[2]}", text)
    text = text.replace(_POOL_IMPORT, f"from {PACKAGE} import pool as _pool\n")
    return text.replace(_DEFAULT_POOL, "_pool.POOL")


def generate(into: Path) -> None:
    """Runs protoc over all sources and writes the finished modules below `into`.

    Raises:
        RuntimeError: protoc refused a source; it has already printed where and why.
    """
    # A development dependency without type hints, absent from an installed server.
    from grpc_tools import protoc  # type: ignore[import-untyped]

    include = str(importlib.resources.files("grpc_tools") / "_proto")
    well_known = [f"google/protobuf/{name}.proto" for name in WELL_KNOWN]
    arguments = ["protoc", f"-I{HOME}", f"-I{include}", f"--python_out={into}", f"--pyi_out={into}"]
    if protoc.main(arguments + sources() + well_known) != 0:
        raise RuntimeError("protoc refused a .proto file; its message above names the line")
    for path in [*into.rglob("*_pb2.py"), *into.rglob("*_pb2.pyi")]:
        path.write_text(relocate(path.read_text()))
        for parent in path.relative_to(into).parents:
            if parent != Path():
                (into / parent / "__init__.py").write_text(INIT)


def differences(fresh: Path) -> list[str]:
    """Names of generated files that are missing, stale or left over here, compared with `fresh`."""

    def generated(root: Path) -> set[str]:
        found = [*root.rglob("*_pb2.py"), *root.rglob("*_pb2.pyi"), *root.rglob("*/__init__.py")]
        return {path.relative_to(root).as_posix() for path in found} - {"__init__.py"}

    wanted, present = generated(fresh), generated(HOME)
    stale = {name for name in wanted & present if (fresh / name).read_bytes() != (HOME / name).read_bytes()}
    return sorted((wanted ^ present) | stale)


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done or up to date, 1 what is committed differs from the sources."""
    parser = argparse.ArgumentParser(prog="python -m control_plane.proto.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on any difference")
    check = parser.parse_args(arguments).check
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        changed = differences(fresh)
        if not check:
            for name in changed:
                source, target = fresh / name, HOME / name
                if source.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(source.read_bytes())
                else:
                    target.unlink()
    for name in changed:
        sys.stdout.write(f"{'differs' if check else 'written'}: control_plane/proto/{name}\n")
    if check and changed:
        sys.stdout.write("differs from the sources: run python -m control_plane.proto.generate\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
