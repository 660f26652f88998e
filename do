#!/bin/sh
# What README.md and CONTRIBUTING.md call. Needs git and Python 3.11 or newer with pip; brings uv along.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)

usage() {
    cat <<'END'
./do try [FOLDER]         render a bot into FOLDER (default: ./mybot) and chat with it in the terminal
./do test [PYTEST-ARGS]   run every test of the template and of the bots it renders
./do prove FOLDER [ARGS]  prove that the bot in FOLDER, edited or not, keeps every promise (--help says more)
./do torture FOLDER       put the agent of the bot in FOLDER under fire (--help says more)
./do compare              put bots of other libraries under the same fire as ours (--help says more)
./do help                 this text
END
}

fail() {
    printf 'do: %s\n' "$*" >&2
    exit 1
}

# Print the first Python on PATH that is new enough.
find_python() {
    for python in python3 python python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$python"
            return
        fi
    done
    fail 'Python 3.11 or newer is needed, and no python3 on PATH is one'
}

# Put uv on PATH: the one that is there, else one of our own in .tools/. `pip install --target` works also where
# the distribution forbids installing outside an environment (PEP 668), and touches nothing but that folder.
provide_uv() {
    command -v git >/dev/null 2>&1 || fail 'git is needed, and not on PATH'
    if uv --version >/dev/null 2>&1; then # a pyenv shim can be there and not work
        return
    fi
    PATH="$here/.tools/uv/bin:$PATH"
    export PATH
    if uv --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    "$python" -m pip --version >/dev/null 2>&1 ||
        fail "pip is needed to fetch uv, and $python has none (Debian, Ubuntu: apt install python3-pip)"
    printf 'Fetching uv into .tools/ (once)\n' >&2
    rm -rf "$here/.tools/uv"
    PIP_REQUIRE_VIRTUALENV=0 "$python" -m pip install --quiet --disable-pip-version-check --no-user \
        --root-user-action=ignore --target "$here/.tools/uv" uv >&2 ||
        fail 'pip could not install uv (its own words are above)'
    uv --version >/dev/null 2>&1 || fail 'uv was installed into .tools/ but does not run on this machine'
}

try() {
    case ${1-} in
    -h | --help)
        usage
        return
        ;;
    -*) fail "try has no option $1 (a folder of that name is ./$1)" ;;
    esac
    [ $# -le 1 ] || fail 'try takes one folder'
    folder=${1:-mybot}
    case $folder in
    /*) ;;
    *) folder=$PWD/$folder ;;
    esac
    if [ -f "$folder/.copier-answers.yml" ]; then
        printf '%s is there already: starting it as it is. (Delete it to render it anew.)\n' "$folder" >&2
    elif [ -e "$folder" ]; then
        fail "$folder is in the way: name another folder, or delete it"
    else
        # HEAD, not the newest tag: what is tried is this clone. Its absolute path is what `copier update` needs.
        # A shallow clone is as good as any here, so Copier's warning about it is not shown.
        set -- copy --quiet --vcs-ref HEAD
        [ -t 0 ] || set -- "$@" --defaults
        PYTHONWARNINGS='ignore:The repository' \
            uv run --quiet --no-dev --no-group bots --no-group suite --project "$here" copier "$@" "$here" "$folder"
        printf 'Rendered into %s: your code goes into bot/agent.py\n' "$folder" >&2
    fi
    cd -- "$folder"
    printf 'Starting it there with: uv run bot chat\n' >&2
    exec uv run bot chat
}

command=${1:-help}
[ $# -eq 0 ] || shift
unset VIRTUAL_ENV # uv would warn that it is not the environment of this project
case $command in
try)
    case ${1-} in
    -*) ;;
    *) provide_uv ;;
    esac
    try "$@"
    ;;
test)
    provide_uv
    cd -- "$here"
    unset PYTHONDONTWRITEBYTECODE # with it, each of some thousand processes would compile what it imports
    exec uv run --quiet pytest "$@"
    ;;
prove | torture)
    provide_uv
    # From wherever it was called: FOLDER is relative to there.
    PYTHONPATH=$here
    export PYTHONPATH
    exec uv run --quiet --project "$here" python -P -m suite "$command" "$@"
    ;;
compare)
    provide_uv
    cd -- "$here"
    unset PYTHONDONTWRITEBYTECODE
    exec uv run --quiet python benchmarks/compare "$@"
    ;;
help | -h | --help)
    usage
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
