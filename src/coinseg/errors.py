"""The one exception a user is meant to read.

Everything a user can cause (a missing folder, a corrupt file, an unknown setting) is raised as `UserError`
with one line that says what was got, what is required and what to do. The command line prints that line and
exits with code 2; any other exception is a defect of coinseg.
"""

from __future__ import annotations


class UserError(Exception):
    """A problem with the input or the settings, worded for the person who can mend it.

    Args:
        got: what was found, with the path or value in it.
        required: what coinseg needs instead.
        do: the next step for the user.
    """

    def __init__(self, got: str, required: str, do: str) -> None:
        self.got, self.required, self.do = got, required, do
        super().__init__(f"{got}; required: {required}; {do}".replace("\n", " "))
