"""The words of a command line as people type them, brought to one form: `run -i DATA`, `segment --out MASK`."""

from collections.abc import Sequence

from .command import Command

OUT, IN = ("--out", "--output"), ("-i", "--input", "--data")


def typed(words: Sequence[str], command: Command) -> list[str]:
    """Return the words with one name for each argument: -o for the output, -i or a bare path for the input.

    Args:
        words: the name of the command and what follows.
        command: the command of that name.
    """
    names = [name for row, _ in command.arguments() for name in row]
    result, coming = [words[0]], list(words[1:])
    while coming:
        word = coming.pop(0)
        option, attached, value = word.partition("=")
        if "-o" in names and option in OUT and option not in names:
            result += ["-o", value] if attached else ["-o"]
        elif option in IN and option not in names and {"data_path", "--data-path"} & {*names}:
            # Settings own the name "data"; with a path behind it, it is the path.
            after = value if attached else coming[0] if coming else ""
            if option == "--data" and (not after or after.startswith("{")):
                result.append(word)
                continue
            missing = not attached and not coming
            coming = coming if attached else coming[1:]
            if "--data-path" in names or missing:
                result += ["--data-path", after] if "--data-path" in names else [word]
            else:
                result.insert(1, after)  # before all options: a list of values takes every word behind it
        else:
            result.append(word)
    return result
