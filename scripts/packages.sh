# What the scripts need beyond a Rust toolchain. Sourced, not run.

# need COMMAND PACKAGE: remembers PACKAGE when COMMAND is not on this machine.
missing=()
need() {
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

# need_file FILE PACKAGE: the same for a file that is no command.
need_file() {
    [ -e "$1" ] || missing+=("$2")
}

# Installs what `need` found missing, or says exactly what to install.
install_missing() {
    if ! command -v cargo >/dev/null 2>&1; then
        echo "This needs Rust 1.95 or later: see https://rustup.rs" >&2
        exit 1
    fi
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "Please install these packages (Debian and Ubuntu names), then run this again:" >&2
        echo "    sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "Installing: ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
