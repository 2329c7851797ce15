#!/bin/sh
# A film of predicted pictures by ffmpeg (x264, crf 28, 1280x650): of one folder, or of four side by side (2x2).
#   sh tool/make_video.sh FOLDER FILM.mp4
#   sh tool/make_video.sh FOLDER FOLDER FOLDER FOLDER FILM.mp4
# Pictures are the folders' *.png files in the order of their names (EXTENSION=jpg: others), FPS of them a second (25).
set -eu

die() {
    echo "error: $*" >&2
    exit 2
}

[ $# -eq 2 ] || [ $# -eq 5 ] || die "expected one folder or four, then the film's file, got $# arguments"
command -v ffmpeg >/dev/null 2>&1 || die "ffmpeg is not installed, and it makes the film"
for film in "$@"; do :; done
[ ! -e "$film" ] || die "$film: there is such a file, expected a new name"
pictures=${EXTENSION:-png}

# Refuses a folder without pictures: ffmpeg would leave an empty film.
look_for() {
    set -- "$1"/*."$pictures"
    [ -e "$1" ] || die "${1%/*}: no *.$pictures file there"
}

encode() {
    ffmpeg -hide_banner -loglevel warning -n "$@" -c:v libx264 -crf 28 -pix_fmt yuv420p "$film"
}

if [ $# -eq 2 ]; then
    look_for "$1"
    encode -framerate "${FPS:-25}" -pattern_type glob -i "$1/*.$pictures" -vf scale=1280:650,setsar=1
else
    for folder in "$1" "$2" "$3" "$4"; do look_for "$folder"; done
    quarter='scale=640:325,setsar=1,format=yuv444p'
    encode -framerate "${FPS:-25}" -pattern_type glob -i "$1/*.$pictures" \
        -framerate "${FPS:-25}" -pattern_type glob -i "$2/*.$pictures" \
        -framerate "${FPS:-25}" -pattern_type glob -i "$3/*.$pictures" \
        -framerate "${FPS:-25}" -pattern_type glob -i "$4/*.$pictures" \
        -filter_complex "[0]${quarter}[a];[1]${quarter}[b];[2]${quarter}[c];[3]${quarter}[d];[a][b]hstack[top];[c][d]hstack[low];[top][low]vstack"
fi
