#!/bin/sh
# A program that `backstitch worker exec` has carry out calls for `tests/crash/workers.rs`; see `worker.py`.
#
#     program.sh DIR HABIT
set -u

leave() {
    cat >"$folder/$1.part"
    mv "$folder/$1.part" "$folder/$1"
}

folder=$1 habit=$2
read -r input
# Its worker was killed before it could say anything.
[ -n "$input" ] || exit 1
n=${input#[}
n=${n%]}
if [ "$BACKSTITCH_ACTIVITY" = late ]; then
    printf %s "$BACKSTITCH_TOKEN" | leave token
    exit 75
fi
printf '{"key":"%s","attempt":%s,"traceparent":"%s"}' \
    "$BACKSTITCH_IDEMPOTENCY_KEY" "$BACKSTITCH_ATTEMPT" "$TRACEPARENT" | leave "begun-$n-$BACKSTITCH_ATTEMPT"
case $habit in
    quick) sleep 0.02 ;;
    flaky)
        if [ "$BACKSTITCH_ATTEMPT" = 1 ]; then
            echo "the first time" >&2
            exit 1
        fi
        ;;
    patient)
        trap ': | leave "cancelled-$n"; exit 1' TERM
        while [ ! -e "$folder/open-$n" ]; do sleep 0.01; done
        ;;
esac
echo "$n"
