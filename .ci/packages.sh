# Sourced by ./run and ./test: system packages that are missing. Everything it says goes to
# standard error.

# need_commands "COMMAND…" "PACKAGE…": installs the Debian packages when one of the commands is
# missing. Returns 1, with what to install by hand, when they cannot be had.
need_commands() {
    missing=
    for command in $1; do
        command -v "$command" >/dev/null 2>&1 || missing="$missing $command"
    done
    [ -z "$missing" ] && return 0
    echo "missing:$missing" >&2
    install_packages "$2" || return 1
    for command in $missing; do
        command -v "$command" >/dev/null 2>&1 && continue
        echo "$command is still missing after installing: $2" >&2
        return 1
    done
}

install_packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "there is no apt here; please install what Debian calls: $1" >&2
        return 1
    fi
    as_root=
    if [ "$(id -u)" != 0 ]; then
        # A person at a terminal may be asked for a password; a script may not.
        if [ -t 0 ] && [ -z "${CI:-}" ]; then as_root=sudo; else as_root='sudo -n'; fi
        if ! $as_root true >&2 2>/dev/null; then
            echo "no right to install packages; please run as root: apt-get install $1" >&2
            return 1
        fi
    fi
    echo "installing with apt: $1" >&2
    # The package lists are fetched only when the ones at hand do not do.
    if ! apt_install "$1" >/dev/null 2>&1; then
        $as_root apt-get update -q </dev/null >&2 && apt_install "$1" >&2 || {
            echo "apt could not install them; please run as root: apt-get install $1" >&2
            return 1
        }
    fi
}

apt_install() {
    # shellcheck disable=SC2086  # both are lists of words
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $1 </dev/null
}

# need_cargo: finds cargo where rustup puts it, even if the shell's path does not name it.
need_cargo() {
    command -v cargo >/dev/null 2>&1 && return 0
    if [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        export PATH
        return 0
    fi
    echo "there is no cargo; please install Rust: https://rustup.rs" >&2
    return 1
}

# target_directory ROOT: where cargo builds, absolute, so that a change of folder keeps it.
target_directory() {
    case "${CARGO_TARGET_DIR:-}" in
        '') echo "$1/target" ;;
        /*) echo "$CARGO_TARGET_DIR" ;;
        *) echo "$PWD/$CARGO_TARGET_DIR" ;;
    esac
}
