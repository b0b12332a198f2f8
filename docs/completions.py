"""What completes `esource` in bash and zsh, made of the parsers.

What an argument is, its metavar says: a FILE is one, a CHANNEL is one of the folder's. Other
arguments are the user's own, and are not guessed.
"""

import argparse
from collections.abc import Iterator

from esource import __main__ as main
from esource.command.command import Command
from esource.command.settings import deploy

# gunicorn's own that are of use here; it has a hundred.
SERVE = {
    "--bind": "NOTHING", "--config": "FILE", "--check-config": "", "--access-logfile": "FILE",
    "--error-logfile": "FILE", "--log-level": "debug info warning error critical",
    "--certfile": "FILE", "--keyfile": "FILE", "--help": "",
}  # fmt: skip
ABOUT = {"serve": "start the hub", "version": "print the version", "--help": "say what there is"}
# A channel is a file, or several, of the folder that --dir names, or else the settings.
FOLDER = "${ESOURCE_DIR:-events}"


def actions(command: Command) -> list[argparse.Action]:
    """Return all arguments of a command."""
    return command.parser()._actions  # noqa: SLF001 -- argparse has no public name for them


def kind(action: argparse.Action) -> str:
    """Return what an argument takes: `FILE`, `DIR`, `CHANNEL`, `COMMAND`, `NOTHING`, words."""
    if action.nargs == 0:
        return ""
    if action.choices:
        return " ".join(map(str, action.choices))
    if action.dest == "unit":
        return " ".join(sorted(path.name for path in (deploy() / "systemd").iterdir()))
    found = {"PATH": "FILE", "CMD": "COMMAND"}.get(str(action.metavar), str(action.metavar))
    # A channel that a client names is at a hub.
    is_known = found in ("FILE", "DIR", "COMMAND") or (found == "CHANNEL" and not options(action))
    return found if is_known else "NOTHING"


def options(action: argparse.Action) -> list[str]:
    """Return how an option is written; for another argument, nothing."""
    return list(action.option_strings)


def summaries() -> dict[str, str]:
    """Return what can be the first word, and what it means."""
    return {**{command.name: command.summary for command in main.COMMANDS.values()}, **ABOUT}


# -- bash --------------------------------------------------------------------------------------

BASH = r"""# Completion of esource(1) for bash. Made by docs/generate.py
# shellcheck shell=bash disable=SC2207

_esource_channels() {
    local file name
    for file in "$1"/*.tsv; do
        name=${file##*/}
        name=${name%.tsv}
        name=${name%%.*}
        [[ $name =~ ^[A-Za-z0-9_-]{4,64}$ ]] && printf '%s\n' "$name"
    done | sort -u
}

# _esource_take KIND WORD FOLDER: what an argument may be.
_esource_take() {
    case $1 in
    NOTHING) ;;
    FILE | DIR)
        compopt -o filenames 2>/dev/null
        local flag=-f
        [[ $1 = DIR ]] && flag=-d
        mapfile -t COMPREPLY < <(compgen $flag -- "$2")
        ;;
    COMMAND) mapfile -t COMPREPLY < <(compgen -c -- "$2") ;;
    CHANNEL) mapfile -t COMPREPLY < <(compgen -W "$(_esource_channels "${3-}")" -- "$2") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2") ;;
    esac
}

_esource() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local command=${COMP_WORDS[1]} folder=@FOLDER@ options last at=0 arguments=0
    local -A takes
    COMPREPLY=()
    # bash has --dir=x as three words.
    if [[ $word = "=" ]]; then
        word=
    elif [[ $before = "=" ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD == 1)) && [[ $word != -[!-]* ]]; then
        _esource_take "@FIRST@" "$word"
        return
    fi
    # An option that takes something, and what that is; then the arguments in order.
    case $command in
@CASES@
    *) return ;;
    esac
    # What stands before: which argument is this one, and which folder is meant?
    for ((at = 2; at < COMP_CWORD; at++)); do
        last=${COMP_WORDS[at]}
        if [[ $last = -- ]]; then
            _esource_take COMMAND "$word"
            return
        elif [[ -n ${takes[$last]-} ]]; then
            [[ ${COMP_WORDS[at + 1]} = "=" ]] && ((at++))
            ((at++))
            [[ $last = --dir ]] && ((at < COMP_CWORD)) && folder=${COMP_WORDS[at]/#\~/$HOME}
        elif [[ $last != -* ]]; then
            ((arguments++))
        fi
    done
    if [[ -n ${takes[$before]-} ]]; then
        _esource_take "${takes[$before]}" "$word"
    elif [[ $word = -* ]]; then
        _esource_take "$options" "$word"
    else
        _esource_take "${takes[$arguments]:-${takes[more]:-NOTHING}}" "$word" "$folder"
    fi
}
complete -F _esource esource
"""


def bash() -> str:
    """Return the file for bash."""
    cases = list(_bash_case("serve | -*", SERVE, {}))
    for command in main.COMMANDS.values():
        named = {name: kind(action) for action in actions(command) for name in options(action)}
        cases += _bash_case(command.name, named, dict(_places(command)))
    text = BASH.replace("@FIRST@", " ".join(summaries())).replace("@FOLDER@", FOLDER)
    return text.replace("@CASES@", "\n".join(cases))


def _bash_case(pattern: str, named: dict[str, str], places: dict[str, str]) -> Iterator[str]:
    taking = {**{option: value for option, value in named.items() if value}, **places}
    pairs = " ".join(f'[{key}]="{value}"' for key, value in taking.items())
    yield f"    {pattern})"
    yield f'        options="{" ".join(named)}"'
    yield f"        takes=({pairs})"
    yield "        ;;"


def _places(command: Command) -> Iterator[tuple[str, str]]:
    """Yield what the first argument is, the second, and all after these."""
    rest = [action for action in actions(command) if not options(action)]
    for at, action in enumerate(rest):
        yield str(at), kind(action)
        if action.nargs in ("*", "+") and kind(action) != "COMMAND":
            yield "more", kind(action)


# -- zsh ---------------------------------------------------------------------------------------

ZSH = r"""#compdef esource
# Completion of esource(1) for zsh. Made by docs/generate.py

_esource_channels() {
    local folder=${(Q)${opt_args[--dir]:-@FOLDER@}}
    local -aU names
    names=(${~folder}/*.tsv(N:t:r))
    names=(${names%%.*})
    compadd -- ${(M)names:#[A-Za-z0-9_-](#c4,64)}
}

_esource() {
    # Not `commands`, nor `command`: zsh has these itself, and asks them.
    local curcontext=$curcontext name
    typeset -A opt_args
    local -a first
    first=(
@COMMANDS@
    )
    if (( CURRENT == 2 )) && [[ $words[2] != -[^-]* ]]; then
        _describe command first
        return
    fi
    name=$words[2]
    if [[ $name != -* ]]; then
        shift words
        (( CURRENT-- ))
    fi
    case $name in
@CASES@
    esac
}

_esource "$@"
"""
TAKES = {
    "FILE": "_files", "DIR": "_files -/", "CHANNEL": "_esource_channels",
    "COMMAND": "_command_names -e", "NOTHING": "()",
}  # fmt: skip


def zsh() -> str:
    """Return the file for zsh."""
    first = [f"        {_quoted(f'{_escaped(name)}:{text}')}" for name, text in summaries().items()]
    cases = list(
        _zsh_case("serve | -*", [_spec([name], "", value) for name, value in SERVE.items()])
    )
    for command in main.COMMANDS.values():
        cases += _zsh_case(command.name, [_zsh(action) for action in actions(command)])
    text = ZSH.replace("@FOLDER@", FOLDER).replace("@COMMANDS@", "\n".join(first))
    return text.replace("@CASES@", "\n".join(cases))


def _zsh_case(name: str, specs: list[str]) -> Iterator[str]:
    yield f"    {name})"
    yield "        _arguments -S \\"
    yield from (f"            {spec} \\" for spec in specs[:-1])
    yield f"            {specs[-1]}"
    yield "        ;;"


def _zsh(action: argparse.Action) -> str:
    """Return what `_arguments` takes for an argument."""
    if options(action):
        name = str(action.metavar or action.dest)
        is_repeatable = isinstance(action, argparse._AppendAction)  # noqa: SLF001 -- as above
        return _spec(options(action), action.help or "", kind(action), name, is_repeatable)
    many = "*" if action.nargs in ("*", "+") else ""
    optional = ":" if action.nargs == "?" else ""
    return _quoted(f"{many}:{optional}{_escaped(str(action.metavar))}:{_action(kind(action))}")


def _spec(
    names: list[str], text: str, takes: str, metavar: str = "value", is_repeatable: bool = False
) -> str:
    about = f"[{_escaped(text)}]" if text else ""
    value = f":{_escaped(metavar)}:{_action(takes)}" if takes else ""
    before = "*" if is_repeatable else f"({' '.join(names)})"
    equals = {name: "=" if takes and name.startswith("--") else "" for name in names}
    return " ".join(_quoted(f"{before}{name}{equals[name]}{about}{value}") for name in names)


def _action(takes: str) -> str:
    return TAKES.get(takes, f"({takes})")


def _escaped(text: str) -> str:
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
