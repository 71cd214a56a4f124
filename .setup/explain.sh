#!/bin/sh
# Print one line that says why the set-up stopped and what to do, and exit with status 1.
#
#   sh .setup/explain.sh LOG TARGET [VENV]
#
# LOG holds what pip, venv or jupyter printed before it failed; TARGET is the make target to run again afterwards;
# VENV is the folder of the environment. What can't be written is looked at first: the log is then an old one.
# Any POSIX shell runs this script, because it is needed when Python or its packages are missing.

log=$1
target=${2:-setup}
venv=${3:-.venv}

# The first of these that is there and can't be written: the course's folder, the environment, the log.
read_only=$(for path in . "$venv" "$log"; do [ ! -e "$path" ] || [ -w "$path" ] || { echo "$path"; break; }; done)
case $read_only in
"") ;;
.) why="nothing can be written in the folder $(pwd). Copy the course into a folder of your own" ;;
*) why="$(pwd)/$read_only can't be written: another user made it. Delete it as that user (or with sudo)" ;;
esac
if [ "$read_only" ]; then
  echo "Set-up stopped: $why, then run 'make $target' again." >&2
  exit 1
fi

log_has() { grep -qs "$@" "$log"; }
disk_is_full() { df -Pk . | awk 'NR == 2 && $4 < 102400 { full = 1 } END { exit !full }'; } # less than 100 MB free
no_connection='(warning|error).*(connection|resolution|timed out|proxy|from versions: none)'
# pip's last error. After "ERROR: Exception:", and in the logs of other programs, it is the last line that isn't empty.
last_error() { { grep -s '^ERROR' "$log" | grep -v Exception || grep -s . "$log"; } | tail -n 1 | cut -c1-160; }

if log_has 'No space left' || disk_is_full; then
  why="the disk is full. Make room (README.md says how much)"
elif log_has 'ensurepip'; then
  why="this Python comes without venv. Install it (Debian, Ubuntu: apt install python3-venv)"
elif log_has -iE "$no_connection"; then
  why="pip reached no package index. Check the network"
elif log_has 'No matching distribution'; then
  package=$(sed -n 's/^ERROR: No matching distribution found for //p' "$log")
  why="this Python and machine have no build of $package. Run 'make clean', name another Python (make PYTHON=python3.12 setup)"
else
  error=$(last_error)
  why="${error:-the failing program printed nothing}. Mend that or run 'make clean'"
fi

echo "Set-up stopped: $why, then run 'make $target' again (details: $log)." >&2
exit 1
