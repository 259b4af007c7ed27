"""`gatehouse policy`, as a person or a pipeline runs it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from control_plane.cli.policy import app

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "rego" / "starter"
INVENTORY = ROOT / "deploy" / "demo" / "inventory.yaml"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object) -> dict[str, object]:
    result = run(*arguments, "--output", "json")
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    assert run("init", folder).exit_code == 0
    return folder


def edited(project: Path, old: str, new: str) -> Path:
    file = project / "authz" / "authz.rego"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return project


def test_a_new_project_is_clean_tested_and_formatted(project: Path) -> None:
    assert "no errors, no warnings" in run("check", project).stdout
    told = answer("test", project)
    assert (told["failed"], told["coverage_percent"]) == (0, 100.0)
    assert answer("fmt", "--list", project) == {"changed": []}


def test_init_never_writes_into_a_folder_with_files(project: Path) -> None:
    result = run("init", project)
    assert result.exit_code == 1
    assert "isn't empty" in result.stderr


def test_check_points_at_the_misspelt_field_and_names_the_right_one(project: Path) -> None:
    result = run("check", edited(project, "input.request.path ==", "input.request.paht =="))
    assert result.exit_code == 1
    assert "authz/authz.rego:43:16" in result.stdout
    assert "^^^^" in result.stdout
    assert "did you mean path?" in result.stdout


def test_check_warns_of_the_author_s_lines_and_not_of_the_library_s(tmp_path: Path) -> None:
    policy = tmp_path / "one.rego"
    policy.write_text("package gatehouse.authz\n\nallow if count == 1\n\ncount := 1\n")
    result = run("check", policy)
    assert "rule count hides the built-in" in result.stdout
    assert "gatehouse/lib" not in result.stdout, "who didn't write the library can't mend it"


def test_check_tells_every_file_s_errors_at_once(project: Path) -> None:
    (project / "a.rego").write_text("package a\np if {")
    (project / "b.rego").write_text("package b\nq := ")
    told = answer("check", project)
    findings = told["findings"]
    assert isinstance(findings, list)
    assert {finding["location"]["file"] for finding in findings} == {"a.rego", "b.rego"}


def test_a_failing_test_is_named_with_its_place(project: Path) -> None:
    result = run("test", edited(project, 'in {"GET", "HEAD"}', 'in {"HEAD"}'))
    assert result.exit_code == 1
    assert "authz_test.rego" in result.stdout
    assert "test_everyone_of_ours_reads_the_shops_pages" in result.stdout


def test_coverage_below_the_threshold_fails(project: Path) -> None:
    (project / "extra.rego").write_text('package extra\nunused if input.request.method == "GET"\n')
    assert run("test", project).exit_code == 0
    result = run("test", project, "--threshold", "100")
    assert result.exit_code == 1
    assert "not reached  extra.rego: lines 2" in result.stdout


def test_no_test_at_all_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text("package p\nq := 1\n")
    assert run("test", tmp_path).exit_code == 1


def test_eval_shows_values_and_undefined(project: Path, tmp_path: Path) -> None:
    given = tmp_path / "input.json"
    given.write_text('{"n": 12345678901234567890.5}')
    assert answer("eval", project, "-q", "data.gatehouse.authz.allow") == {"results": [{"value": False}]}
    assert run("eval", project, "-q", "input.n", "-i", given).stdout == '{"value":12345678901234567890.5}\n'
    assert run("eval", project, "-q", "input.none", "-i", given).stdout == "undefined\n"


def test_eval_refuses_an_input_that_is_no_json(project: Path, tmp_path: Path) -> None:
    given = tmp_path / "input.json"
    given.write_text("{")
    result = run("eval", project, "-q", "input", "-i", given)
    assert result.exit_code == 1
    assert "input.json" in result.stderr


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("numbers.range(1, 1000000000000)", "more than 1000000 numbers"),
        ('x := {"a": y | some y in [1, 2]}', "object keys must be unique"),
    ],
)
def test_eval_tells_why_it_ended_without_an_answer(tmp_path: Path, query: str, told: str) -> None:
    (tmp_path / "empty.rego").write_text("package empty\n")
    result = run("eval", tmp_path, "-q", query)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "an error of ours, not a crash"
    assert told in result.stderr
    assert "evaluating" in result.stderr


def test_compile_proves_the_starter_policy_exact(project: Path) -> None:
    told = answer("compile", project, "--inventory", INVENTORY)
    assert told["exact"] is True
    assert told["objects"] == 7


def test_exact_only_refuses_what_a_target_cannot_say(project: Path) -> None:
    arguments = ("compile", project, "--inventory", INVENTORY, "--target", "istio-ztunnel")
    assert run(*arguments).exit_code == 0
    result = run(*arguments, "--exact-only")
    assert result.exit_code == 1
    assert "authz/authz.rego" in result.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workloads: [{a: ", "flow node"),
        ("workloads: 3\nmesh: {}\n", "mesh.trust_domain"),
        ("mesh: {trust_domain: shop.test}\nworkload: []\n", "workload"),
    ],
)
def test_a_bad_inventory_is_named_with_what_is_wrong_in_it(
    project: Path, tmp_path: Path, text: str, told: str
) -> None:
    bad = tmp_path / "bad-inventory.yaml"
    bad.write_text(text)
    for command in (("compile", project), ("callers-of", "payments", project)):
        result = run(*command, "--inventory", bad)
        assert result.exit_code == 1
        assert "bad-inventory.yaml" in result.stderr
        assert told in result.stderr


def test_an_unknown_target_lists_the_known_ones(project: Path) -> None:
    result = run("compile", project, "--inventory", INVENTORY, "--target", "istio")
    assert result.exit_code == 1
    assert "istio-sidecar" in result.stderr


def test_render_writes_one_file_an_object_and_removes_only_its_own(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("render", project, "--inventory", INVENTORY, "--out", out).exit_code == 0
    first = {path.name for path in out.iterdir()}
    listed = yaml.safe_load((out / "kustomization.yaml").read_text())["resources"]
    assert first == {*listed, "kustomization.yaml"}
    (out / "notes.txt").write_text("mine")
    edited(project, "5432", "5433")
    assert run("render", project, "--inventory", INVENTORY, "--out", out).exit_code == 0
    second = {path.name for path in out.iterdir()}
    assert "notes.txt" in second
    assert {name for name in first ^ second if "card-db-allow" not in name} == {"notes.txt"}


def test_render_refuses_a_folder_of_somebody_else(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.yaml").write_text("x: 1")
    result = run("render", project, "--inventory", INVENTORY, "--out", out)
    assert result.exit_code == 1
    assert (out / "precious.yaml").read_text() == "x: 1"


def test_diff_names_who_gains_and_fails_the_gate(project: Path, tmp_path: Path) -> None:
    wider = tmp_path / "wider"
    shutil.copytree(project, wider)
    edited(
        wider,
        'startswith(input.request.path, "/v1/charges")\n}\n\n# METADATA\n# title: The front end watches',
        'startswith(input.request.path, "/v1/")\n}\n\n# METADATA\n# title: The front end watches',
    )
    result = run("diff", project, wider, "--inventory", INVENTORY)
    assert result.exit_code == 1
    assert "gains  spiffe://gatehouse.test/ns/shop/sa/frontend → shop/payments" in result.stdout
    assert "authz/authz.rego:30" in result.stdout
    assert run("diff", wider, project, "--inventory", INVENTORY).exit_code == 0
    assert run("diff", wider, project, "--inventory", INVENTORY, "--fail-on", "any").exit_code == 1
    assert "| gains |" in run("diff", project, wider, "--inventory", INVENTORY, "--markdown").stdout


def test_diff_of_a_policy_with_itself_is_empty(project: Path) -> None:
    assert (
        "no request gains or loses access" in run("diff", project, project, "--inventory", INVENTORY).stdout
    )


def test_conformance_counts_and_fails_on_a_wrong_answer(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    right = {"group": "g", "id": "1", "note": "n", "query": "x = 1", "modules": [], "want_result": [{"x": 1}]}
    cases.write_text(json.dumps(right) + "\n")
    told = answer("conformance", cases)
    counted: Any = told
    assert {name: counted[name]["count"] for name in ("right", "refused", "wrong")} == {
        "right": 1,
        "refused": 0,
        "wrong": 0,
    }
    cases.write_text(json.dumps(right | {"want_result": [{"x": 2}]}) + "\n")
    assert run("conformance", cases).exit_code == 1


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    result = run("check", tmp_path / "none")
    assert result.exit_code == 3
    assert "doesn't exist" in result.stderr


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_bytes(b"package p\n\xff")
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "isn't UTF-8 text" in result.stderr


def test_a_broken_invariant_is_shown_with_a_request_and_refused(project: Path) -> None:
    edited(project, "input.source.spiffe_id == payments", "input.source.spiffe_id in {payments, frontend}")
    # Segmentation still stands between the front end and the database.
    assert run("compile", project, "--inventory", INVENTORY).exit_code == 0
    segmentation = project / "segmentation" / "segmentation.rego"
    segmentation.write_text(segmentation.read_text().replace('"web": {"app"}', '"web": {"app", "data"}'))
    rule = segmentation.read_text()
    segmentation.write_text(
        rule.replace('input.destination.labels.tier == "data"', 'input.destination.labels.tier == "x"')
    )
    result = run("compile", project, "--inventory", INVENTORY)
    assert result.exit_code == 1
    assert "shop/card-db: broken invariant: card-db is reached by payments only" in result.stdout
    assert "spiffe://gatehouse.test/ns/shop/sa/frontend" in result.stdout


def test_callers_of_and_reachable_from_agree(project: Path) -> None:
    callers = answer("callers-of", project, "shop/card-db", "--inventory", INVENTORY)["access"]
    assert isinstance(callers, list)
    (only,) = callers
    assert only["caller"] == "spiffe://gatehouse.test/ns/shop/sa/payments"
    reached = answer("reachable-from", project, only["caller"], "--inventory", INVENTORY)["access"]
    assert isinstance(reached, list)
    assert "shop/card-db" in {one["workload"] for one in reached}


def test_rules_that_conflict_are_shown_with_the_request_where_they_meet(project: Path) -> None:
    file = project / "authz" / "authz.rego"
    file.write_text(file.read_text() + '\nallow := false if input.request.path == "/v1/charges/7"\n')
    result = run("compile", project, "--inventory", INVENTORY)
    assert result.exit_code == 1
    assert "/v1/charges/7" in result.stderr


CALL = (
    "--source",
    "shop/frontend",
    "--destination",
    "shop/payments",
    "--port",
    "8080",
    "--path",
    "/v1/charges",
)


def test_explain_names_the_rule_and_the_value_that_missed() -> None:
    result = run("explain", STARTER, "--inventory", INVENTORY, *CALL, "--method", "DELETE")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("denied, since no rule of data.gatehouse.authz.allow holds; nearest is authz/")
    assert any("← nearest" in line and "creates and reads charges" in line for line in lines)
    missed = 'input.request.method in {"GET", "POST"}  false   input.request.method = "DELETE"'
    assert lines[-1].endswith(missed)


def test_explain_says_what_allowed_a_request() -> None:
    told = answer("explain", STARTER, "--inventory", INVENTORY, *CALL, "--method", "GET")
    assert told["allowed"] is True
    origins = told["origins"]
    assert isinstance(origins, list)
    assert [one["rule"] for one in origins] == [
        "data.gatehouse.authz.allow",
        "data.gatehouse.segmentation.allow",
    ]


def test_explain_reads_an_input_document_and_any_rule() -> None:
    arguments = ["explain", str(STARTER), "--input", "-", "--rule", "data.gatehouse.authz.deny"]
    document = {"destination": {"namespace": "shop", "service": "payments"}}
    result = CliRunner().invoke(app, [*arguments, "--output", "json"], input=json.dumps(document))
    told = json.loads(result.stdout)
    assert (told["allowed"], told["input"]) == (None, document)
    failed = told["documents"][0]["rules"][0]["conditions"][1]
    assert failed["outcome"] == "undefined"
    assert failed["reads"][0]["missing"] == "input has no request: only destination"


def test_explain_shows_the_nearest_of_many_rules(tmp_path: Path) -> None:
    rules = [
        f'allow if {{ input.request.method == "M{n}"; input.request.path == "/{n}" }}' for n in range(40)
    ]
    (tmp_path / "many.rego").write_text("\n".join(["package gatehouse.authz", *rules]))
    given = ("explain", tmp_path, "--method", "GET", "--path", "/33")
    result = run(*given)
    assert "many.rego:35  allow" in result.stdout
    assert "… 28 more rules; --all shows them" in result.stdout
    assert run(*given, "--all").stdout.count("many.rego:") > 40


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--rule", "data.nothing.here"), "no such rule"),
        (("--rule", "1 == 2"), "no rule's path"),
        (("--input", "-", "--method", "GET"), "other flags"),
        (("--source", "shop/frontend"), "names a workload"),
        (("--header", "no-colon"), "name: value"),
    ],
)
def test_explain_refuses_what_it_cannot_ask(flags: tuple[str, ...], expected: str) -> None:
    result = run("explain", STARTER, *flags)
    assert result.exit_code != 0
    assert expected in result.stderr.replace("\n", " ")


ENVOY = """package envoy.authz

default allow := false

allow if {
	input.attributes.request.http.path == "/people"
	input.attributes.source.principal == "spiffe://gatehouse.test/ns/shop/sa/frontend"
}
"""


def test_import_envoy_writes_a_project_that_checks_and_tells_what_differs(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "p.rego").write_text(ENVOY)
    (tmp_path / "old" / "p_test.rego").write_text("package p_test\ntest_x if true\n")
    (tmp_path / "old" / "data.json").write_text('{"a": 1}')
    result = run("import-envoy", tmp_path / "old", "--out", tmp_path / "new")
    assert result.exit_code == 0
    assert "p.rego:6  input.attributes.request.http.path  →  input.request.path" in result.stdout
    assert "`/a?b=c` is `/a` here" in result.stdout
    assert "left out: p_test.rego" in result.stdout
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"p.rego", "data.json"}
    assert run("check", tmp_path / "new").exit_code == 0
    assert "isn't empty" in run("import-envoy", tmp_path / "old", "--out", tmp_path / "new").stderr


def test_import_envoy_writes_nothing_where_a_line_has_no_counterpart(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text("package my\nallow if input.parsed_body.x == 1\n")
    assert "which package decides" in run("import-envoy", tmp_path, "--out", tmp_path / "new").stderr
    result = run("import-envoy", tmp_path, "--out", tmp_path / "new", "--decision", "my/allow")
    assert result.exit_code == 1
    assert "p.rego:2  input.parsed_body.x" in result.stdout
    assert not (tmp_path / "new").exists()


def test_check_and_compile_name_the_command_that_rewrites(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(ENVOY)
    assert "gatehouse policy import-envoy" in run("check", tmp_path).stdout
    assert "gatehouse policy import-envoy" in run("compile", tmp_path, "--inventory", INVENTORY).stderr


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where a run has kept what it came to."""
    folder = tmp_path / "cache"
    assert run("compile", STARTER, "--inventory", INVENTORY, "--cache", folder).exit_code == 0
    return folder


COMPILE = ("compile", STARTER, "--inventory", INVENTORY)


def test_what_is_kept_is_in_a_folder_of_one_s_own(cache: Path) -> None:
    (file,) = cache.iterdir()
    assert (cache.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_later_run_evaluates_and_proves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(*COMPILE, "--no-cache").stdout
    monkeypatch.setattr("policies.questions.Questions.asked", lambda *_: pytest.fail("evaluated"))
    monkeypatch.setattr("policies.kept.proofs.prove", lambda *_: pytest.fail("proved"))
    assert run(*COMPILE, "--cache", cache).stdout == first


def test_diff_takes_what_compile_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.questions.Questions.asked", lambda *_: pytest.fail("evaluated"))
    told = run("diff", STARTER, STARTER, "--inventory", INVENTORY, "--cache", cache)
    assert told.stdout == "no request gains or loses access\n"


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "bent", "another program's"])
def test_a_damaged_file_is_replaced(cache: Path, damage: str) -> None:
    (file,) = cache.iterdir()
    content = file.read_bytes()
    match damage:
        case "text":
            file.write_text("{" * 5000)
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "bent":
            file.write_bytes(bytes(256).join(content[place : place + 700] for place in range(0, 90_000, 956)))
        case _:
            file.unlink()
            with contextlib.closing(sqlite3.connect(file)) as other:
                other.execute("CREATE TABLE kept (x)")
            file.chmod(0o600)
    first = run(*COMPILE, "--no-cache")
    for _ in range(2):
        again = run(*COMPILE, "--cache", cache)
        assert (again.stdout, again.exit_code) == (first.stdout, 0)
    (file,) = cache.iterdir()
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM kept").fetchone()[0] > 10


@pytest.mark.parametrize("target", ["folder", "file"])
@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710])
def test_what_others_may_look_into_is_not_used(cache: Path, target: str, mode: int) -> None:
    (file,) = cache.iterdir()
    content = file.read_bytes()
    (cache if target == "folder" else file).chmod(mode)
    result = run(*COMPILE, "--cache", cache)
    assert result.exit_code == 0
    assert "nothing is kept: others may look into" in result.stderr
    assert file.read_bytes() == content


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_not_used(cache: Path, tmp_path: Path, kind: str) -> None:
    (file,) = cache.iterdir()
    elsewhere = file.rename(tmp_path / "elsewhere")
    match kind:
        case "link":
            file.symlink_to(elsewhere)
        case "folder":
            file.mkdir(mode=0o700)
        case _:
            os.mkfifo(file, 0o600)
    result = run(*COMPILE, "--cache", cache)
    assert result.exit_code == 0
    assert "is of another kind" in result.stderr


def test_a_file_that_another_holds_is_waited_for_and_given_up(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.cli.policy_cache._BUSY_SECONDS", 0.05)
    (file,) = cache.iterdir()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        result = run(*COMPILE, "--cache", cache)
    assert result.exit_code == 0
    assert "nothing is kept: opening" in result.stderr
    assert run(*COMPILE, "--cache", cache).stderr == ""


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    result = run(*COMPILE)
    assert result.exit_code == 0
    assert "there is no home folder" in result.stderr and "--cache" in result.stderr


def test_commands_at_the_same_time_share_the_file(cache: Path) -> None:
    start = [sys.executable, "-m", "control_plane", "policy", *map(str, COMPILE), "--cache", str(cache)]
    commands = [
        subprocess.Popen(
            [*start, "--target", target, "--output", "json"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT,
        )
        for target in ("istio-ztunnel", "istio-waypoint", "network-policy")
    ]  # fmt: skip
    assert [(one.communicate(timeout=60)[1], one.returncode) for one in commands] == [(b"", 0)] * 3
    with contextlib.closing(sqlite3.connect(cache / "kept.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_was_used_longest_ago_is_forgotten(
    cache: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = cache.iterdir()
    monkeypatch.setattr("control_plane.cli.policy_cache.MAX_BYTES", file.stat().st_size)
    for number in range(6):
        edited(project, "/v1/charges/" if number == 0 else f"/{number}/charges/", f"/{number + 1}/charges/")
        assert run("compile", project, "--inventory", INVENTORY, "--cache", cache).exit_code == 0
    with contextlib.closing(sqlite3.connect(file)) as database:
        (oldest,) = database.execute("SELECT min(used) FROM kept").fetchone()
    assert oldest > 1


def test_without_a_cache_nothing_is_kept(tmp_path: Path) -> None:
    assert run("compile", STARTER, "--inventory", INVENTORY, "--no-cache").exit_code == 0
    assert run("diff", STARTER, STARTER, "--inventory", INVENTORY, "--no-cache").exit_code == 0
    assert not (tmp_path / "xdg").exists()


def test_compile_tells_what_authz_allows_and_segmentation_blocks() -> None:
    told = run("compile", STARTER, "--inventory", INVENTORY).stdout
    assert "authz allows what segmentation blocks:" in told
    assert (
        "authz allows at authz/authz.rego:22, segmentation denies at segmentation/segmentation.rego:34"
        in told
    )
    blocked = answer("compile", STARTER, "--inventory", INVENTORY)["blocked"]
    assert isinstance(blocked, list)
    assert {one["workload"] for one in blocked} == {"shop/frontend"}
    assert all(one["entirely"] and one["request"] for one in blocked)


def test_a_folder_without_rego_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("{}")
    for command in ("check", "test"):
        result = run(command, tmp_path)
        assert result.exit_code == 1
        assert "holds no .rego file" in result.stderr


def test_fmt_of_nothing_and_cases_that_are_none_are_told(tmp_path: Path) -> None:
    assert run("fmt", tmp_path / "absent").exit_code == 3
    (tmp_path / "cases").write_text('{"query": "x = 1", "modules": []}\n# no case\n')
    result = run("conformance", tmp_path / "cases")
    assert result.exit_code == 1
    assert "line 2 is not JSON" in result.stderr


def test_a_workload_s_name_stands_for_its_identity(project: Path) -> None:
    named = answer("reachable-from", project, "shop/frontend", "--inventory", INVENTORY)
    identity = "spiffe://gatehouse.test/ns/shop/sa/frontend"
    assert named["access"]
    assert answer("reachable-from", project, identity, "--inventory", INVENTORY) == named


def test_what_cannot_be_written_is_told_with_its_path(project: Path, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.touch()
    for arguments in (
        ("render", project, "--inventory", INVENTORY, "--out", taken),
        ("render", project, "--inventory", INVENTORY, "--out", taken / "below"),
        ("init", taken),
        ("init", taken / "below"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert f"writing {taken}" in result.stderr
