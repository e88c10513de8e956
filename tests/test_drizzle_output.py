"""What drizzle-kit wrote, in the recordings of tests/data/drizzle, and what is made of it.

A recording is the command line, its exit code and whether the database's catalog changed, then every byte
that it wrote, without a terminal or (`-terminal-`) on one. Only folders were renamed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from backup.migration.drizzle import Judgement, Outcome, is_drizzle, judge_drizzle

RECORDINGS = Path(__file__).parent / "data" / "drizzle"


@dataclass(frozen=True, kw_only=True)
class Recording:
    argv: tuple[str, ...]
    returncode: int
    catalog_changed: bool
    output: str

    @classmethod
    def read(cls, name: str) -> Self:
        head, _, output = (RECORDINGS / f"{name}.txt").read_bytes().decode().partition("\n\n")
        argv, code, catalog = head.split("\n")
        return cls(
            argv=tuple(argv.removeprefix("$ ").split(" ")),
            returncode=int(code.removeprefix("exit ")),
            catalog_changed={"catalog changed": True, "catalog unchanged": False}[catalog],
            output=output,
        )

    def judge(self) -> Judgement:
        return judge_drizzle(self.argv, self.output, self.returncode, catalog_changed=self.catalog_changed)


EXPECTED = {
    Outcome.APPLIED: {
        "stable/generate-terminal-rename-answered": "Your SQL migration file ➜ drizzle/0001_previous_selene.sql",
        "stable/generate-written": "Your SQL migration file ➜ drizzle/0000_good_blade.sql",
        "stable/migrate-applied": "migrations applied successfully!",
        "stable/migrate-terminal-applied": "migrations applied successfully!",
        "stable/push-applied": "[✓] Changes applied",
        "stable/push-empty-table": "[✓] Changes applied",
        "stable/push-no-terminal-force": "[✓] Changes applied",
        "stable/push-terminal-escape": "Esc means yes there",
        "stable/push-terminal-force": "[✓] Changes applied",
        "stable/push-terminal-yes": "said “[✓] Changes applied”.",
        "rc/generate-terminal-rename-answered": "Your SQL migration ➜ drizzle/",
        "rc/generate-written": "Your SQL migration ➜ drizzle/",
        "rc/migrate-applied": "migrations applied successfully!",
        "rc/migrate-no-folder": "migrations applied successfully!",
        "rc/migrate-terminal-applied": "migrations applied successfully!",
        "rc/push-applied": "[✓] Changes applied",
        "rc/push-empty-table": "[✓] Changes applied",
        "rc/push-json-applied": '"status":"ok"',
        "rc/push-no-terminal-unique-question": "[✓] Changes applied",
        "rc/push-terminal-escape": "Esc means yes there",
        "rc/push-terminal-force": "[✓] Changes applied",
        "rc/push-terminal-yes": "said “[✓] Changes applied”.",
    },
    Outcome.NOTHING_TO_DO: {
        "stable/generate-no-changes": "No schema changes, nothing to migrate",
        "stable/migrate-nothing-pending": "no file was left to run",
        "stable/push-no-changes": "[i] No changes detected",
        "stable/push-terminal-no-changes": "[i] No changes detected",
        "rc/generate-no-changes": "No schema changes, nothing to migrate",
        "rc/migrate-nothing-pending": "no file was left to run",
        "rc/push-json-no-changes": '"status":"no_changes"',
        "rc/push-no-changes": "[i] No changes detected",
        "rc/push-terminal-no-changes": "[i] No changes detected",
    },
    Outcome.ABORTED: {
        "stable/generate-terminal-rename-interrupted": "interrupted",
        "stable/push-terminal-interrupted": "interrupted",
        "stable/push-terminal-no": "answered with “No, abort”",
        "stable/push-terminal-rename-interrupted": "interrupted",
        "rc/generate-terminal-rename-interrupted": "interrupted",
        "rc/push-terminal-interrupted": "interrupted",
        "rc/push-terminal-no": "answered with “No, abort”",
        "rc/push-terminal-rename-interrupted": "interrupted",
    },
    Outcome.NOT_APPLIED: {
        "stable/generate-no-terminal-rename-question": "Interactive prompts require a TTY terminal",
        "stable/push-no-terminal-data-loss": "Interactive prompts require a TTY terminal",
        "stable/push-no-terminal-rename-question": "Interactive prompts require a TTY terminal",
        "stable/push-no-terminal-truncate-question": "Interactive prompts require a TTY terminal",
        "stable/push-no-terminal-unique-question": "Interactive prompts require a TTY terminal",
        "rc/generate-no-terminal-rename-question": "missing_hints: 1 unresolved decisions",
        "rc/push-explain": "missing_hints: 3 unresolved decisions",
        "rc/push-json-missing-hints": '"status":"missing_hints"',
        "rc/push-no-terminal-data-loss": "missing_hints: 3 unresolved decisions",
        "rc/push-no-terminal-force": "missing_hints: 3 unresolved decisions",
        "rc/push-no-terminal-rename-question": "missing_hints: 1 unresolved decisions",
    },
    Outcome.PARTLY: {
        "stable/push-force-half-way": 'error: column "action" cannot be cast automatically to type integer',
        "rc/push-force-half-way": 'query error: invalid input syntax for type integer: "users.read"',
    },
    Outcome.FAILED: {
        "stable/generate-schema-error": "Cannot find module './nowhere'",
        "stable/migrate-failing": "exit code 1 and named no error",
        "stable/migrate-no-folder": "exit code 1 and named no error",
        "stable/migrate-terminal-failing": "exit code 1 and named no error",
        "stable/migrate-unreachable": "exit code 1 and named no error",
        "stable/push-config-error": "Expected identifier but found end of file",
        "stable/push-no-url": 'Either connection "url" or "host", "database" are required',
        "stable/push-not-owner": "error: must be owner of table _cdc_permissions",
        "stable/push-nothing-applied-but-error": 'error: column "action" cannot be cast automatically',
        "stable/push-unreachable": "exit code 1 and named no error",
        "rc/generate-schema-error": "Cannot find module './nowhere'",
        "rc/migrate-failing": 'error: table "nowhere" does not exist',
        "rc/migrate-terminal-failing": 'error: table "nowhere" does not exist',
        "rc/migrate-unreachable": "Error: connect ECONNREFUSED",
        "rc/push-config-error": "ParseError: Unexpected token",
        "rc/push-json-error": '"code":"query_error"',
        "rc/push-no-terminal-truncate-question": 'query error: column "nick" of relation "users" contains null',
        "rc/push-no-url": 'Either connection "url" or "host", "database" are required',
        "rc/push-not-owner": "query error: must be owner of table _cdc_permissions",
        "rc/push-nothing-applied-but-error": "query error: invalid input syntax",
        "rc/push-unreachable": "Error: connect ECONNREFUSED",
    },
}


@pytest.mark.parametrize(
    ("name", "outcome", "quoted"),
    [(name, outcome, quoted) for outcome, names in EXPECTED.items() for name, quoted in names.items()],
)
def test_every_recorded_run_is_told_apart_and_quoted(name: str, outcome: Outcome, quoted: str) -> None:
    judgement = Recording.read(name).judge()
    assert judgement.outcome is outcome
    assert quoted in judgement.sentence
    assert "\x1b" not in judgement.sentence
    assert "\n" not in judgement.sentence


def test_no_recording_is_left_unjudged() -> None:
    recorded = {f"{path.parent.name}/{path.stem}" for path in RECORDINGS.glob("*/*.txt")}
    assert recorded == {name for names in EXPECTED.values() for name in names}


@pytest.mark.parametrize("version", ["stable", "rc"])
def test_exit_code_0_alone_is_not_believed(version: str) -> None:
    refused = Recording.read(f"{version}/push-terminal-no")
    assert refused.returncode == 0
    assert refused.judge().outcome is Outcome.ABORTED


def test_a_push_that_failed_half_way_with_exit_code_0_is_not_applied() -> None:
    half = Recording.read("stable/push-force-half-way")
    assert half.returncode == 0
    assert half.judge().outcome is Outcome.PARTLY


def test_output_that_is_not_known_is_judged_by_the_catalog_and_called_unknown() -> None:
    argv = ("npx", "drizzle-kit", "push")
    nothing = judge_drizzle(argv, "done?\n", 0, catalog_changed=False)
    something = judge_drizzle(argv, "done?\n", 0, catalog_changed=True)
    assert (nothing.outcome, something.outcome) == (Outcome.NOT_APPLIED, Outcome.APPLIED)
    assert "nothing that is known" in nothing.sentence
    assert "nothing that is known" in something.sentence


def test_a_question_left_without_an_answer_is_not_applied() -> None:
    """Before 0.31.10 there was no check for a terminal: it waited, then ended with exit code 0."""
    asked = Recording.read("stable/push-no-terminal-data-loss")
    before_the_error = asked.output.partition("Error: Interactive")[0]
    judgement = judge_drizzle(asked.argv, before_the_error, 0, catalog_changed=False)
    assert judgement.outcome is Outcome.NOT_APPLIED


def test_success_that_ended_with_another_exit_code_is_not_believed() -> None:
    applied = Recording.read("stable/push-applied")
    judgement = judge_drizzle(applied.argv, applied.output, 137, catalog_changed=True)
    assert judgement.outcome is Outcome.PARTLY


@pytest.mark.parametrize(("changed", "outcome"), [(False, Outcome.ABORTED), (True, Outcome.PARTLY)])
def test_an_interrupted_push_is_aborted_only_when_nothing_changed(changed: bool, outcome: Outcome) -> None:
    assert judge_drizzle(("drizzle-kit", "push"), "", 130, catalog_changed=changed).outcome is outcome


def test_push_that_only_explains_has_nothing_to_do() -> None:
    argv = ("npx", "drizzle-kit", "push", "--explain")
    assert judge_drizzle(argv, "a plan\n", 0, catalog_changed=False).outcome is Outcome.NOTHING_TO_DO


@pytest.mark.parametrize(
    "line",
    [
        "drizzle-kit push",
        "npx drizzle-kit push",
        "npx --yes drizzle-kit@1.0.0-rc.5 push",
        "npx --package=x drizzle-kit push:pg",
        "pnpm exec drizzle-kit push",
        "pnpm dlx drizzle-kit@latest push",
        "yarn drizzle-kit push",
        "bunx drizzle-kit push",
        "./node_modules/.bin/drizzle-kit push",
        "node node_modules/drizzle-kit/bin.cjs push --config drizzle.config.ts",
    ],
)
def test_drizzle_kit_is_known_however_it_is_started(line: str) -> None:
    argv = tuple(line.split())
    assert is_drizzle(argv)
    assert "drizzle-kit push" in judge_drizzle(argv, "", 1, catalog_changed=False).sentence


@pytest.mark.parametrize(
    "line", ["alembic upgrade head", "psql -f drizzle-kit.sql", "npm run migrate", "npx prisma migrate deploy"]
)
def test_other_commands_are_not_taken_for_drizzle_kit(line: str) -> None:
    assert not is_drizzle(tuple(line.split()))
