# Completion of esource(1) for bash. Made by docs/generate.py
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
    local command=${COMP_WORDS[1]} folder=${ESOURCE_DIR:-events} options last at=0 arguments=0
    local -A takes
    COMPREPLY=()
    # bash has --dir=x as three words.
    if [[ $word = "=" ]]; then
        word=
    elif [[ $before = "=" ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD == 1)) && [[ $word != -[!-]* ]]; then
        _esource_take "follow pipe check repair rotate trim join rm erase import export config systemd serve version --help" "$word"
        return
    fi
    # An option that takes something, and what that is; then the arguments in order.
    case $command in
    serve | -*)
        options="--bind --config --check-config --access-logfile --error-logfile --log-level --certfile --keyfile --help"
        takes=([--bind]="NOTHING" [--config]="FILE" [--access-logfile]="FILE" [--error-logfile]="FILE" [--log-level]="debug info warning error critical" [--certfile]="FILE" [--keyfile]="FILE")
        ;;
    follow)
        options="-h --help --cursor --exec --to --format --new --until --limit --once --tries --dead -H --header --header-file -n --netrc --cacert --unix-socket"
        takes=([--cursor]="FILE" [--exec]="COMMAND" [--to]="NOTHING" [--format]="ndjson tsv raw" [--until]="NOTHING" [--limit]="NOTHING" [--tries]="NOTHING" [--dead]="NOTHING" [-H]="NOTHING" [--header]="NOTHING" [--header-file]="FILE" [--cacert]="FILE" [--unix-socket]="FILE" [0]="NOTHING")
        ;;
    pipe)
        options="-h --help -H --header --header-file -n --netrc --cacert --unix-socket"
        takes=([-H]="NOTHING" [--header]="NOTHING" [--header-file]="FILE" [--cacert]="FILE" [--unix-socket]="FILE" [0]="NOTHING" [1]="NOTHING" [2]="COMMAND")
        ;;
    check)
        options="-h --help --json --against -H"
        takes=([--against]="NOTHING" [-H]="NOTHING" [0]="DIR")
        ;;
    repair)
        options="-h --help"
        takes=([0]="DIR")
        ;;
    rotate)
        options="-h --help --dir"
        takes=([--dir]="DIR" [0]="CHANNEL")
        ;;
    trim)
        options="-h --help --dir --older-than --larger-than --dry-run"
        takes=([--dir]="DIR" [--older-than]="NOTHING" [--larger-than]="NOTHING" [0]="CHANNEL")
        ;;
    join)
        options="-h --help --dir"
        takes=([--dir]="DIR" [0]="CHANNEL")
        ;;
    rm)
        options="-h --help --dir"
        takes=([--dir]="DIR" [0]="CHANNEL")
        ;;
    erase)
        options="-h --help --dir --reason --at --all"
        takes=([--dir]="DIR" [--reason]="NOTHING" [--at]="NOTHING" [0]="CHANNEL" [1]="NOTHING")
        ;;
    import)
        options="-h --help --dir"
        takes=([--dir]="DIR" [0]="CHANNEL" [more]="CHANNEL")
        ;;
    export)
        options="-h --help --dir"
        takes=([--dir]="DIR" [0]="CHANNEL" [more]="CHANNEL")
        ;;
    config)
        options="-h --help --json --env-file --pid"
        takes=([--env-file]="FILE" [--pid]="NOTHING")
        ;;
    systemd)
        options="-h --help"
        takes=([0]="engine.conf esource-follow@.service esource-trim@.service esource-trim@.timer esource.env esource.service esource.socket esource@.service esource@.socket")
        ;;
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
