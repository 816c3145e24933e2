"""`lamp <command> ...`: the program, short for `python -m lamp_lightning.<command> ...`.

`eval "$(lamp --completion)"` lets bash, and zsh after `autoload bashcompinit && bashcompinit`, complete its
commands, settings and the names of config groups.
"""

from __future__ import annotations

import difflib
import runpy
import sys
from collections.abc import Iterator

from lamp_lightning.runtime.stopping import quiet_interrupts

COMMANDS = (
    "inspect", "train", "sample", "edit", "evaluate", "collect", "benchmark", "convert", "share", "app",
    "pretrain",
)  # fmt: skip
USAGE = f"""lamp <command> [<setting>=<value> ...], with one of these commands:
  {", ".join(COMMANDS)}
lamp <command> --help shows its settings. lamp --completion prints what lets a shell complete them."""
# Bash splits words at = and :, so that what is before the last of these in a word is no part of a reply.
# Folders of clips, or of runs, are motions. compgen expands what it gets: so plain names only.
_COMPLETION = """\
_lamp_motions() {
  local folder
  for folder in "$1"/*/; do
    folder="${folder%%/}"
    case "$folder" in *[!A-Za-z0-9_./-]*) ;; *) printf 'motion=%%s ' "${folder##*/}" ;; esac
  done
}
_lamp() {
  local line="${COMP_LINE:0:COMP_POINT}" words
  local word="${line##* }"
  case "$line" in
%s
    *) words="%s"; compopt +o nospace 2> /dev/null ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  local before="${word%%"${word##*[=:]}"}"
  COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -o nospace -o default -F _lamp lamp"""
_MOTIONS = {
    "inspect": " $(_lamp_motions data)",
    "train": " $(_lamp_motions data)",
    "sample": " $(_lamp_motions runs)",
    "share": " $(_lamp_motions runs)",
}


def main() -> None:
    """Run the command that the first argument names, as `python -m` would."""
    quiet_interrupts()
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"lamp_lightning.{command}", run_name="__main__", alter_sys=True)
    elif command in ("-h", "--help"):
        print(USAGE)
    elif command == "--completion":
        print(completion())
    else:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean lamp {near[0]}?" if near else ""
        sys.exit(f"Error: There is no command {command!r}.{hint} There are {', '.join(COMMANDS)}.")


def completion() -> str:
    """What a shell reads to complete the program's words."""
    cases = "\n".join(
        f'    "lamp {command} "*) words="{" ".join(_words(command))}{_MOTIONS.get(command, "")}" ;;'
        for command in COMMANDS[:-1]
    )
    return _COMPLETION % (cases, " ".join(COMMANDS))


def _words(command: str) -> Iterator[str]:
    """What may follow a command: settings up to their `=`, and groups with each of their configs."""
    from lamp_lightning.runtime.command_settings import COMMANDS as SCHEMAS
    from lamp_lightning.runtime.config import options
    from lamp_lightning.runtime.mistakes import groups_of
    from lamp_lightning.runtime.schema import fields_of

    yield from ("--help", "--multirun")
    for group in groups_of(command):
        yield from (f"{group}={name}" for name in options(group))
    yield from (f"{name}=" for name, _ in fields_of(SCHEMAS[command]) if not name.endswith("_target_"))
