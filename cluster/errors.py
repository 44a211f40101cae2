"""How verbs of ``cluster`` fail, and the exit codes that scripts may rely on."""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a shell learns from a verb; the same numbers for every verb of ``gammaray``."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    RESUMABLE = 3
    INTERRUPTED = 130


class ClusterError(Exception):
    """Something a user can put right; the message says what, and how."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class UsageError(ClusterError):
    """The command line asks for something that cannot work; nothing has been started."""

    exit_code: ClassVar[ExitCode] = ExitCode.WRONG_USAGE
