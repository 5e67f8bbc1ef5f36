# Runs the server, and stops it when the host is gone, however it went.
#
# Standard input is a pipe that only the host holds. A line on it, or its end, stops the server:
# `fast`, `immediate`, or at the end what $1 says. Arguments: the signal for the end of the pipe, a
# directory to remove afterwards (or ''), another one (or ''), the server's command.
#
# Signals are the host's affair: a ^C in the terminal must let it finish first.
trap '' INT TERM HUP
at_end=$1 socket_dir=$2 doomed_dir=$3
shift 3
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(
    how=
    read -r how <&3
    case $how in
        fast) signal=INT ;;
        immediate) signal=QUIT ;;
        *) signal=$at_end ;;
    esac
    kill -s "$signal" "$server"
    # A shutdown that hangs for 30 s is cut short: the write-ahead log makes that safe.
    tries=0
    while kill -0 "$server" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -eq 150 ] && kill -s QUIT "$server"
        sleep 0.2 3<&-
    done
) &
watcher=$!
wait "$server"
status=$?
kill -s KILL "$watcher" 2>/dev/null
[ -n "$socket_dir" ] && rm -rf "$socket_dir"
[ -n "$doomed_dir" ] && rm -rf "$doomed_dir"
exit "$status"
