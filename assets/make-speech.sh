#!/bin/sh
# Makes assets/speech.opus: a minute of speech about the project, three voices in turn.
#
# Needs espeak-ng, sox and opusenc (opus-tools). Usage: assets/make-speech.sh [OUTPUT]
# Each line of speech.txt is "voice|pitch|words a minute|sentence". The sentences are spoken one
# after the other with pauses between them, brought to one loudness, and padded or cut to 60 s.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
output=${1:-$here/speech.opus}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# -R keeps sox's random numbers (dither) the same in every run.
sox -R -n -r 48000 -b 16 -c 1 "$work/pause.wav" trim 0 0.45
set --
count=100
while IFS='|' read -r voice pitch speed sentence; do
    espeak-ng -v "$voice" -p "$pitch" -s "$speed" -w "$work/raw.wav" "$sentence"
    # A speaker's own silence before and after the sentence would make the pauses uneven.
    sox -R "$work/raw.wav" -r 48000 -b 16 -c 1 "$work/$count.wav" \
        silence 1 0.01 0.3% reverse silence 1 0.01 0.3% reverse gain -6 highpass 60 gain -n -4
    set -- "$@" "$work/$count.wav" "$work/pause.wav"
    count=$((count + 1))
done <"$here/speech.txt"

sox -R "$@" "$work/all.wav"
echo "spoken: $(soxi -D "$work/all.wav") s" >&2
sox -R "$work/all.wav" "$work/minute.wav" pad 0 10 trim 0 60
# A fixed serial number makes the same input give the same file.
opusenc --quiet --speech --bitrate 32 --framesize 20 --serial 2305 \
    --title "Stentor test speech" --artist "Stentor" --comment "LICENSE=CC0-1.0" \
    "$work/minute.wav" "$output"
echo "made: $output, $(wc -c <"$output") bytes" >&2
