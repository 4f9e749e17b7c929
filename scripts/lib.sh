# What the scripts share: where things are, how they speak, how they find out what is missing.
# Sourced by every script; it runs nothing by itself and changes nothing on the machine.
# shellcheck shell=bash

set -euo pipefail

# Administrators' programs are not in everybody's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# The repository, wherever the script was called from.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target_dir="${CARGO_TARGET_DIR:-$root/target}"
started_at="$SECONDS"

if [[ -t 2 && -z "${NO_COLOR:-}" ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' yellow=$'\e[33m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' dim='' red='' yellow='' green='' plain=''
fi

# Everything a script says about itself goes to stderr, so that its results can be piped.
step() { printf '%s==> %s%s %s[%s]%s\n' "$bold" "$*" "$plain" "$dim" "$(elapsed)" "$plain" >&2; }
info() { printf '    %s\n' "$*" >&2; }
good() { printf '    %s%s%s\n' "$green" "$*" "$plain" >&2; }
warn() { printf '    %swarning:%s %s\n' "$yellow" "$plain" "$*" >&2; }
die() { printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2; exit 1; }

# Seconds since the script started, for people.
elapsed() { printf '%d:%02d' $(((SECONDS - started_at) / 60)) $(((SECONDS - started_at) % 60)); }

# Prints the comment at the top of the calling script, which is its help.
usage() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

is_root() { [[ "$(id -u)" == 0 ]]; }

have() { command -v "$1" >/dev/null 2>&1; }

# The target triple that this machine compiles for.
host_triple() { rustc -vV | sed -n 's/^host: //p'; }

# Copies $1 to $2 by a rename, and only if it differs: a program that runs keeps its file, and what
# watches the modification time is not woken for nothing.
install_file() {
  local from="$1" to="$2"
  if cmp -s "$from" "$to"; then return 0; fi
  local new="$to.new.$$"
  cp "$from" "$new"
  mv -f "$new" "$to"
}

# Debian's mirror as this machine's apt has it, so that proxies and mirrors are respected. Fails without one.
debian_mirror() {
  # apt is read to its end: a closed pipe would fail it.
  local mirrors
  mirrors="$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^Debian|Debian|//p')"
  [[ -n "$mirrors" ]] || return 1
  printf '%s\n' "${mirrors%%$'\n'*}"
}
