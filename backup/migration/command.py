"""The command that migrates, whatever it is."""

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backup.errors import MigrationError, ProcessError, UsageError
from backup.migration.drizzle import is_drizzle
from backup.migration.package_script import words_of_script
from backup.process import Attended, attend

__all__ = ["Attended", "MigrationCommand", "without_passwords"]

_WORDS = r"pass|passwd|password|token|secret"
_PASSWORDS = (
    re.compile(r"(://[^:/@?#\s]*:)\S*(?=@)"),
    re.compile(rf"((?:{_WORDS})=)('[^']*'|[^\s&]+)", re.IGNORECASE),
)
"""In a URL; in its query, in a keyword string, in an assignment like `PGPASSWORD=…` or an option like `--token=…`."""

_NAMES_ONE = re.compile(rf"--?[\w-]*(?:{_WORDS})", re.IGNORECASE)
"""An option whose value is the next word."""

_SCRIPT = re.compile(r"-[A-Za-z0-9]*[cf]|--command|--file")
"""psql's options for one; where a person types statements, an error is his."""

_ERROR = re.compile(r"^(?:psql:.*?: )?(?:ERROR|FATAL):  .*", re.MULTILINE)
"""What psql says of a statement that failed."""

_SCRIPTS = 2


def without_passwords(text: str) -> str:
    """The text as it may be shown: `***` for each password in a connection string."""
    for pattern in _PASSWORDS:
        text = pattern.sub(r"\1***", text)
    return text


@dataclass(frozen=True, kw_only=True)
class MigrationCommand:
    """A command line and the folder that it runs in."""

    argv: tuple[str, ...]
    directory: Path

    def __str__(self) -> str:
        return shlex.join(self.shown)

    @property
    def shown(self) -> tuple[str, ...]:
        """The command line as it may be shown: without passwords and the like."""
        before = ("", *self.argv)
        return tuple(
            "***" if _NAMES_ONE.fullmatch(option) and not word.startswith("-") else without_passwords(word)
            for option, word in zip(before, self.argv, strict=False)
        )

    @property
    def psql(self) -> bool:
        """Whether it is psql with a script, which goes on after an error, and then ends well."""
        scripts = any(map(_SCRIPT.match, self.argv[1:])) or not os.isatty(0)
        return Path(self.argv[0]).name == "psql" and scripts

    @property
    def drizzle(self) -> tuple[str, ...]:
        """The command line that calls drizzle-kit: its own, or that of the script that it runs; empty where none does.

        Its output must be read, because its exit code says nothing. A script may run another one, and that no third.
        """
        words = self.argv
        for _ in range(_SCRIPTS):
            if is_drizzle(words):
                return words
            words = words_of_script(words, self.directory)
        return words if is_drizzle(words) else ()

    def why_failed(self, output: str, returncode: int) -> str:
        """Why it did not do its work, by its exit code, or nothing; that of drizzle-kit says nothing.

        psql ends with 0 also when statements failed and it went on.
        """
        if returncode:
            return f"{self} ended with exit code {returncode}."
        errors = _ERROR.findall(output) if self.psql else []
        more = f", and {len(errors) - 1:,} more" if len(errors) > 1 else ""
        return f"psql went on after {errors[0].strip()!r}{more} (-v ON_ERROR_STOP=1 ends it there)." if errors else ""

    def check(self) -> None:
        """Finds out whether it can be started, while nothing has been done yet.

        Raises:
            UsageError: its folder or its program is not there.
        """
        if not self.directory.is_dir():
            raise UsageError(
                f"The folder {self.directory}, where `{self}` is to run, does not exist.",
                untouched="Nothing was started and nothing was changed.",
                remedy="Correct `directory` in the configuration, or make the folder.",
            )
        program = self.argv[0]
        # a name with a slash is looked up from the folder, as the command itself will be
        found = shutil.which(str(self.directory / program)) if "/" in program else shutil.which(program)
        if found is None:
            raise UsageError(
                f"The program {program} of `{self}` was not found from the folder {self.directory}.",
                untouched="Nothing was started and nothing was changed.",
                remedy=f"Install {program}, add the folder that holds it to PATH, or name another command.",
            )

    def run(
        self,
        environment: Mapping[str, str],
        *,
        stdout_to_stderr: bool = False,
        time_limit: float | None = None,
    ) -> Attended:
        """Runs it with our streams, arguments and environment as they are, and waits for its end.

        Args:
            environment: what it gets, as it is.
            stdout_to_stderr: our stdout is for a machine; what it says there goes to our stderr.
            time_limit: seconds, where there is no terminal on stdin.

        Raises:
            MigrationError: it could not be started after all.
        """
        try:
            return attend(
                self.argv,
                environment=environment,
                cwd=self.directory,
                stdout_to_stderr=stdout_to_stderr,
                listen=bool(self.drizzle) or self.psql,
                time_limit=time_limit,
            )
        except ProcessError as error:
            raise MigrationError(
                f"`{self}` could not be started: {error.stderr}",
                untouched="The migration did nothing.",
                remedy="Correct the command, and run this again.",
            ) from error
